"""One MPI call on device memory, under mpirun: ``python -m standin_driver.calls CALL``.

Prints what rank 0 saw, "right" or "wrong numbers"; an MPI library that touches device memory by the processor ends
with SIGSEGV instead. Which calls do is the capability table's business (gridnn/comm/transports/capabilities.py).
"""

from __future__ import annotations

import sys

import numpy as np
from mpi4py import MPI

from standin_driver.backend import DriverBackend
from standin_driver.library import Driver

SMALL, LARGE = 15, 200_001  # elements a rank: sent at once, and in pieces


class Calls:
    """The calls by name; each returns pairs of (what came, what should have come)."""

    def __init__(self, comm: MPI.Comm, backend: DriverBackend, size: int) -> None:
        self.comm, self.backend, self.size = comm, backend, size
        self.rank, self.ranks = comm.rank, comm.size
        self.after, self.before = (self.rank + 1) % self.ranks, (self.rank - 1) % self.ranks
        self.parts = [size + r for r in range(self.ranks)]
        self.kept = []  # a buffer made of an address keeps nothing, and freed memory is gone at once

    def values(self, rank: int, size: int | None = None) -> np.ndarray:
        return (np.arange(self.size if size is None else size) % 61 + 100 * rank).astype("float32")

    def sum(self, size: int | None = None) -> np.ndarray:
        return np.sum([self.values(r, size) for r in range(self.ranks)], axis=0)

    def room(self, size: int | None = None):
        return self.backend.empty(self.size if size is None else size, "float32")

    def send(self, host):
        self.kept.append(self.backend.asarray(host))
        return self.kept[-1]

    def at(self, array):
        return [MPI.buffer.fromaddress(array.ptr, array.nbytes), MPI.FLOAT]

    def vector(self, array, sizes):
        return [MPI.buffer.fromaddress(array.ptr, array.nbytes), sizes, MPI.FLOAT]

    # -- messages --------------------------------------------------------------------------------------------

    def Sendrecv(self):
        room, mine = self.room(), self.send(self.values(self.rank))
        self.comm.Sendrecv(self.at(mine), self.after, recvbuf=self.at(room), source=self.before)
        return room.host(), self.values(self.before)

    def Isend_Irecv(self):
        room, mine = self.room(), self.send(self.values(self.rank))
        requests = [self.comm.Irecv(self.at(room), self.before), self.comm.Isend(self.at(mine), self.after)]
        MPI.Request.Waitall(requests)
        return room.host(), self.values(self.before)

    def _bcast(self, call, wait):
        array = self.send(self.values(self.rank))
        wait(call(self.at(array), root=self.ranks - 1))
        return array.host(), self.values(self.ranks - 1)

    def Bcast(self):
        return self._bcast(self.comm.Bcast, lambda _: None)

    def Ibcast(self):
        return self._bcast(self.comm.Ibcast, MPI.Request.Wait)

    # -- sums ------------------------------------------------------------------------------------------------

    def _all_reduce(self, call, wait, in_place=False):
        mine = self.send(self.values(self.rank))
        room = mine if in_place else self.room()
        wait(call(MPI.IN_PLACE if in_place else self.at(mine), self.at(room)))
        return room.host(), self.sum()

    def Allreduce(self):
        return self._all_reduce(self.comm.Allreduce, lambda _: None)

    def Allreduce_in_place(self):
        return self._all_reduce(self.comm.Allreduce, lambda _: None, in_place=True)

    def Iallreduce(self):
        return self._all_reduce(self.comm.Iallreduce, MPI.Request.Wait)

    def Allreduce_init(self):
        return self._all_reduce(self.comm.Allreduce_init, lambda request: request.Start() or request.Wait())

    def _reduce(self, call, wait):
        room = self.room()
        wait(call(self.at(self.send(self.values(self.rank))), self.at(room)))
        return (room.host(), self.sum()) if self.rank == 0 else (0, 0)

    def Reduce(self):
        return self._reduce(self.comm.Reduce, lambda _: None)

    def Ireduce(self):
        return self._reduce(self.comm.Ireduce, MPI.Request.Wait)

    def Reduce_scatter_block(self):
        whole = self.size * self.ranks
        room = self.room()
        self.comm.Reduce_scatter_block(self.at(self.send(self.values(self.rank, whole))), self.at(room))
        return room.host(), self.sum(whole)[self.rank * self.size : (self.rank + 1) * self.size]

    def _reduce_scatter(self, call, wait):
        whole, start = sum(self.parts), sum(self.parts[: self.rank])
        room = self.room(self.parts[self.rank])
        wait(call(self.at(self.send(self.values(self.rank, whole))), self.at(room), self.parts))
        return room.host(), self.sum(whole)[start : start + self.parts[self.rank]]

    def Reduce_scatter(self):
        return self._reduce_scatter(self.comm.Reduce_scatter, lambda _: None)

    def Ireduce_scatter(self):
        return self._reduce_scatter(self.comm.Ireduce_scatter, MPI.Request.Wait)

    # -- gathers ---------------------------------------------------------------------------------------------

    def _all_gather(self, call, wait, parts=None):
        sizes = parts or [self.size] * self.ranks
        mine, room = self.send(self.values(self.rank, sizes[self.rank])), self.room(sum(sizes))
        wait(call(self.at(mine), self.vector(room, sizes) if parts else self.at(room)))
        return room.host(), np.concatenate([self.values(r, size) for r, size in enumerate(sizes)])

    def Allgather(self):
        return self._all_gather(self.comm.Allgather, lambda _: None)

    def Iallgather(self):
        return self._all_gather(self.comm.Iallgather, MPI.Request.Wait)

    def Allgatherv(self):
        return self._all_gather(self.comm.Allgatherv, lambda _: None, self.parts)

    def Iallgatherv(self):
        return self._all_gather(self.comm.Iallgatherv, MPI.Request.Wait, self.parts)

    def _all_to_all(self, call, wait, parts=None):
        sizes = parts or [self.size] * self.ranks  # what each rank receives from everybody
        whole, start, mine = sum(sizes), sum(sizes[: self.rank]), sizes[self.rank]
        send, room = self.send(self.values(self.rank, whole)), self.room(mine * self.ranks)
        if parts:
            wait(call(self.vector(send, sizes), self.vector(room, [mine] * self.ranks)))
        else:
            wait(call(self.at(send), self.at(room)))
        return room.host(), np.concatenate([self.values(r, whole)[start : start + mine] for r in range(self.ranks)])

    def Alltoall(self):
        return self._all_to_all(self.comm.Alltoall, lambda _: None)

    def Ialltoall(self):
        return self._all_to_all(self.comm.Ialltoall, MPI.Request.Wait)

    def Alltoallv(self):
        return self._all_to_all(self.comm.Alltoallv, lambda _: None, self.parts)

    def Ialltoallv(self):
        return self._all_to_all(self.comm.Ialltoallv, MPI.Request.Wait, self.parts)


def main(name: str) -> None:
    """Make the call with a small and a large array; exit status 1 for wrong numbers."""
    comm = MPI.COMM_WORLD
    backend = DriverBackend(Driver())
    copies, right = [], True
    for size in (SMALL, LARGE):
        backend.driver.counters()
        came, wanted = getattr(Calls(comm, backend, size), name)()
        copies.append(backend.driver.counters())
        right &= bool(np.array_equal(came, wanted))
    if comm.allreduce(not right, MPI.LOR):
        raise SystemExit("wrong numbers")
    if comm.rank == 0:
        print("right", *(f"h2d={c.h2d} d2h={c.d2h} d2d={c.d2d} ipc={c.ipc_opened}" for c in copies), sep="; ")


if __name__ == "__main__":
    main(sys.argv[1])
