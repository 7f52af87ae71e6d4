"""What a child process does to see whether MPI takes device pointers: real calls, whose results are compared.

``python -m gridnn.comm.transports.probe_calls`` makes them; `gridnn.comm.transports.probe` starts and judges it. Never
the run itself: an MPI library without CUDA support ends the process that hands it a device pointer.
"""

from __future__ import annotations

import itertools
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from gridnn.comm.transports.base import Work
from gridnn.comm.transports.capabilities import Capabilities, capabilities_of

SAYS = "gridnn-probe: "
TRYING, STARTED, PASSED = "trying ", "ranks: ", "all calls passed"
LIMIT = 60  # seconds
ELEMENTS = (257, 1 << 18)  # one that is sent at once, and one that libraries move by other means (1 MiB)
Array = Any
Begun = tuple[Work, Array, np.ndarray]
Call = Callable[[], Begun]


def say(text: str) -> None:
    """A line for the parent; it must be out before the next call, which may crash."""
    print(SAYS + text, flush=True)


class Calls:
    """Every call that the CUDA-aware transport makes, by the transport itself, on ``size`` float32 of every rank.

    The numbers are known. Of the ``backend``, one with a device, ``asarray`` and ``to_host`` are used; what the
    transport uses beyond the calls that all libraries have, its ``capabilities`` say.
    """

    def __init__(self, comm: Any, backend: Any, capabilities: Capabilities, size: int) -> None:
        from gridnn.comm.transports.cuda_aware import CudaAwareTransport

        self.transport, self.backend = CudaAwareTransport(comm, backend.device, capabilities), backend
        self.vector, self.size = capabilities.vector_reduce_scatter, size
        self.rank, self.ranks = comm.Get_rank(), comm.Get_size()
        self.sizes = [size // self.ranks + (1 if rank % 2 else -1) for rank in range(self.ranks)]  # of uneven parts
        self.sizes[-1] = size - sum(self.sizes[:-1])
        self.mine = self._part(self.sizes)

    def check(self) -> str | None:
        """The first call that gave wrong numbers; None if all are right."""
        for name, call in self._calls():
            say(f"{TRYING}{name} of {self.size:,} float32")
            work, array, wanted = call()
            work.wait()
            if not np.array_equal(self.backend.to_host(array), wanted):
                return f"{name} of {self.size:,} float32 gave wrong numbers"
        self.transport.free()
        return None

    def _calls(self) -> Iterator[tuple[str, Call]]:
        yield "Isend and Irecv", self._exchange
        yield "Allreduce", self._all_reduce
        if not self.vector:
            yield "Reduce_scatter_block", lambda: self._reduce_scatter([self.size // self.ranks] * self.ranks)
        yield "Reduce_scatter" if self.vector else "Reduce", lambda: self._reduce_scatter(self.sizes)
        yield "Allgatherv", self._all_gather
        yield "Alltoallv", self._all_to_all

    # -- the calls: what is begun, what is there afterwards, and what should be --------------------------------

    def _exchange(self) -> Begun:
        receive, before, after = self._room(self.size), (self.rank - 1) % self.ranks, (self.rank + 1) % self.ranks
        work = self.transport.exchange([(after, self._values())], [(before, receive)])
        return work, receive, self._host(before)

    def _all_reduce(self) -> Begun:
        array = self._values()
        return self.transport.all_reduce(array, at_once=True), array, self._sum()

    def _reduce_scatter(self, sizes: list[int]) -> Begun:
        send, receive = self._values(slice(sum(sizes))), self._room(sizes[self.rank])
        work = self.transport.reduce_scatter(send, receive, sizes, at_once=True)
        return work, receive, self._sum()[self._part(sizes)]

    def _all_gather(self) -> Begun:
        receive = self._room(self.size)
        work = self.transport.all_gather(self._values(self.mine), receive, self.sizes, at_once=True)
        parts = itertools.pairwise(itertools.accumulate(self.sizes, initial=0))
        return work, receive, np.concatenate([self._host(rank)[slice(*part)] for rank, part in enumerate(parts)])

    def _all_to_all(self) -> Begun:
        parts = [self.sizes[self.rank]] * self.ranks
        receive = self._room(sum(parts))
        work = self.transport.all_to_all(self._values(), self.sizes, receive, parts, at_once=True)
        return work, receive, np.concatenate([self._host(rank)[self.mine] for rank in range(self.ranks)])

    # -- numbers ---------------------------------------------------------------------------------------------

    def _host(self, rank: int) -> np.ndarray:
        """What ``rank`` has: whole numbers, so that sums are exact."""
        return (np.arange(self.size) % 61 + 100 * rank).astype(np.float32)

    def _sum(self) -> np.ndarray:
        return sum(self._host(rank) for rank in range(self.ranks))

    def _values(self, part: slice = slice(None)) -> Array:
        return self.backend.asarray(self._host(self.rank)[part])

    def _room(self, size: int) -> Array:
        return self.backend.asarray(np.full(size, -1, np.float32))

    def _part(self, sizes: list[int]) -> slice:
        """This rank's part of an array in parts of ``sizes``."""
        start = sum(sizes[: self.rank])
        return slice(start, start + sizes[self.rank])


def main() -> None:
    """Make all calls, say what is wrong, and end in time whatever MPI does."""
    signal.alarm(LIMIT + 5)  # also ends the process inside a call of MPI, and when its parent is gone
    from mpi4py import MPI

    from gridnn.kernels import get_backend

    comm = MPI.COMM_WORLD
    say(f"{STARTED}{comm.Get_size()}")
    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    backend = get_backend("cupy", local_rank=node.Get_rank(), conv="gemm")
    capabilities = capabilities_of(MPI.Get_library_version())
    for size in ELEMENTS:
        try:
            wrong = Calls(comm, backend, capabilities, size).check()
        except MPI.Exception as error:
            wrong = f"MPI refuses device memory: {error}"
        if wrong:
            say(wrong)
            comm.Abort(1)
    say(PASSED)


if __name__ == "__main__":
    try:
        main()
    except Exception as error:  # the parent shows one line of it; MPI must not wait for the other ranks
        say(f"{type(error).__name__}: {error}".splitlines()[0])
        sys.stdout.flush()
        raise
