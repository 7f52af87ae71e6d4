"""What the movements of one rank cost on a machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gridnn.cost.machine import GroupLevel, Machine
from gridnn.layout.counts import SUMS, Count
from gridnn.layout.gridshape import GridShape
from gridnn.program.schedule import Begin, GroupSum, StageMovement
from gridnn.units import wide

WIDE = 8  # bytes of an element of a reduction that a layer asks for: float64


class Movement(NamedTuple):
    """What one call, or the share of a layer in it, moves on the priced rank, and its seconds when it is alone."""

    phase: str
    dimension: str
    kind: str
    words: int
    messages: int
    seconds: float


class Movements:
    """Prices the movements of rank ``index``.

    Parameters
    ----------
    machine : Machine
        What they cost.
    grid : GridShape
        Where the ranks are.
    index : int
        The priced rank.
    itemsize : int
        Bytes of an element of an activation or a gradient.
    """

    def __init__(self, machine: Machine, grid: GridShape, index: int, itemsize: int) -> None:
        self.machine, self.grid, self.index, self.itemsize = machine, grid, index, itemsize
        self._levels: dict[Sequence[int], GroupLevel] = {}

    def price(self, operation: Begin) -> tuple[tuple[str, Movement], ...]:
        """What a movement costs: layer and share, one for each layer and grid dimension."""
        movement, phase = operation.movement, operation.phase
        counts = [count for _, count in movement.entries]
        if not counts:
            return ()
        if isinstance(movement, GroupSum) and movement.purpose == "gradients":
            (whole,) = self._call("update", counts, self._far(movement.members), self.itemsize, "started all-reduce")
            return tuple((layer, _share(whole, count)) for layer, count in movement.entries)
        itemsize = self.itemsize if isinstance(movement, StageMovement) else WIDE
        reach = self._farthest(movement) if movement.members is None else self._far(movement.members)
        return tuple((operation.layer, one) for one in self._call(phase, counts, reach, itemsize))

    def _farthest(self, movement: StageMovement) -> GroupLevel:
        """How far the messages to neighbours go."""
        stage, index = movement.stage, self.index
        pieces = stage.receives(index) if movement.adjoint else stage.sends(index)
        peers = {piece.peer for piece in pieces if piece.peer != index}
        return max(self._far(tuple(sorted((index, peer)))) for peer in peers)

    def _call(
        self, phase: str, counts: Sequence[Count], level: GroupLevel, itemsize: int, kind: str = ""
    ) -> tuple[Movement, ...]:
        """One call whose counts may be of several dimensions: priced whole, its seconds shared by words."""
        kind = kind or counts[0].kind
        total, sent = sum(count.words for count in counts), sum(count.messages for count in counts)
        size = wide(itemsize) if kind in SUMS else itemsize
        seconds = self.machine.seconds(kind, total * size, sent, level) if sent else 0.0
        merged: dict[str, Movement] = {}
        for count in counts:
            along = count.dimension
            before = merged.get(along, Movement(phase, along, count.kind, 0, 0, 0.0))
            words = before.words + count.words
            share = words / total if total else 1 / len(counts)
            merged[along] = before._replace(
                words=words, messages=before.messages + count.messages, seconds=seconds * share
            )
        return tuple(merged.values())

    def _far(self, members: Sequence[int]) -> GroupLevel:
        if members not in self._levels:
            self._levels[members] = self.machine.level_of(members, self.grid)
        return self._levels[members]


def _share(whole: Movement, count: Count) -> Movement:
    """The share of one layer in the sum of a bucket."""
    seconds = whole.seconds * count.words / whole.words if whole.words else 0.0
    return whole._replace(words=count.words, messages=count.messages, seconds=seconds)
