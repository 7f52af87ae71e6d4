"""NCCL: the device itself moves the arrays, in order with its streams; the host never waits."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

from gridnn.comm.transports.base import Array, Messages, Transport, Work
from gridnn.errors import UserError

STREAM = "communication"
Event = Any
Calls = Callable[[Any, int], None]  # of the NCCL communicator, on a raw stream


class NcclWork(Work):
    """What the communication stream was asked for, up to an event."""

    def __init__(self, transport: NcclTransport, event: Event, arrays: Sequence[Array]) -> None:
        self.transport, self.event = transport, event
        self.arrays = arrays  # their memory must not be given to others meanwhile

    def wait(self) -> None:
        self.transport.check()
        self.transport.device.hold(self.event)
        self.arrays = ()


class NcclTransport(Transport):
    """NCCL among ranks that have a device each (it refuses two ranks on one; `Transports` says so before).

    All groups use one stream: their operations run in the order in which this rank asks for them, and since all ranks
    run the same program, no two of them wait for each other. What is only moved goes as bytes. All members of a group
    make its transport together; `UserError` if NCCL is not installed.
    """

    name = "nccl"
    limit = 2**63 - 1  # NCCL counts with size_t

    def __init__(self, comm: Any, device: Any) -> None:
        self.device, self._nccl = device, load_nccl()
        key = comm.bcast(self._nccl.get_unique_id() if comm.rank == 0 else None)
        self._communicator = self._nccl.NcclCommunicator(comm.size, key, comm.rank)

    # -- operations ------------------------------------------------------------------------------------------

    def all_gather(self, send: Array, receive: Array, sizes: Sequence[int], at_once: bool = False) -> Work:
        kind, parts = self._nccl.NCCL_UINT8, _parts(sizes, send.itemsize)
        source, target = self._address(send), self._address(receive)

        def calls(nccl: Any, stream: int) -> None:
            if _equal(sizes):
                nccl.allGather(source, target, send.nbytes, kind, stream)
                return
            for root, start, size in parts:
                nccl.broadcast(source, target + start, size, kind, root, stream)

        return self._ask(calls, [send, receive])

    def reduce_scatter(self, send: Array, receive: Array, sizes: Sequence[int], at_once: bool = False) -> Work:
        """As in `Transport`.

        Uneven parts are reduced one by one, each to its rank, in one group of calls: a reduce-scatter over parts that
        are padded to the largest one would need memory for the padded copy.
        """
        kind, add = self._kind(send), self._nccl.NCCL_SUM
        source, target = self._address(send), self._address(receive)

        def calls(nccl: Any, stream: int) -> None:
            if _equal(sizes):
                nccl.reduceScatter(source, target, receive.size, kind, add, stream)
                return
            for root, start, size in _parts(sizes, send.itemsize):
                nccl.reduce(source + start, target, size // send.itemsize, kind, add, root, stream)

        return self._ask(calls, [send, receive])

    def all_reduce(self, array: Array, operation: str = "sum", at_once: bool = False) -> Work:
        kind, address = self._kind(array), self._address(array)
        how = getattr(self._nccl, f"NCCL_{operation.upper()}")

        def calls(nccl: Any, stream: int) -> None:
            if array.size:
                nccl.allReduce(address, address, array.size, kind, how, stream)

        return self._ask(calls, [array])

    def all_to_all(
        self, send: Array, sent: Sequence[int], receive: Array, received: Sequence[int], at_once: bool = False
    ) -> Work:
        gives, takes, kind = _parts(sent, send.itemsize), _parts(received, send.itemsize), self._nccl.NCCL_UINT8
        source, target = self._address(send), self._address(receive)

        def calls(nccl: Any, stream: int) -> None:
            for peer, start, size in gives:
                nccl.send(source + start, size, kind, peer, stream)
            for peer, start, size in takes:
                nccl.recv(target + start, size, kind, peer, stream)

        return self._ask(calls, [send, receive])

    def exchange(self, sends: Messages, receives: Messages) -> Work:
        kind = self._nccl.NCCL_UINT8

        def calls(nccl: Any, stream: int) -> None:
            for peer, array in sends:
                nccl.send(self._address(array), array.nbytes, kind, peer, stream)
            for peer, array in receives:
                nccl.recv(self._address(array), array.nbytes, kind, peer, stream)

        return self._ask(calls, [array for _, array in (*sends, *receives)])

    # -- life ------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise the error that NCCL met since the last call, if it met one."""
        self._communicator.check_async_error()

    def free(self) -> None:
        self.device.wait(self.device.mark(STREAM))
        self._communicator.destroy()

    # -- helpers ---------------------------------------------------------------------------------------------

    def _ask(self, calls: Calls, arrays: Sequence[Array]) -> Work:
        """Put ``calls`` on the communication stream, behind what the compute stream has been asked for."""
        self.device.hold(self.device.mark(), STREAM)
        self._nccl.groupStart()
        calls(self._communicator, self.device.stream(STREAM))
        self._nccl.groupEnd()
        return NcclWork(self, self.device.mark(STREAM), arrays)

    def _kind(self, array: Array) -> int:
        return getattr(self._nccl, f"NCCL_{array.dtype.name.upper()}")

    def _address(self, array: Array) -> int:
        return self.device.pointer(array) if array.size else 0


def _equal(sizes: Sequence[int]) -> bool:
    return len(set(sizes)) == 1 and sizes[0] > 0


def _parts(sizes: Sequence[int], width: int) -> list[tuple[int, int, int]]:
    """(Place of the member, first byte, bytes) of every part that is not empty, for elements of ``width`` bytes."""
    starts = accumulate(sizes, initial=0)
    parts = enumerate(zip(starts, sizes, strict=False))
    return [(member, start * width, size * width) for member, (start, size) in parts if size]


def load_nccl() -> Any:
    """CuPy's module of NCCL; `UserError` if it finds no library."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # CuPy warns of what is refused here
        from cupy.cuda import nccl
    if not nccl.available:
        raise UserError("CuPy finds no NCCL library: pip install nvidia-nccl-cu12 (nvidia-nccl-cu13 with cupy-cuda13x)")
    return nccl
