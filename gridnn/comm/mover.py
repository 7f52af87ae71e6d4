"""Transfers that run: a plan, this rank's communicators, and buffers that are made once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gridnn.comm.communicator import Communicator
from gridnn.comm.layout import Box, box_shape, box_size, within
from gridnn.comm.ledger import Where
from gridnn.comm.transfer import Piece, Stage, Transfer

Array = Any


class Scratch:
    """Flat memory that all movers pack into, one after the other: as large as the largest needs, not as all together.

    Parameters
    ----------
    backend : arrays.Backend
        Where it lies.
    dtype : dtype
        Of the tensors that are moved.
    """

    def __init__(self, backend: Any, dtype: Any) -> None:
        self.backend, self.dtype, self.size = backend, dtype, 0
        self._array: Array | None = None

    def reserve(self, size: int) -> None:
        """Say that ``size`` elements will be used at once."""
        self.size = max(self.size, size)

    @property
    def array(self) -> Array:
        """The memory; another one after somebody has reserved more. Contents last until the next mover runs."""
        if self._array is None or self._array.size < self.size:
            self._array = self.backend.empty((self.size,), self.dtype)
        return self._array


class Packing:
    """Boxes of an array, one behind the other in flat memory: explicit packing, no derived datatypes.

    Parameters
    ----------
    boxes : sequence of Box
        The pieces, in global coordinates.
    outer : Box
        What the array holds.
    scratch : Scratch
        The memory, of which the elements from ``start`` on are used.
    """

    def __init__(self, boxes: Sequence[Box], outer: Box, scratch: Scratch, start: int = 0) -> None:
        self.boxes, self.sizes = boxes, [box_size(box) for box in boxes]
        self.slices = [within(box, outer) for box in boxes]
        self.scratch, self.start, self.stop = scratch, start, start + sum(self.sizes)
        scratch.reserve(self.stop)

    @property
    def buffer(self) -> Array:
        """All pieces, flat."""
        return self.scratch.array[self.start : self.stop]

    @property
    def flats(self) -> list[Array]:
        """Every piece, flat."""
        array, start, found = self.scratch.array, self.start, []
        for size in self.sizes:
            found.append(array[start : start + size])
            start += size
        return found

    @property
    def views(self) -> list[Array]:
        """Every piece in its shape."""
        return [flat.reshape(box_shape(box)) for flat, box in zip(self.flats, self.boxes, strict=True)]

    def pack(self, array: Array) -> None:
        """Copy every box of ``array`` into the memory."""
        for slices, view in zip(self.slices, self.views, strict=True):
            view[...] = array[slices]

    def unpack(self, array: Array) -> None:
        """Copy the memory into the boxes of ``array``."""
        for slices, view in zip(self.slices, self.views, strict=True):
            array[slices] = view

    def add(self, array: Array) -> None:
        """Add the memory to the boxes of ``array``, which may overlap."""
        for slices, view in zip(self.slices, self.views, strict=True):
            array[slices] += view


class Move:
    """One stage on this rank; ``forward`` fills ``out`` of the target's shape, ``adjoint`` one of the source's."""

    def __init__(self, stage: Stage, index: int, where: str) -> None:
        self.index = index
        self.there, self.back = Where(where, "forward"), Where(where, "backward")
        self.source, self.target = stage.source.box(index), stage.target.box(index)

    def forward(self, x: Array, out: Array) -> None:
        """Fill ``out``, the part of the target, from ``x``, the part of the source."""
        raise NotImplementedError

    def adjoint(self, y: Array, out: Array) -> None:
        """Fill ``out``, the part of the source, from ``y``, the part of the target."""
        raise NotImplementedError


class LocalMove(Move):
    """Everything needed is at hand: a copy of a box; backwards, zero outside it."""

    def forward(self, x: Array, out: Array) -> None:
        out[...] = x[within(self.target, self.source)]

    def adjoint(self, y: Array, out: Array) -> None:
        out[...] = 0
        out[within(self.target, self.source)] = y


class JoinMove(Move):
    """All-gather one way, the reduce-scatter of its parts the other way."""

    def __init__(self, stage, index, where, scratch: Scratch, communicator: Communicator, full_sum: bool) -> None:
        super().__init__(stage, index, where)
        self.communicator, self.full_sum = communicator, full_sum
        self.joins = stage.kind == "all-gather"
        part, self.whole = (self.source, self.target) if self.joins else (self.target, self.source)
        self.packed = Packing(stage.boxes(index), self.whole, scratch)
        self.mine = Packing([part], part, scratch, self.packed.stop)
        self.inside = within(part, self.whole)

    def forward(self, x: Array, out: Array) -> None:
        (self._join if self.joins else self._divide)(x, out, self.there)

    def adjoint(self, y: Array, out: Array) -> None:
        if self.full_sum and self.joins:
            total = self.packed.buffer.reshape(box_shape(self.whole))
            total[...] = y
            self.communicator.all_reduce(total, self.back)
            out[...] = total[self.inside]
        else:
            (self._divide if self.joins else self._join)(y, out, self.back)

    def _join(self, part: Array, out: Array, where: Where) -> None:
        self.mine.pack(part)
        self.communicator.all_gather(self.mine.buffer, self.packed.buffer, self.packed.sizes, where)
        self.packed.unpack(out)

    def _divide(self, whole: Array, out: Array, where: Where) -> None:
        self.packed.pack(whole)
        self.communicator.reduce_scatter(self.packed.buffer, self.mine.buffer, self.packed.sizes, where)
        self.mine.unpack(out)


class SumMove(Move):
    """All-reduce, its own adjoint."""

    def __init__(self, stage, index, where, scratch: Scratch, communicator: Communicator) -> None:
        super().__init__(stage, index, where)
        self.communicator = communicator
        self.packed = Packing([self.target], self.target, scratch)

    def forward(self, x: Array, out: Array) -> None:
        self._run(x, out, self.there)

    def adjoint(self, y: Array, out: Array) -> None:
        self._run(y, out, self.back)

    def _run(self, array: Array, out: Array, where: Where) -> None:
        self.packed.pack(array)
        self.communicator.all_reduce(self.packed.buffer, where)
        self.packed.unpack(out)


class PairMove(Move):
    """Boxes from rank to rank: messages between neighbours, or one all-to-all in the group."""

    def __init__(self, stage, index, where, scratch: Scratch, communicator: Communicator) -> None:
        super().__init__(stage, index, where)
        self.communicator, self.whole_group = communicator, stage.kind == "all-to-all"
        self.gives, self.takes = list(stage.sends(index)), list(stage.receives(index))
        if self.whole_group:
            members = stage.members(index)
            self.gives = self._for(members, self.gives, self.source)
            self.takes = self._for(members, self.takes, self.target)
        self.out = Packing([piece.box for piece in self.gives], self.source, scratch)
        self.into = Packing([piece.box for piece in self.takes], self.target, scratch, self.out.stop)

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
        sends = list(zip((piece.peer for piece in to), send.flats, strict=True))
        receives = list(zip((piece.peer for piece in by), receive.flats, strict=True))
        kept = [flat for peer, flat in sends if peer == self.index]
        for room in (flat for peer, flat in receives if peer == self.index):
            room[...] = kept.pop()
        self.communicator.exchange(
            [message for message in sends if message[0] != self.index],
            [message for message in receives if message[0] != self.index],
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
    where : str
        The layer to whose account it goes.
    scratch : Scratch
        What it packs into, of the tensor's dtype; shared with other movers.
    """

    def __init__(self, transfer: Transfer, grid: Any, where: str, scratch: Scratch) -> None:
        self.moves = [_move(stage, grid, where, scratch, transfer.full_sum) for stage in transfer.stages]

        def empty(box: Box) -> Array:
            return grid.backend.empty(box_shape(box), scratch.dtype)

        self.between = [empty(move.target) for move in self.moves[:-1]]
        self.result = empty(self.moves[0].source) if self.moves else None

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


def _move(stage: Stage, grid: Any, where: str, scratch: Scratch, full_sum: bool) -> Move:
    if stage.kind == "local":
        return LocalMove(stage, grid.index, where)
    if stage.kind == "neighbours":
        return PairMove(stage, grid.index, where, scratch, grid.all)
    communicator = grid.group(stage.members(grid.index))
    if stage.kind == "all-to-all":
        return PairMove(stage, grid.index, where, scratch, communicator)
    if stage.kind == "all-reduce":
        return SumMove(stage, grid.index, where, scratch, communicator)
    return JoinMove(stage, grid.index, where, scratch, communicator, full_sum)
