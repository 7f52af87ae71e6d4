"""Transfers that run: a plan, and this rank's communicators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gridnn.comm.communicator import Communicator, Pending
from gridnn.comm.ledger import Where
from gridnn.comm.packing import Packing, Scratch
from gridnn.layout.layout import Box, box_shape, common, within
from gridnn.layout.stage import Piece, Stage
from gridnn.layout.transfer import Transfer

Array = Any
Finish = Callable[[], None]


def done() -> None:
    """What is left of a move that was done at once."""


class Move:
    """One stage on this rank.

    Parameters
    ----------
    stage : Stage
        The plan.
    index : int
        This rank.

    A move fills ``out``, of the shape of the target's box, from ``x``, of the source's. ``start`` begins it and gives
    back what finishes it; until then ``out`` holds what needed no message. The adjoint goes the other way; with
    ``at_once`` it is finished before anything else is done.
    """

    def __init__(self, stage: Stage, index: int) -> None:
        self.source, self.target = stage.source.box(index), stage.target.box(index)

    def start(self, x: Array, out: Array, where: Where) -> Finish:
        """Begin to fill ``out``, the part of the target, from ``x``, the part of the source."""
        raise NotImplementedError

    def start_adjoint(self, y: Array, out: Array, where: Where, at_once: bool = True) -> Finish:
        """Begin to fill ``out``, the part of the source, from ``y``, the part of the target."""
        raise NotImplementedError


class LocalMove(Move):
    """Everything needed is at hand: a copy of a box; backwards, zero outside it."""

    def start(self, x: Array, out: Array, where: Where) -> Finish:
        out[...] = x[within(self.target, self.source)]
        return done

    def start_adjoint(self, y: Array, out: Array, where: Where, at_once: bool = True) -> Finish:
        out[...] = 0
        out[within(self.target, self.source)] = y
        return done


class JoinMove(Move):
    """All-gather one way, the reduce-scatter of its parts the other way."""

    def __init__(self, stage, index, scratch: Scratch, communicator: Communicator, full_sum: bool) -> None:
        super().__init__(stage, index)
        self.communicator, self.full_sum = communicator, full_sum
        self.joins = stage.kind == "all-gather"
        part, self.whole = (self.source, self.target) if self.joins else (self.target, self.source)
        self.packed = Packing(stage.boxes(index), self.whole, scratch)
        self.mine = Packing([part], part, scratch, self.packed.stop)
        self.inside = within(part, self.whole)

    def start(self, x: Array, out: Array, where: Where) -> Finish:
        return (self._join if self.joins else self._divide)(x, out, where, at_once=True)

    def start_adjoint(self, y: Array, out: Array, where: Where, at_once: bool = True) -> Finish:
        if self.full_sum and self.joins:
            return self._sum(y, out, where, at_once)
        return (self._divide if self.joins else self._join)(y, out, where, at_once)

    def _join(self, part: Array, out: Array, where: Where, at_once: bool) -> Finish:
        self.mine.pack(part)
        buffers = self.mine.buffer, self.packed.buffer
        pending = self.communicator.start_all_gather(*buffers, self.packed.sizes, where, at_once)
        return _then(pending, lambda: self.packed.unpack(out))

    def _divide(self, whole: Array, out: Array, where: Where, at_once: bool) -> Finish:
        self.packed.pack(whole)
        buffers = self.packed.buffer, self.mine.buffer
        pending = self.communicator.start_reduce_scatter(*buffers, self.packed.sizes, where, at_once)
        return _then(pending, lambda: self.mine.unpack(out))

    def _sum(self, whole: Array, out: Array, where: Where, at_once: bool) -> Finish:
        total = self.packed.buffer.reshape(box_shape(self.whole))
        total[...] = whole
        pending = _started_sum(self.communicator, self.packed.buffer, where, at_once)

        def unpack() -> None:
            out[...] = total[self.inside]

        return _then(pending, unpack)


class SumMove(Move):
    """All-reduce, its own adjoint."""

    def __init__(self, stage, index, scratch: Scratch, communicator: Communicator) -> None:
        super().__init__(stage, index)
        self.communicator = communicator
        self.packed = Packing([self.target], self.target, scratch)

    def start(self, x: Array, out: Array, where: Where) -> Finish:
        return self.start_adjoint(x, out, where)

    def start_adjoint(self, y: Array, out: Array, where: Where, at_once: bool = True) -> Finish:
        self.packed.pack(y)
        pending = _started_sum(self.communicator, self.packed.buffer, where, at_once)
        return _then(pending, lambda: self.packed.unpack(out))


class PairMove(Move):
    """Boxes from rank to rank: messages between neighbours, or one all-to-all in the group.

    What a rank gives to itself is copied, not packed. Messages are in flight from `start` on.
    """

    def __init__(self, stage, index, scratch: Scratch, communicator: Communicator) -> None:
        super().__init__(stage, index)
        self.communicator, self.whole_group = communicator, stage.kind == "all-to-all"
        gives, takes = list(stage.sends(index)), list(stage.receives(index))
        self.kept = [piece.box for piece in takes if piece.peer == index]  # one box, or none
        self.gives, self.takes = ([p for p in pieces if p.peer != index] for pieces in (gives, takes))
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

    def start(self, x: Array, out: Array, where: Where) -> Finish:
        self.out.pack(x)
        wait = self._exchange(self.out, self.gives, self.into, self.takes, where, at_once=True)
        for box in self.kept:
            out[within(box, self.target)] = x[within(box, self.source)]

        def finish() -> None:
            wait()
            self.into.unpack(out)

        return finish

    def start_adjoint(self, y: Array, out: Array, where: Where, at_once: bool = True) -> Finish:
        self.into.pack(y)
        wait = self._exchange(self.into, self.takes, self.out, self.gives, where, at_once)
        out[...] = 0
        for box in self.kept:
            out[within(box, self.source)] = y[within(box, self.target)]

        def finish() -> None:
            wait()
            self.out.add(out)

        return finish

    def _exchange(
        self, send: Packing, to: list[Piece], receive: Packing, by: list[Piece], where: Where, at_once: bool
    ) -> Finish:
        if self.whole_group:
            buffers = send.buffer, send.sizes, receive.buffer, receive.sizes
            return self.communicator.start_all_to_all(*buffers, where, at_once).wait
        sends = zip((piece.peer for piece in to), send.flats, strict=True)
        receives = zip((piece.peer for piece in by), receive.flats, strict=True)
        return self.communicator.start_exchange(list(sends), list(receives), where).wait


class Mover:
    """A transfer on this rank, run every step.

    Parameters
    ----------
    transfer : Transfer
        The plan.
    grid : Grid
        This rank's place and communicators; all ranks of the grid make the mover together.
    layer : str
        The layer to whose account it goes.
    scratch : Scratch
        What it packs into, of the tensor's dtype; shared with other movers, which must not run between the start of a
        move and its end.

    Attributes
    ----------
    kept : Box
        What this rank of the target has of the source already; there from the start of a movement on if it ``flies``.
    flies : bool
        Whether a movement is messages that are under way between its start and its end.
    alone : bool
        Whether it needs no other rank; then all is done at its start.
    """

    def __init__(self, transfer: Transfer, grid: Any, layer: str, scratch: Scratch) -> None:
        self.moves = [_move(stage, grid, scratch, transfer.full_sum) for stage in transfer.stages]
        self.layer, self._backend, self._dtype = layer, grid.backend, scratch.dtype
        self.source, self.target = transfer.source.box(grid.index), transfer.target.box(grid.index)
        self.kept = common(self.source, self.target)
        self.flies = bool(self.moves) and all(stage.kind == "neighbours" for stage in transfer.stages)
        self.alone = len(self.moves) <= 1 and all(isinstance(move, LocalMove) for move in self.moves)

    def start(self, x: Array, out: Array, phase: str = "forward") -> Finish:
        """Begin to fill ``out``, this rank's part of the target, from ``x``, its part of the source."""
        if not self.moves:
            out[...] = x
            return done
        where = Where(self.layer, phase)
        if self.flies and len(self.moves) > 1:
            out[within(self.kept, self.target)] = x[within(self.kept, self.source)]
        targets = [*(self._room(move.target) for move in self.moves[:-1]), out]
        finish = self.moves[0].start(x, targets[0], where)

        def rest() -> None:
            finish()
            for move, source, target in zip(self.moves[1:], targets, targets[1:], strict=False):
                move.start(source, target, where)()

        return rest

    def start_adjoint(self, y: Array, at_once: bool = True) -> Callable[[], Array]:
        """Begin the adjoint of ``y``, this rank's part of the target's gradient.

        The end gives this rank's part of the source's gradient: ``y`` itself where nothing moves. It comes next if
        ``at_once``; else the first stage is under way until then.
        """
        if not self.moves:
            return lambda: y
        where = Where(self.layer, "backward")
        back = self.moves[::-1]
        rooms = [self._room(move.source) for move in back]
        finish = back[0].start_adjoint(y, rooms[0], where, at_once)

        def rest() -> Array:
            finish()
            for move, source, target in zip(back[1:], rooms, rooms[1:], strict=False):
                move.start_adjoint(source, target, where)()
            return rooms[-1]

        return rest

    def _room(self, box: Box) -> Array:
        return self._backend.temporary(box_shape(box), self._dtype)


def _started_sum(communicator: Communicator, flat: Array, where: Where, at_once: bool) -> Pending | None:
    """The sum of ``flat`` over the group: under way, or done (None) if ``at_once``."""
    if not at_once:
        return communicator.start_all_reduce(flat, [(where, flat.size)])
    communicator.all_reduce(flat, where)
    return None


def _then(pending: Pending | None, last: Finish) -> Finish:
    """What waits for ``pending``, if it is under way, and does ``last``."""

    def finish() -> None:
        if pending is not None:
            pending.wait()
        last()

    return finish


def _move(stage: Stage, grid: Any, scratch: Scratch, full_sum: bool) -> Move:
    if stage.kind == "local":
        return LocalMove(stage, grid.index)
    if stage.kind == "neighbours":
        return PairMove(stage, grid.index, scratch, grid.all)
    communicator = grid.group(stage.members(grid.index))
    if stage.kind == "all-to-all":
        return PairMove(stage, grid.index, scratch, communicator)
    if stage.kind == "all-reduce":
        return SumMove(stage, grid.index, scratch, communicator)
    return JoinMove(stage, grid.index, scratch, communicator, full_sum)
