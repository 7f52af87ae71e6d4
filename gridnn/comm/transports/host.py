"""The arrays of a device through host memory: any MPI can do it, at the price of two copies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mpi4py import MPI

from gridnn.comm.transports.asynchronous import Call, DeviceTransport, Event, mpi_type
from gridnn.comm.transports.base import Array, Transport, Work
from gridnn.comm.transports.direct import OPERATIONS, DirectTransport

STREAM = "communication"
PIECE = 4 << 20  # bytes of a sum: while MPI has one piece, the next ones are copied
ALIGNMENT = 64


class Staging:
    """Page-locked host memory for one operation after the other; it grows to the largest and is kept."""

    def __init__(self, device: Any) -> None:
        self.device, self._memory = device, None
        self._last: Event | None = None

    def buffers(self, arrays: Sequence[Array]) -> list[Any]:
        """Memory for each of ``arrays``, as bytes; that of the operation before."""
        starts, end = [], 0
        for array in arrays:
            starts.append(end)
            end += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
        if self._memory is None or self._memory.size < end:
            if self._last is not None:
                self.device.wait(self._last)  # copies out of the old memory may be under way
            self._memory = self.device.pinned(end)
        return [self._memory[start : start + array.nbytes] for start, array in zip(starts, arrays, strict=True)]

    def used(self) -> Event:
        """The event after which the copies that were asked for are done."""
        self._last = self.device.mark(STREAM)
        return self._last


class HostTransport(DeviceTransport):
    """MPI on page-locked copies of a device's arrays.

    The copies run on a stream of their own: to the host when the compute stream has written the arrays, back when MPI
    is done, and the compute stream goes on after that.
    """

    name = "host"

    def __init__(self, comm: Any, device: Any) -> None:
        super().__init__(comm, device)
        self.staging = Staging(device)

    def all_reduce(self, array: Array, operation: str = "sum", at_once: bool = False) -> Work:
        step = PIECE // array.itemsize
        pieces = [array[start : start + step] for start in range(0, array.size, step)]
        return self._do(lambda ready: self._sum(ready, pieces, OPERATIONS[operation]), [array], at_once)

    def _sum(self, ready: Event, pieces: list[Array], operation: MPI.Op) -> Event:
        buffers = self.staging.buffers(pieces)
        self.device.hold(ready, STREAM)
        copied = [self._to_host(piece, buffer) for piece, buffer in zip(pieces, buffers, strict=True)]
        for piece, buffer, event in zip(pieces, buffers, copied, strict=True):
            self.device.wait(event)
            self.comm.Allreduce(MPI.IN_PLACE, [buffer, mpi_type(piece)], operation)
            self.device.to_device(buffer, piece, STREAM)
        return self.staging.used()

    def _carry(self, ready: Event, sends: list[Array], receives: list[Array], call: Call) -> Event:
        buffers = self.staging.buffers([*sends, *receives])
        given, taken = buffers[: len(sends)], buffers[len(sends) :]
        self.device.hold(ready, STREAM)
        for array, buffer in zip(sends, given, strict=True):
            self._to_host(array, buffer)
        # also where nothing is sent: the operation before may still be copying out of the memory
        self.device.wait(self.device.mark(STREAM))
        call(given, taken)
        for array, buffer in zip(receives, taken, strict=True):
            self.device.to_device(buffer, array, STREAM)
        return self.staging.used()

    def _to_host(self, array: Array, buffer: Any) -> Event:
        self.device.to_host(array, buffer, STREAM)
        self.copied_to_host += array.nbytes
        return self.device.mark(STREAM)


class HostTransports:
    """Host memory for every group, and arrays of this ``backend``: what a grid takes if it is given nothing else."""

    def __init__(self, backend: Any) -> None:
        self.backend = backend

    def make(self, comm: Any, members: Sequence[int]) -> Transport:
        """The transport of the group ``members`` (all of whom make it), whose ranks ``comm`` has in that order."""
        if self.backend.device is None:
            return DirectTransport(comm, self.backend)
        return HostTransport(comm, self.backend.device)
