"""Transfers that run: a plan, this rank's communicators, and buffers that are made once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gridnn.comm.communicator import Communicator
from gridnn.comm.layout import Box, box_shape, box_size, within
from gridnn.comm.ledger import Where
from gridnn.comm.transfer import Piece, Stage, Transfer

Array = Any


class Packing:
    """Boxes of an array, one behind the other in a flat buffer: explicit packing, no derived datatypes.

    Parameters
    ----------
    boxes : sequence of Box
        The pieces, in global coordinates.
    outer : Box
        What the array holds.
    buffer : array
        Flat, of as many elements as all boxes together.
    """

    def __init__(self, boxes: Sequence[Box], outer: Box, buffer: Array) -> None:
        self.sizes = [box_size(box) for box in boxes]
        self.slices = [within(box, outer) for box in boxes]
        self.buffer, self.views, start = buffer, [], 0
        for box, size in zip(boxes, self.sizes, strict=True):
            self.views.append(buffer[start : start + size].reshape(box_shape(box)))
            start += size

    def flat(self, piece: int) -> Array:
        """Piece ``piece`` of the buffer, flat."""
        return self.views[piece].reshape(-1)

    def pack(self, array: Array) -> None:
        """Copy every box of ``array`` into the buffer."""
        for slices, view in zip(self.slices, self.views, strict=True):
            view[...] = array[slices]

    def unpack(self, array: Array) -> None:
        """Copy the buffer into the boxes of ``array``."""
        for slices, view in zip(self.slices, self.views, strict=True):
            array[slices] = view

    def add(self, array: Array) -> None:
        """Add the buffer to the boxes of ``array``, which may overlap."""
        for slices, view in zip(self.slices, self.views, strict=True):
            array[slices] += view


class Move:
    """One stage on this rank; ``forward`` fills ``out`` of the target's shape, ``adjoint`` one of the source's."""

    def __init__(self, stage: Stage, index: int, where: str, empty: Callable[[tuple[int, ...]], Array]) -> None:
        self.stage, self.index, self.empty = stage, index, empty
        self.there, self.back = Where(where, "forward"), Where(where, "backward")
        self.source, self.target = stage.source.box(index), stage.target.box(index)

    def packing(self, boxes: Sequence[Box], outer: Box) -> Packing:
        return Packing(boxes, outer, self.empty((sum(box_size(box) for box in boxes),)))


class LocalMove(Move):
    """Everything needed is at hand: a copy of a box; backwards, zero outside it."""

    def forward(self, x: Array, out: Array) -> None:
        out[...] = x[within(self.target, self.source)]

    def adjoint(self, y: Array, out: Array) -> None:
        out[...] = 0
        out[within(self.target, self.source)] = y


class JoinMove(Move):
    """All-gather one way, the reduce-scatter of its parts the other way."""

    def __init__(self, stage, index, where, empty, communicator: Communicator, full_sum: bool) -> None:
        super().__init__(stage, index, where, empty)
        self.communicator, self.full_sum = communicator, full_sum
        self.joins = stage.kind == "all-gather"
        self.part, self.whole = (self.source, self.target) if self.joins else (self.target, self.source)
        self.packed = self.packing(stage.boxes(index), self.whole)
        self.mine = empty((box_size(self.part),)).reshape(box_shape(self.part))

    def forward(self, x: Array, out: Array) -> None:
        (self._join if self.joins else self._divide)(x, out, self.there)

    def adjoint(self, y: Array, out: Array) -> None:
        if self.full_sum and self.joins:
            total = self.packed.buffer.reshape(box_shape(self.whole))
            total[...] = y
            self.communicator.all_reduce(total, self.back)
            out[...] = total[within(self.part, self.whole)]
        else:
            (self._divide if self.joins else self._join)(y, out, self.back)

    def _join(self, part: Array, out: Array, where: Where) -> None:
        self.mine[...] = part
        self.communicator.all_gather(self.mine.reshape(-1), self.packed.buffer, self.packed.sizes, where)
        self.packed.unpack(out)

    def _divide(self, whole: Array, out: Array, where: Where) -> None:
        self.packed.pack(whole)
        self.communicator.reduce_scatter(self.packed.buffer, self.mine.reshape(-1), self.packed.sizes, where)
        out[...] = self.mine


class SumMove(Move):
    """All-reduce, its own adjoint."""

    def __init__(self, stage, index, where, empty, communicator: Communicator) -> None:
        super().__init__(stage, index, where, empty)
        self.communicator, self.sum = communicator, empty(box_shape(self.target))

    def forward(self, x: Array, out: Array) -> None:
        self._run(x, out, self.there)

    def adjoint(self, y: Array, out: Array) -> None:
        self._run(y, out, self.back)

    def _run(self, array: Array, out: Array, where: Where) -> None:
        self.sum[...] = array
        self.communicator.all_reduce(self.sum, where)
        out[...] = self.sum


class PairMove(Move):
    """Boxes from rank to rank: messages between neighbours, or one all-to-all in the group."""

    def __init__(self, stage, index, where, empty, communicator: Communicator) -> None:
        super().__init__(stage, index, where, empty)
        self.communicator, self.whole_group = communicator, stage.kind == "all-to-all"
        self.gives, self.takes = list(stage.sends(index)), list(stage.receives(index))
        if self.whole_group:
            members = stage.members(index)
            self.gives = self._for(members, self.gives, self.source)
            self.takes = self._for(members, self.takes, self.target)
        self.out = self.packing([piece.box for piece in self.gives], self.source)
        self.into = self.packing([piece.box for piece in self.takes], self.target)

    @staticmethod
    def _for(members: Sequence[int], pieces: Sequence[Piece], outer: Box) -> list[Piece]:
        """One piece per member, empty where there is none."""
        boxes = {piece.peer: piece.box for piece in pieces}
        nothing = tuple((start, start) for start, _ in outer)
        return [Piece(member, boxes.get(member, nothing)) for member in members]

    def forward(self, x: Array, out: Array) -> None:
        self.out.pack(x)
        self._run(self.out, self.gives, self.into, self.takes, self.there)
        self.into.unpack(out)

    def adjoint(self, y: Array, out: Array) -> None:
        self.into.pack(y)
        self._run(self.into, self.takes, self.out, self.gives, self.back)
        out[...] = 0
        self.out.add(out)

    def _run(self, send: Packing, to: list[Piece], receive: Packing, by: list[Piece], where: Where) -> None:
        if self.whole_group:
            self.communicator.all_to_all(send.buffer, send.sizes, receive.buffer, receive.sizes, where)
            return
        kept = [i for i, piece in enumerate(to) if piece.peer == self.index]
        taken = [i for i, piece in enumerate(by) if piece.peer == self.index]
        for i, j in zip(kept, taken, strict=True):
            receive.views[j][...] = send.views[i]
        self.communicator.exchange(
            [(piece.peer, send.flat(i)) for i, piece in enumerate(to) if piece.peer != self.index],
            [(piece.peer, receive.flat(j)) for j, piece in enumerate(by) if piece.peer != self.index],
            where,
        )


class Mover:
    """A transfer on this rank, run every step.

    Parameters
    ----------
    transfer : Transfer
        The plan.
    grid : Grid
        This rank's place and communicators; all ranks of the grid make the mover together.
    dtype : dtype
        Of the tensor.
    where : str
        The layer to whose account it goes.
    """

    def __init__(self, transfer: Transfer, grid: Any, dtype: Any, where: str) -> None:
        self.transfer, index = transfer, grid.index
        self.source, self.target = transfer.source.box(index), transfer.target.box(index)

        def empty(shape: tuple[int, ...]) -> Array:
            return grid.backend.empty(shape, dtype)

        self.moves = [_move(stage, grid, where, empty, transfer.full_sum) for stage in transfer.stages]
        self.between = [empty(box_shape(move.target)) for move in self.moves[:-1]]
        self.result = empty(box_shape(self.source)) if self.moves else None

    def forward(self, x: Array, out: Array) -> None:
        """Fill ``out``, this rank's part of the target, from ``x``, its part of the source."""
        if not self.moves:
            out[...] = x
        for move, target in zip(self.moves, [*self.between, out], strict=False):
            move.forward(x, target)
            x = target

    def adjoint(self, y: Array) -> Array:
        """The adjoint: this rank's part of the source's gradient from ``y``, its part of the target's.

        The result belongs to the mover, and is ``y`` itself where nothing moves.
        """
        for move, source in zip(reversed(self.moves), [*reversed(self.between), self.result], strict=False):
            move.adjoint(y, source)
            y = source
        return y


def _move(stage: Stage, grid: Any, where: str, empty: Callable, full_sum: bool) -> Move:
    if stage.kind == "local":
        return LocalMove(stage, grid.index, where, empty)
    if stage.kind == "neighbours":
        return PairMove(stage, grid.index, where, empty, grid.all)
    communicator = grid.group(stage.members(grid.index))
    if stage.kind == "all-to-all":
        return PairMove(stage, grid.index, where, empty, communicator)
    if stage.kind == "all-reduce":
        return SumMove(stage, grid.index, where, empty, communicator)
    return JoinMove(stage, grid.index, where, empty, communicator, full_sum)
