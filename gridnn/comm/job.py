"""The job: MPI from its start to its end, whatever ends it."""

from __future__ import annotations

import atexit
import math
import os
import platform
import signal
import sys
import threading
import time
import traceback
from array import array
from collections.abc import Callable
from typing import Any, NoReturn

from gridnn.comm.flight import RecordWriter, name_job
from gridnn.comm.launcher import launch, tolerant
from gridnn.comm.peers import Peers, Place
from gridnn.comm.ranks import Ranks
from gridnn.comm.recorder import Recorder
from gridnn.comm.watcher import Watcher
from gridnn.errors import UserError

FAILED, MISUSED, STALLED = 1, 2, 3  # exit status: something broke or differs; the user's mistake; --stall-exit
# Seconds in which all ranks must fail for it to count as one failure of all. Mistakes are found while ranks read data
# and import modules, some of them late on busy cores; a defect must end the job at once.
AGREEMENT, MISUSE_AGREEMENT = 1.0, 2.5
# What Slurm, mpirun and CPU limits warn with: a job can ask to end by itself after them.
HELD = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
LEAVING = 5.0  # seconds that MPI may take to be left after a signal
REPEATED = 1.0  # seconds within which launcher and scheduler may both pass the same signal on


class Job(Ranks):
    """The ranks from their start to their end.  Made once, by `run`.

    Attributes
    ----------
    survivors : Survivors or None
        What is done about ranks that die (see `survive`); None: their death is that of the job.
    """

    def __init__(self) -> None:
        self.survivors: Any = None
        self._answers: list[tuple[array, array]] = []
        self._holding, self._held = False, {}  # whether signals are held, and when which of them came first
        self._watcher: Watcher | None = None
        self._writer: RecordWriter | None = None
        self._limits: tuple[float, float] | None = None  # of the watcher
        self._ending, self._status = threading.Lock(), 0  # taken by whoever ends this process; after it no MPI
        super().__init__()

    def survive(self, respawn: bool) -> Any:
        """From now on the death of a rank is an error (`Survivors`), not the end; all ranks call it together.

        Raises
        ------
        UserError
            If this MPI does not survive it.
        """
        from gridnn.comm.survivors import Survivors

        self.survivors = Survivors(self, respawn)
        return self.survivors

    def replace(self, comm: Any) -> None:
        if self._watcher:
            self._watcher.stop()
        super().replace(comm)

    def settle(self) -> None:
        super().settle()
        if self._limits:
            self.watch(*self._limits)

    def watch(self, warn: float = math.inf, end: float = math.inf) -> None:
        """Record what this rank does, and look after ranks that wait too long (`Watcher`); all ranks call it.

        It may be called again when ``comm`` is another one.
        """
        self._limits = warn, end
        if self._watcher:
            self._watcher.stop()
            self._writer.peers.remove_ended()
        name = self.comm.bcast((self._writer.job if self._writer else name_job()) if self.rank == 0 else None)
        if not self.recorder.path:
            self.recorder = Recorder(name, self.rank)
        places = self.comm.allgather(Place(platform.node(), self.node, self.recorder.path, os.getpid()))
        peers = Peers(places, self.rank, self.recorder)
        apart = len({one.node_id for one in places}) > 1 or not all(one.path for one in places)
        asks = apart and self._mpi.Query_thread() == self._mpi.THREAD_MULTIPLE
        if self._writer is None:  # of programs that only import gridnn, before MPI is left
            atexit.register(self._close_record, failed=False)
        self._writer = RecordWriter(name, peers)
        self._watcher = Watcher(
            peers,
            self._writer,
            lambda text: self._say(text, True),
            self._stall,
            warn=warn,
            end=end,
            comm=self.comm.Dup() if asks else None,
        )

    def _stall(self, text: str) -> None:
        """End the job that stands still; called by the watcher."""
        if self._ending.acquire(blocking=False):
            self._say(text, True)
            self._abort(STALLED)

    def _close_record(self, failed: bool = True) -> None:
        """Nobody is to be told any more what this rank does; of a job that has ``failed``, nor any of its node."""
        if self._watcher:
            self._watcher.stop(finished=not failed)
        if self._writer and failed:
            self._writer.peers.clear()
        self.recorder.close()

    def record(self, reason: str) -> None:
        """Write down what this rank did last, and the ranks of its node that cannot (`RecordWriter`)."""
        if self._writer:
            self._writer.write(reason)

    def hold_signals(self) -> Callable[[], int]:
        """From now on the first of each of `HELD` does not end the job, which is to end by itself.

        A second SIGTERM ends it at once. What is returned gives the number of the signal that has reached this rank; 0:
        none.
        """
        self._holding = True
        return lambda: next(iter(self._held), 0)

    def _agree(self, status: int) -> bool | None:
        """Whether all ranks end with ``status``; None if not all of them end in time."""
        mine, all_of_them = array("i", [status, -status]), array("i", [0, 0])
        if self._failures == self._mpi.COMM_NULL:
            return None
        self._answers.append((mine, all_of_them))  # MPI may still write there
        deadline = time.monotonic() + (MISUSE_AGREEMENT if status == MISUSED else AGREEMENT)
        try:
            request = self._failures.Iallreduce(mine, all_of_them, self._mpi.MAX)
            while not request.Test():
                if time.monotonic() > deadline:
                    return None
                time.sleep(0.002)
        except self._mpi.Exception:  # a rank has died
            return None
        return all_of_them[0] == -all_of_them[1]

    def fail(self, text: str, status: int) -> None:
        """Say once what went wrong; returns after a user's mistake on all ranks, otherwise ends the whole job."""
        if self.joins and not self.survivors:
            os._exit(status)  # one more death, for those who started this rank
        together = self._agree(status)
        if self.speaks or not together:
            self._say(text, together)
        if not (together and status == MISUSED):
            self.record(f"rank {self.rank} failed: {text.splitlines()[-1]}")
            self._abort(status, wait=bool(together) and not self.speaks)

    def described(self, error: BaseException) -> str:
        """What is said of an error that is not the user's: a death is none of ours."""
        if isinstance(error, self._mpi.Exception) and tolerant(os.environ) and not self.survivors:
            return f"a rank has died, or MPI failed ({error}): --survive goes on, --resume from a checkpoint"
        return "".join(traceback.format_exception(error)).rstrip()

    def end(self, status: int) -> NoReturn:
        """Leave MPI and exit."""
        self._close_record(failed=False)
        sys.stdout.flush()
        if self.survivors:
            self._leave(status)
        if status:
            self._agree(status)  # launchers end a job at its first bad exit: not before rank 0 has spoken
            # even if MPI cannot be left: messages of the failed step may be under way
            timer = threading.Timer(2.0, os._exit, (status,))
            timer.daemon = True
            timer.start()
        self._status = status
        self._ending.acquire()
        self._mpi.Finalize()
        sys.exit(status)

    def _leave(self, status: int) -> NoReturn:
        """Exit without leaving MPI, which may wait for ranks that died, when all others are about to do so."""
        from gridnn.comm.survivors import leave

        if status:
            self._agree(status)
        self._status = status
        self._ending.acquire()
        leave(status)

    def _say(self, text: str, for_all: bool | None) -> None:
        by = "" if for_all else f"rank {self.rank} of {self.size}: "
        print(f"gridnn: {by}{text}", file=sys.stderr, flush=True)

    def _abort(self, status: int, wait: bool = False) -> NoReturn:
        self._close_record()
        sys.stdout.flush()
        if self.size > 1:
            time.sleep(2.0 if wait else 0.1)  # for the launcher to have read what was said
            self.comm.Abort(status)
        os._exit(status)

    def _signalled(self, number: int) -> None:
        """Hold a signal, or end after it; called by the thread that waits for signals."""
        now = time.monotonic()
        again = number == signal.SIGTERM and now > self._held.get(number, now) + REPEATED
        if not self._holding or number not in HELD or again:
            if not self._ending.acquire(blocking=False):  # all is done, and MPI is being left
                time.sleep(LEAVING)
                os._exit(self._status)
            self._tell_signal(number)
            self._close_record()
            self._stopped(number)
        self._held.setdefault(number, now)
        self._tell_signal(number)

    def _tell_signal(self, number: int) -> None:
        self.record(f"{signal.Signals(number).name} reached rank {self.rank}")

    def _stopped(self, number: int) -> NoReturn:
        """End after a signal, from the thread that waits for them."""
        threads = self._mpi.Query_thread() == self._mpi.THREAD_MULTIPLE
        agreed = self._agree(128 + number) if threads else None
        if agreed is None or (agreed and self.speaks):  # if some end otherwise, they have said why
            self._say(f"stopped by {signal.Signals(number).name}", agreed)
        if agreed is None:
            self._abort(128 + number)
        sys.stdout.flush()
        os._exit(128 + number)


def run(body: Callable[[Job], int | None]) -> NoReturn:
    """Start MPI, do ``body`` on every rank, and exit with what it returns (None: 0).

    A `UserError` on all ranks is printed once and every rank exits with status 2. A `UserError` on some ranks ends the
    job with status 2, any other exception ends it with that rank's traceback and status 1. SIGINT, SIGTERM and SIGUSR1
    end it with one line and status 130, 143 or 138, unless they are held (`Job.hold_signals`).
    """
    try:
        job = Job()
    except UserError as error:
        if launch(os.environ).rank:
            time.sleep(1.0)  # launchers end a job at its first bad exit: the first rank speaks before
        else:
            print(f"gridnn: {error}", file=sys.stderr, flush=True)
        sys.exit(MISUSED)
    _on_signals(job._signalled)
    try:
        status = body(job) or 0
    except UserError as error:  # inside the clause the frames live on, and with them the buffers of started messages
        job.fail(str(error), MISUSED)
        job.end(MISUSED)
    except BaseException as error:  # also a rank that just leaves (SystemExit): the others would wait for it for ever
        job.fail(job.described(error), FAILED)
    job.end(status)


def _on_signals(receive: Callable[[int], None]) -> None:
    """Call ``receive`` with the number of every SIGINT, SIGTERM and SIGUSR1, in a thread of its own.

    Python's own handlers wait for the main thread to come back from MPI, which may be never.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    for number in (signal.SIGINT, *HELD):
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

    def wait() -> None:
        while True:
            number = os.read(reading, 1)[0]
            try:
                receive(number)
            except Exception:  # of MPI, which another rank's death has left unusable
                os._exit(128 + number)

    threading.Thread(target=wait, daemon=True).start()
