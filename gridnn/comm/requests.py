"""Movements of this rank, bound to their arrays once: ``begin`` packs and asks, ``end`` waits and unpacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from gridnn.comm.communicator import Communicator, Pending
from gridnn.comm.ledger import Where
from gridnn.comm.packing import Packing
from gridnn.layout.layout import box_shape, box_size, within
from gridnn.layout.messages import call_kind, exchange
from gridnn.layout.stage import Stage

Array = Any


class Arrays(NamedTuple):
    """What a stage moves on this rank."""

    # source, out: this rank's boxes, before and after
    source: Array
    out: Array
    # send, receive: flat memory for the messages (see `gridnn.layout.messages.message_sizes`)
    send: Array
    receive: Array
    # send_is_source, receive_is_out: whether that memory is the array's own: nothing is packed, or unpacked
    send_is_source: bool = False
    receive_is_out: bool = False


def bind_copy(source: Array, out: Array, index: tuple[slice, ...], adjoint: bool) -> Callable[[], None]:
    """A stage on this rank alone, ``out[...] = source[index]``; its adjoint writes zeros, and ``source`` inside."""
    return partial(_spread, source, out, out[index]) if adjoint else partial(assign, out, source[index])


def assign(target: Array, source: Array) -> None:
    """``target[...] = source``."""
    target[...] = source


def _spread(source: Array, target: Array, place: Array) -> None:
    target[...] = 0
    place[...] = source


class Request:
    """A movement that is begun and ended once a step (abstract)."""

    _pending: Pending | None = None

    def begin(self) -> None:
        """Pack what is sent, and ask for the movement; messages are under way from now on."""
        raise NotImplementedError

    def end(self) -> None:
        """Wait until the movement is done, and unpack."""
        raise NotImplementedError

    def _wait(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.wait()


class StageRequest(Request):
    """One stage of a transfer, or of its adjoint (abstract); ``at_once`` says that ``end`` comes next."""

    def __init__(self, stage: Stage, adjoint: bool, grid: Any, arrays: Arrays, where: Where, at_once: bool) -> None:
        self.arrays, self.where, self.at_once, self.adjoint = arrays, where, at_once, adjoint
        held, needed = stage.source.box(grid.index), stage.target.box(grid.index)
        self.source, self.target = (needed, held) if adjoint else (held, needed)
        self.kernels = grid.backend.kernels
        self.communicator = grid.all if stage.kind == "neighbours" else grid.group(stage.members(grid.index))


class Joining(StageRequest):
    """An all-gather of divided parts or a reduce-scatter of partial sums, each the adjoint of the other."""

    def __init__(self, stage: Stage, adjoint: bool, grid: Any, *bound: Any) -> None:
        super().__init__(stage, adjoint, grid, *bound)
        boxes, gathers = stage.boxes(grid.index), (stage.kind == "all-gather") != adjoint
        self.start = self.communicator.start_all_gather if gathers else self.communicator.start_reduce_scatter
        self.sizes = [box_size(box) for box in boxes]
        sent, received = ([self.source], boxes) if gathers else (boxes, [self.target])
        self.sent = Packing(sent, self.source, self.arrays.send, self.kernels)
        self.received = Packing(received, self.target, self.arrays.receive, self.kernels)

    def begin(self) -> None:
        if not self.arrays.send_is_source:
            self.sent.pack(self.arrays.source)
        self._pending = self.start(self.sent.buffer, self.received.buffer, self.sizes, self.where, self.at_once)

    def end(self) -> None:
        self._wait()
        if not self.arrays.receive_is_out:
            self.received.unpack(self.arrays.out)


class Sum(StageRequest):
    """An all-reduce, of which this rank keeps what it needs: its own adjoint, or that of an all-gather."""

    def __init__(self, *bound: Any) -> None:
        super().__init__(*bound)
        self.packed = Packing([self.source], self.source, self.arrays.send, self.kernels)
        self.total = self.packed.buffer.reshape(box_shape(self.source))[within(self.target, self.source)]

    def begin(self) -> None:
        self.packed.pack(self.arrays.source)
        flat = self.packed.buffer
        shares = [(self.where, flat.size)]
        self._pending = self.communicator.start_all_reduce(flat, shares, at_once=self.at_once)

    def end(self) -> None:
        self._wait()
        if not self.arrays.receive_is_out:
            self.arrays.out[...] = self.total


class Messages(StageRequest):
    """Boxes from rank to rank: messages between neighbours, or one all-to-all in the group.

    What a rank gives to itself is copied, not packed.
    """

    def __init__(self, stage: Stage, adjoint: bool, grid: Any, arrays: Arrays, *bound: Any) -> None:
        super().__init__(stage, adjoint, grid, arrays, *bound)
        self.is_collective = stage.kind == "all-to-all"
        moved = exchange(stage, grid.index)
        gives, takes = (moved.takes, moved.gives) if adjoint else (moved.gives, moved.takes)
        self.send = Packing([piece.box for piece in gives], self.source, arrays.send, self.kernels)
        self.receive = Packing([piece.box for piece in takes], self.target, arrays.receive, self.kernels)
        self.kept = [(within(box, self.target), within(box, self.source)) for box in moved.kept]
        self.sends = list(zip((piece.peer for piece in gives), self.send.flats, strict=True))
        self.receives = list(zip((piece.peer for piece in takes), self.receive.flats, strict=True))

    def begin(self) -> None:
        source, out = self.arrays.source, self.arrays.out
        self.send.pack(source)
        if self.is_collective:
            buffers = self.send.buffer, self.send.sizes, self.receive.buffer, self.receive.sizes
            self._pending = self.communicator.start_all_to_all(*buffers, self.where, self.at_once)
        else:
            self._pending = self.communicator.start_exchange(self.sends, self.receives, self.where)
        if self.adjoint:
            out[...] = 0
        for target, place in self.kept:
            out[target] = source[place]

    def end(self) -> None:
        self._wait()
        (self.receive.add if self.adjoint else self.receive.unpack)(self.arrays.out)


class Reduction(Request):
    """A sum or maximum of an array over a group, in place, at once."""

    def __init__(self, communicator: Communicator, array: Array, where: Where, operation: str = "sum") -> None:
        self.communicator, self.array, self.where, self.operation = communicator, array, where, operation

    def begin(self) -> None:
        self.communicator.all_reduce(self.array, self.where, self.operation)

    def end(self) -> None:
        """Nothing is left to do."""


class StartedSum(Request):
    """A sum of a flat array over a group, in place, under way from ``begin`` to ``end``.

    ``shares`` says to whose account how many of the elements go.
    """

    def __init__(self, communicator: Communicator, flat: Array, shares: Sequence[tuple[Where, int]]) -> None:
        self.communicator, self.flat, self.shares = communicator, flat, shares

    def begin(self) -> None:
        self._pending = self.communicator.start_all_reduce(self.flat, self.shares)

    def end(self) -> None:
        self._wait()


KINDS = {
    "all-gather": Joining,
    "reduce-scatter": Joining,
    "all-reduce": Sum,
    "all-to-all": Messages,
    "neighbours": Messages,
}


def bind_stage(
    stage: Stage, adjoint: bool, full_sum: bool, grid: Any, arrays: Arrays, where: Where, at_once: bool = True
) -> Request:
    """The request of one stage; all ranks of the grid make it together."""
    return KINDS[call_kind(stage, adjoint, full_sum)](stage, adjoint, grid, arrays, where, at_once)
