"""All operations of a transport on device memory, under mpirun: ``python -m standin_driver.moving TRANSPORT``.

Every result is compared with NumPy's. Rank 0 prints how many were right and what was copied to and from the device.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial

import numpy as np
from mpi4py import MPI

from gridnn.comm.communicator import Communicator
from gridnn.comm.ledger import Ledger, Where
from gridnn.comm.transports.capabilities import capabilities_of
from gridnn.comm.transports.cuda_aware import CudaAwareTransport
from gridnn.comm.transports.host import HostTransport
from standin_driver.backend import DriverBackend
from standin_driver.library import Driver

SUMMED = ("float32", "float64", "int32", "int64")
MOVED = (*SUMMED, "uint8", "int16")  # 16-bit floats are moved as two bytes
SIZES = (0, 1, 257, 150_001)  # the last is sent in pieces, and over the limits of the eager protocols


class Group:
    """A group of ranks, the transport between them, and what its members would send."""

    def __init__(self, comm: MPI.Comm, transport, backend: DriverBackend) -> None:
        self.comm, self.transport, self.backend = comm, transport, backend
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        self.right = 0

    def values(self, rank: int, size: int, dtype: str, seed: int = 0) -> np.ndarray:
        """Whole numbers, small enough that sums of uint8 would not be asked for."""
        return ((np.arange(size) * 7 + seed) % 61 + 3 * rank).astype(dtype)

    def everybody(self, size: int, dtype: str, seed: int = 0) -> np.ndarray:
        return np.stack([self.values(rank, size, dtype, seed) for rank in range(self.size)])

    def mine(self, size: int, dtype: str, seed: int = 0):
        return self.backend.asarray(self.values(self.rank, size, dtype, seed))

    def equal(self, what: str, array, wanted: np.ndarray) -> None:
        """Count a right result.

        Raises
        ------
        AssertionError
            If it is wrong.
        """
        came = array.host()
        assert np.array_equal(came, wanted), f"{what} of {wanted.size} {wanted.dtype}: {came[:5]}, not {wanted[:5]}"
        self.right += 1

    def sizes(self, size: int) -> list[int]:
        """Parts of different lengths, one of them empty, that have ``size`` elements together."""
        parts = [size // self.size + (1 if r % 2 else -1) for r in range(self.size)] if size > 9 else [0] * self.size
        return [*parts[:-1], size - sum(parts[:-1])]

    # -- operations ------------------------------------------------------------------------------------------

    def sums(self, size: int, dtype: str, at_once: bool) -> None:
        everybody = self.everybody(size, dtype)
        for operation, wanted in (("sum", everybody.sum(axis=0, dtype=dtype)), ("max", everybody.max(axis=0))):
            array = self.mine(size, dtype)
            self.transport.all_reduce(array, operation, at_once).wait()
            self.equal(operation, array, wanted)

    def scattered_sums(self, size: int, dtype: str, at_once: bool) -> None:
        equal = [size // self.size] * self.size
        for parts in (self.sizes(size), equal):
            receive = self.backend.empty(parts[self.rank], dtype)
            start = sum(parts[: self.rank])
            self.transport.reduce_scatter(self.mine(sum(parts), dtype), receive, parts, at_once).wait()
            wanted = self.everybody(sum(parts), dtype).sum(axis=0, dtype=dtype)[start : start + parts[self.rank]]
            self.equal("reduce-scatter", receive, wanted)

    def gathers(self, size: int, dtype: str, at_once: bool) -> None:
        parts, receive = self.sizes(size), self.backend.empty(size, dtype)
        self.transport.all_gather(self.mine(parts[self.rank], dtype), receive, parts, at_once).wait()
        wanted = [self.values(rank, part, dtype) for rank, part in enumerate(parts)]
        self.equal("all-gather", receive, np.concatenate(wanted))

    def all_to_alls(self, size: int, dtype: str, at_once: bool) -> None:
        sent = self.sizes(size)
        received, start = [sent[self.rank]] * self.size, sum(sent[: self.rank])
        receive = self.backend.empty(sum(received), dtype)
        self.transport.all_to_all(self.mine(size, dtype), sent, receive, received, at_once).wait()
        wanted = self.everybody(size, dtype)[:, start : start + sent[self.rank]]
        self.equal("all-to-all", receive, wanted.reshape(-1))

    def exchanges(self, size: int, dtype: str, at_once: bool) -> None:
        after, before = (self.rank + 1) % self.size, (self.rank - 1) % self.size
        messages = [(size, 0), (size + 3, 1)]  # elements and seed
        rooms = [self.backend.empty(length, dtype) for length, _ in messages]
        sends = [(after, self.mine(length, dtype, seed)) for length, seed in messages]
        self.transport.exchange(sends, [(before, room) for room in rooms]).wait()
        for room, (length, seed) in zip(rooms, messages, strict=True):
            self.equal("exchange", room, self.values(before, length, dtype, seed))

    def check(self) -> None:
        """Every operation, blocking and started, for all types and sizes."""
        for size in SIZES:
            for at_once in (True, False):
                for dtype in SUMMED:
                    self.sums(size, dtype, at_once)
                    self.scattered_sums(size, dtype, at_once)
                for dtype in MOVED:
                    self.gathers(size, dtype, at_once)
                    self.all_to_alls(size, dtype, at_once)
                    self.exchanges(size, dtype, at_once)


def overlapping(groups: list[Group]) -> None:
    """Start several operations in every group before any is waited for; a blocking one comes in between."""
    started = []
    for seed in range(4):
        for group in groups:
            array = group.mine(40_000 + seed, "float32", seed)
            work = group.transport.all_reduce(array)
            started.append((group, work, array, group.everybody(array.size, "float32", seed).sum(axis=0)))
    for group in groups:
        group.gathers(1001, "float64", at_once=True)
    for group, work, array, wanted in started:
        work.wait()
        group.equal("started sum", array, wanted)


class Only:
    """What a communicator asks for its transport: the same kind for every group."""

    def __init__(self, make, device) -> None:
        self.make = lambda comm, members: make(comm, device)


def half_precision(world: MPI.Comm, backend: DriverBackend, make) -> int:
    """Mixed precision through the communicator: sums in float32 and in pieces, parts as words of 16 bits."""
    where = Where("layer", "update")
    transports = Only(make, backend.device)
    communicator = Communicator(world, range(world.size), world.size, backend, Ledger(), 1000, transports)
    group = Group(world, communicator.transport, backend)
    array = group.mine(4001, "float32")
    started = communicator.start_all_reduce(array, [(where, 4001)])
    parts, receive = group.sizes(999), backend.empty(999, "float16")
    communicator.start_all_gather(group.mine(parts[group.rank], "float16"), receive, parts, where, at_once=True).wait()
    group.equal("all-gather", receive, np.concatenate([group.values(r, n, "float16") for r, n in enumerate(parts)]))
    started.wait()
    group.equal("sum", array, group.everybody(4001, "float32").sum(axis=0))
    part = backend.empty(parts[group.rank], "float32")
    communicator.start_reduce_scatter(group.mine(999, "float32"), part, parts, where, at_once=True).wait()
    start = sum(parts[: group.rank])
    wanted = group.everybody(999, "float32").sum(axis=0)[start : start + part.size]
    group.equal("reduce-scatter", part, wanted)
    communicator.transport.free()
    return group.right


def groups(world: MPI.Comm, backend: DriverBackend, make) -> list[Group]:
    """All ranks, and for four of them the row and the column of a 2 x 2 grid."""
    comms = [world]
    if world.size == 4:
        comms += [world.Split(world.rank // 2, world.rank), world.Split(world.rank % 2, world.rank)]
    return [Group(comm, make(comm, backend.device), backend) for comm in comms]


def transports(name: str) -> list:
    """How the transport is made; the CUDA-aware one with and without a reduce-scatter of unequal parts."""
    if name == "host":
        return [HostTransport]
    row = capabilities_of(MPI.Get_library_version())
    rows = [replace(row, vector_reduce_scatter=vector) for vector in (False, True)]
    return [partial(CudaAwareTransport, capabilities=row) for row in rows]


def main(name: str) -> None:
    """Check one transport; a wrong number ends the job."""
    backend, world, right = DriverBackend(Driver()), MPI.COMM_WORLD, 0
    backend.driver.counters()
    for make in transports(name):
        made = groups(world, backend, make)
        for group in made:
            group.check()
        overlapping(made)
        right += sum(group.right for group in made) + half_precision(world, backend, make)
        staged = sum(group.transport.copied_to_host for group in made)
        for group in made:
            group.transport.free()
        assert (staged > 0) == (name == "host"), f"{staged} bytes were copied to the host by the transport"
    if world.rank == 0:
        print(f"{name}, {world.size} ranks: {right} results on rank 0 are right; {backend.driver.counters()}")


if __name__ == "__main__":
    main(sys.argv[1])
