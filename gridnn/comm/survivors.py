"""What is left of a job when ranks die: MPI's fault tolerance (ULFM, Bland et al. 2013), and nothing of it elsewhere.

A death shows as an error of some call on some ranks. They revoke all communicators, so that nobody waits in one that
the dead rank was no member of; whoever is left shrinks the job, or starts new ranks in place of the dead ones.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, NoReturn

from mpi4py import MPI

from gridnn.comm.launcher import JOINING, tolerant
from gridnn.errors import UserError

MENDING, RESPAWNING = 60.0, 180.0  # seconds to find each other after a death, and to start new ranks besides
NOTICING = 0.3  # seconds in which a death is noticed
ABANDONING = 1.0  # seconds that messages of revoked communicators have to end


class Member(NamedTuple):
    """A process of a job: what tells it from all others, and its node."""

    identity: str
    node: str
    process: int


class Survivors:
    """The ranks of a job over deaths; all ranks make it together.

    Parameters
    ----------
    job : Job
        Its communicator becomes that of the ranks that live.
    respawn : bool
        Whether new ranks are started in place of those that died.

    Attributes
    ----------
    error : type
        What any call of MPI raises after a death, whichever its class.
    communicators : list of Communicator
        Those of the grids: all that somebody may wait in is revoked after a death.
    members : list of Member
        By rank.
    gone : set of (str, int)
        Node and process of those that have died.

    Raises
    ------
    UserError
        If this MPI does not survive the death of a rank.
    """

    error = MPI.Exception

    def __init__(self, job: Any, respawn: bool = False) -> None:
        refuse_without_ulfm(job.library, os.environ)
        self.job, self.respawn = job, respawn
        self.communicators: list[Any] = []
        self._kept: list[Any] = []  # what MPI may still write to
        self._parted = False  # whether the last agreement said that the job is to be mended
        self._me = Member(uuid.uuid4().hex, platform.node(), os.getpid())
        self.gone: set[tuple[str, int]] = set()
        self._meet()

    def _meet(self) -> None:
        members = self.job.comm.allgather(self._me)
        self.agree()
        self.members: list[Member] = members

    def explains(self, error: BaseException) -> bool:
        """Whether an error may be that of a death: of MPI, or any other one when a rank has died.

        Open MPI now and then gives memory that nobody has written for a good answer, where a rank died while it was
        sent; then the error is that of whoever reads it.
        """
        until = time.monotonic() + NOTICING
        while not isinstance(error, self.error):
            if self.job.comm.Get_failed().Get_size():
                return True
            if time.monotonic() > until:
                return False
            time.sleep(0.01)
        return True

    @staticmethod
    def is_revoked(error: BaseException) -> bool:
        """Whether an error says only that another rank has revoked the communicator."""
        return isinstance(error, MPI.Exception) and error.Get_error_class() == MPI.ERR_REVOKED

    def bcast_first(self, value: Any) -> Any:
        """The ``value`` of the first rank that has one, on all ranks; None if none has."""
        having = [rank for rank, has in enumerate(self.job.comm.allgather(value is not None)) if has]
        return self.job.comm.bcast(value, having[0]) if having else None

    def agree(self) -> None:
        """Return on all ranks if all of them live and are here; else `error` is raised on all of them."""
        self._parted = True
        if not self.job.comm.Agree(1):
            raise MPI.Exception(MPI.ERR_REVOKED)  # another one mends the job
        self._parted = False

    def mend(self) -> list[str]:
        """Make the job one of the living; returns who died, as ``rank 3 (node7)``: nobody, if it was another error."""
        self.job.record("an error of MPI, as after a death")
        with limited(
            RESPAWNING if self.respawn else MENDING, "those who are left do not find each other after a death"
        ):
            while True:
                self._revoke()
                with suppress(self.error):  # another one dies: once more
                    return self._mended()

    def _mended(self) -> list[str]:
        if not self._parted:  # others may be waiting in `agree`, which must not be taken for Shrink
            with suppress(self.error):
                self.job.comm.Agree(0)
            self._parted = True
        comm = self.job.comm.Shrink()
        self.job.replace(comm)  # so that it is revoked, too, if another one dies
        self.agree()
        living = set(comm.allgather(self._me))
        died = [rank for rank, member in enumerate(self.members) if member not in living]
        told = [f"rank {rank} ({self.members[rank].node})" for rank in died]
        if died and self.respawn and not self._start(comm, died):
            told.append("for which no new ranks can be started")
        self.gone |= {(self.members[rank].node, self.members[rank].process) for rank in died}
        self.job.settle()
        self._meet()
        return told

    def _start(self, comm: MPI.Comm, died: Sequence[int]) -> bool:
        """Start as many ranks as ``died``, each in the place of one; False if they cannot be started."""
        info = MPI.Info.Create({"PMIX_ENVAR": f"{JOINING}=1", "wdir": os.getcwd()})
        command, *arguments = [sys.executable, *sys.orig_argv[1:]]
        try:
            between = comm.Spawn(command, arguments, len(died), info)
        except self.error:
            self.agree()  # all live: there is no place for new ones
            return False
        finally:
            info.Free()
        together = between.Merge(False)
        together.bcast(died)
        self.job.replace(together.Split(0, self.members.index(self._me)))
        return True

    def _revoke(self) -> None:
        """Let nobody wait any more, and break off what was started."""
        for communicator in self.communicators:
            communicator.revoke()
        for comm in self.job.communicators:
            with suppress(self.error):
                comm.Revoke()
        until = time.monotonic() + ABANDONING
        for communicator in self.communicators:
            self._kept += communicator.abandon(until)
        self.communicators.clear()


def join() -> MPI.Comm:
    """The communicator of the job whose dead rank this process was started for."""
    with limited(MENDING, "the ranks that started this one are gone"):
        together = MPI.Comm.Get_parent().Merge(True)
        died = together.bcast(None)
        return together.Split(0, died[together.Get_rank() - (together.Get_size() - len(died))])


@contextmanager
def limited(seconds: float, text: str) -> Iterator[None]:
    """Inside, where calls of MPI may wait for ever, this process ends after so many seconds, with the ``text``."""

    def end() -> None:
        print(f"gridnn: {text} ({seconds:g} s): --resume goes on from a checkpoint", file=sys.stderr, flush=True)
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def refuse_without_ulfm(library: str, env: Any) -> None:
    """Refuse an MPI library, or a job, in which the death of a rank is that of all."""
    if not library.startswith("Open MPI") or not hasattr(MPI.Comm, "Shrink"):
        raise UserError(
            f"--survive needs an MPI whose ranks survive each other (ULFM), but MPI here is {library}: use Open MPI 5 "
            "and mpi4py 4 (docs/survive.md)"
        )
    if not tolerant(env):
        raise UserError(
            "--survive needs ranks that survive each other: start them with mpirun --with-ft ulfm (srun and other "
            "launchers end a job with its first rank)"
        )


def leave(status: int) -> NoReturn:
    """Exit without MPI_Finalize, which may wait for the dead; the launcher is told that this is no accident."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libpmix.so.2").PMIx_Finalize(None, 0)
    os._exit(status)
