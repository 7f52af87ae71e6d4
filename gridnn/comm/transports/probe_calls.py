"""What a child process does to see whether MPI takes device pointers: real calls, whose results are compared.

``python -m gridnn.comm.transports.probe_calls`` makes them; `gridnn.comm.transports.probe` starts and judges it. Never
the run itself: an MPI library without CUDA support ends the process that hands it a device pointer.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from gridnn.comm.transports.capabilities import Capabilities, capabilities_of

SAYS = "gridnn-probe: "
TRYING, STARTED, PASSED = "trying ", "ranks: ", "all calls passed"
LIMIT = 60  # seconds
ELEMENTS = (257, 1 << 18)  # one that is sent at once, and one that libraries move by other means (1 MiB)
Array = Any


def say(text: str) -> None:
    """A line for the parent; it must be out before the next call, which may crash."""
    print(SAYS + text, flush=True)


class Calls:
    """Every kind of call that the CUDA-aware transport makes, on device memory, with numbers that are known.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
        One rank or more.
    backend : kernels.Backend
        One with a device; ``asarray``, ``to_host``, ``synchronize`` and ``device.pointer`` are used.
    capabilities : Capabilities
        What is used beyond the portable calls, and so is tested.
    size : int
        Elements (float32) of every rank's array.
    """

    def __init__(self, comm: Any, backend: Any, capabilities: Capabilities, size: int) -> None:
        from mpi4py import MPI

        self.mpi, self.comm, self.backend, self.capabilities, self.size = MPI, comm, backend, capabilities, size
        self.rank, self.ranks = comm.Get_rank(), comm.Get_size()
        self.sizes = [size // self.ranks + (1 if rank % 2 else -1) for rank in range(self.ranks)]  # of uneven parts
        self.sizes[-1] = size - sum(self.sizes[:-1])
        self.starts = [sum(self.sizes[:rank]) for rank in range(self.ranks)]
        self.mine = slice(self.starts[self.rank], self.starts[self.rank] + self.sizes[self.rank])

    def check(self) -> str | None:
        """The first call that gave wrong numbers; None if all are right."""
        for name, call in self._calls():
            say(f"{TRYING}{name} of {self.size:,} float32")
            array, wanted = call()
            if not np.array_equal(self.backend.to_host(array), wanted):
                return f"{name} of {self.size:,} float32 gave wrong numbers"
        return None

    def _calls(self) -> Iterator[tuple[str, Callable[[], tuple[Array, np.ndarray]]]]:
        yield "Isend and Irecv", self._neighbours
        yield "Allreduce", self._all_reduce
        yield "Allreduce in place", self._all_reduce_in_place
        if self.capabilities.vector_reduce_scatter:
            yield "Reduce_scatter", self._parts
        else:
            yield "Reduce_scatter_block", self._equal_parts
            yield "Reduce", self._reduce
        yield "Allgatherv", self._gather
        yield "Alltoallv", self._all_to_all

    # -- the calls: what is there afterwards, and what should be -----------------------------------------------

    def _neighbours(self) -> tuple[Array, np.ndarray]:
        send, receive = self._values(), self._room(self.size)
        before, after = (self.rank - 1) % self.ranks, (self.rank + 1) % self.ranks
        requests = [self.comm.Irecv(self._buffer(receive), before), self.comm.Isend(self._buffer(send), after)]
        self.mpi.Request.Waitall(requests)
        return receive, self._host(before)

    def _all_reduce(self) -> tuple[Array, np.ndarray]:
        send, receive = self._values(), self._room(self.size)
        self.comm.Allreduce(self._buffer(send), self._buffer(receive))
        return receive, self._sum()

    def _all_reduce_in_place(self) -> tuple[Array, np.ndarray]:
        array = self._values()
        self.comm.Allreduce(self.mpi.IN_PLACE, self._buffer(array))
        return array, self._sum()

    def _equal_parts(self) -> tuple[Array, np.ndarray]:
        part = self.size // self.ranks
        send, receive = self._values(slice(part * self.ranks)), self._room(part)
        self.comm.Reduce_scatter_block(self._buffer(send), self._buffer(receive))
        return receive, self._sum()[part * self.rank : part * (self.rank + 1)]

    def _parts(self) -> tuple[Array, np.ndarray]:
        send, receive = self._values(), self._room(self.sizes[self.rank])
        self.comm.Reduce_scatter(self._buffer(send), self._buffer(receive), self.sizes)
        return receive, self._sum()[self.mine]

    def _reduce(self) -> tuple[Array, np.ndarray]:
        send, receive = self._values(), self._room(self.size)
        for root in range(self.ranks):
            self.comm.Reduce(self._buffer(send), self._buffer(receive) if root == self.rank else None, root=root)
        return receive, self._sum()

    def _gather(self) -> tuple[Array, np.ndarray]:
        send, receive = self._values(self.mine), self._room(self.size)
        self.comm.Allgatherv(self._buffer(send), self._buffer(receive, self.sizes, self.starts))
        parts = zip(self.starts, self.sizes, strict=True)
        wanted = [self._host(rank)[start : start + size] for rank, (start, size) in enumerate(parts)]
        return receive, np.concatenate(wanted)

    def _all_to_all(self) -> tuple[Array, np.ndarray]:
        part = self.sizes[self.rank]
        send, receive = self._values(), self._room(part * self.ranks)
        places = [part] * self.ranks, [part * rank for rank in range(self.ranks)]
        self.comm.Alltoallv(self._buffer(send, self.sizes, self.starts), self._buffer(receive, *places))
        return receive, np.concatenate([self._host(rank)[self.mine] for rank in range(self.ranks)])

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

    def _buffer(self, array: Array, *parts: list[int]) -> list[Any]:
        """``array`` as MPI gets it: an address, once the device has written there; with sizes and starts of parts."""
        self.backend.synchronize()
        memory = self.mpi.buffer.fromaddress(self.backend.device.pointer(array), array.nbytes)
        return [memory, *([parts] if parts else []), self.mpi.FLOAT]


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
