"""The stall inspector: a thread of every rank that looks, once a second, whether its own rank waits for too long.

On a node the ranks read each other's records. Ranks of other nodes are asked by messages of the watchers, on a
communicator of their own, and only where a rank has waited too long: a job that does not stall sends none.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from gridnn.comm.flight import RecordWriter
from gridnn.comm.peers import RUNS, Peers, RankState, tell
from gridnn.comm.recorder import Cell

QUESTION, ANSWER = 1, 2  # tags
LOOK, WRITE, WENT_ON = "look", "write", "went on"  # questions
TICK = 1.0  # seconds between two looks, at the most
PATIENCE = 2.0  # seconds in which others must answer
LONGER = 5.0  # seconds that writing may take before a job is ended that stands still anyway
GRACE = 15.0  # seconds after which another rank ends a job, if the one that should has not
POLL = 0.02  # seconds between two looks for answers


class Watcher:
    """Watches this rank; made by all ranks together, each starts and stops its own.

    Parameters
    ----------
    peers : Peers
        Where the ranks are, for those that ``comm`` has.
    writer : RecordWriter
        Writes the records.
    say : callable
        Prints a line.
    leave : callable
        Prints a line and ends the job.
    warn, end : float
        After how many seconds of waiting this is told, and ends the job; inf: never.
    comm : mpi4py.MPI.Comm, optional
        Of the watchers alone, for ranks whose records cannot be read; None: these are not asked.
    """

    def __init__(
        self,
        peers: Peers,
        writer: RecordWriter,
        say: Callable[[str], None],
        leave: Callable[[str], None],
        *,
        warn: float = math.inf,
        end: float = math.inf,
        comm: Any = None,
    ) -> None:
        self.peers, self.writer, self.comm = peers, writer, comm
        self.warn, self.end, self._say, self._leave = warn, end, say, leave
        self.tick = max(0.05, min(TICK, warn / 4, end / 4))
        self.sent = 0  # messages
        self._sends: list[Any] = []
        self._told: tuple[RankState, int] | None = None  # what was told last, until it goes on; since when it waited
        self._asked = 0  # when another rank has told of a stall that goes on; 0: none
        self._claim = -1  # the locked file by which one rank of a node speaks
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="gridnn-watcher", daemon=True)
        self._thread.start()

    def stop(self, finished: bool = False) -> None:
        """End the thread: afterwards it calls nothing of MPI. Where the job has ``finished``, so has a stall."""
        self._stop.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(PATIENCE)
        if finished and self._told:
            self.peers.recorder.beat()
            self._tell_end()
        self._yield()

    def _yield(self) -> None:
        """Let another rank of the node speak."""
        claim, self._claim = self._claim, -1
        if claim >= 0:
            os.close(claim)

    def _watch(self) -> None:
        while not self._stop.wait(self.tick):
            with contextlib.suppress(Exception):  # an inquiry that fails is none; the job goes on
                self._look()

    def _look(self) -> None:
        recorder = self.peers.recorder
        recorder.beat()
        if recorder.cells[Cell.ENDING]:
            return
        self._answer()
        since = recorder.since
        if self._told and self._told[1] != since:
            self._tell_end()
        if time.monotonic_ns() - since < 1e9 * (min(self.warn, self.end) - self.tick):
            return
        own = self.peers.look(self.peers.rank)
        waited = own.seconds if own.waits or (own.reads and self._nobody_waits()) else 0.0
        late = self.end + GRACE * (self.peers.order + 1)  # if the one that speaks does not
        if waited >= self.end and (waited >= late or self._speaks(waited, self.end)):
            self._end_job(own, since)
        elif waited >= self.warn and not self._told and not self._asked and self._speaks(waited, self.warn):
            line = tell(own, self._everyone(own, LOOK))
            if not recorder.cells[Cell.ENDING]:
                self._told = own, since
                self._say(line)

    def _speaks(self, waited: float, limit: float) -> bool:
        """Whether this rank is the one that tells: the first of its node, and not before the nodes before it could."""
        if self._asked or waited < limit + 2 * self.tick * self.peers.order:
            return False
        before = (self.peers.look(rank) for rank in self.peers.here if rank < self.peers.rank)
        if any(one.waits and one.state == RUNS and one.seconds >= limit for one in before):
            return False
        return self._claim >= 0 or self._claimed()

    def _claimed(self) -> bool:
        """Take the lock of the node, which is on the first record that is there; True also where there are no locks."""
        for rank in self.peers.here:
            try:
                file = os.open(self.peers.places[rank].path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                continue
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
                return False
            except OSError:
                os.close(file)
                return True
            self._claim = file
            return True
        return True

    def _tell_end(self) -> None:
        """What was told has come to its end."""
        (own, since), self._told = self._told, None
        seconds = (self.peers.recorder.since - since) / 1e9
        self._say(f"{own.where}: went on after {seconds:.0f} s")
        if not self._stop.is_set():
            self._ask(WENT_ON, "")
        self._yield()

    def _nobody_waits(self) -> bool:
        """Whether no rank of this node waits for others: where all wait for their readers somebody must tell it."""
        return not any(self.peers.look(rank).waits for rank in self.peers.here)

    def _end_job(self, own: RankState, since: int) -> None:
        seen = self._everyone(own, LOOK)
        if self._stop.is_set() or self.peers.recorder.since != since:
            return  # it has gone on meanwhile
        line = tell(own, seen)
        folder = self.writer.write(line, everyone=True, seen=seen, patience=LONGER)
        self._everyone(own, WRITE, line)
        if self.peers.recorder.cells[Cell.ENDING] or self._stop.is_set() or self.peers.recorder.since != since:
            return
        where = f"; gridnn check --last shows what all ranks did ({folder})" if folder else ""
        self._leave(f"{line}; --stall-exit {self.end:g} ends the job{where}")

    # -- other nodes -------------------------------------------------------------------------------------------

    def _everyone(self, own: RankState, question: str, reason: str = "") -> list[RankState]:
        """What all ranks do; those of other nodes are asked, and `PATIENCE` seconds waited for."""
        found = {rank: self.peers.look(rank) for rank in self.peers.here} | {own.rank: own}
        self._ask(question, reason)
        told, until = set(), time.monotonic() + PATIENCE
        while self.comm and len(told) < len(self.peers.away) and time.monotonic() < until and not self._stop.is_set():
            self._answer()
            if self.comm.iprobe(tag=ANSWER):
                rank, answered, seen = self.comm.recv(tag=ANSWER)
                if answered == question:
                    told.add(rank)
                    found.update((one.rank, one) for one in seen if one.rank == rank or one.rank not in told)
            else:
                time.sleep(POLL)
        return [found.get(rank) or self.peers.unseen(rank) for rank in range(len(self.peers.places))]

    def _ask(self, question: str, reason: str) -> None:
        for rank in self.peers.away if self.comm and not self._stop.is_set() else ():
            self._send((self.peers.rank, question, reason), rank, QUESTION)

    def _answer(self) -> None:
        """Answer what the watchers of other nodes ask."""
        while self.comm and not self._stop.is_set() and self.comm.iprobe(tag=QUESTION):
            rank, question, reason = self.comm.recv(tag=QUESTION)
            self._asked = 0 if question == WENT_ON else time.monotonic_ns()
            if question == WENT_ON:
                continue
            if question == WRITE:
                self.writer.write(reason)
            seen = [self.peers.look(other) for other in self.peers.here]
            mine = [one for one in seen if one.rank == self.peers.rank or one.state != RUNS]
            self._send((self.peers.rank, question, mine), rank, ANSWER)
        self._sends = [send for send in self._sends if not send.Test()] if self._sends else []

    def _send(self, message: Any, rank: int, tag: int) -> None:
        self._sends.append(self.comm.isend(message, dest=rank, tag=tag))
        self.sent += 1
