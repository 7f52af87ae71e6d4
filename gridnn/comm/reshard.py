"""Tensors whose parts lie with some ranks, brought to a layout over all of them: other grids, fewer ranks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gridnn.comm.grid import Grid
from gridnn.comm.ledger import Where
from gridnn.layout.layout import Box, Layout, box_shape, box_size, common, within

Array = Any
WHERE = Where("(reshard)", "reshard")


@dataclass(frozen=True)
class Parts:
    """The parts of one tensor, and where they are.

    Attributes
    ----------
    layout : Layout
        Who had which part: over the places of a grid that may be gone. There are no partial sums in it.
    holders : mapping of int to sequence of int
        By place of that grid, the grid indices of the ranks that now hold its part; places without one are left out.
    arrays : mapping of int to array
        By place of that grid, the parts that this rank holds.
    """

    layout: Layout
    holders: Mapping[int, Sequence[int]]
    arrays: Mapping[int, Array]

    def boxes(self) -> dict[Box, tuple[list[int], Array | None]]:
        """Every box once, with those who hold it (the same list on all ranks) and this rank's array of it."""
        found: dict[Box, tuple[list[int], Array | None]] = {}
        for place in range(math.prod(self.layout.mesh)):
            box = self.layout.box(place)
            holders, array = found.get(box, ([], None))
            holders = sorted({*holders, *self.holders.get(place, ())})
            found[box] = holders, self.arrays.get(place, array)
        return found

    @property
    def complete(self) -> bool:
        """Whether somebody holds every box."""
        return all(holders or not box_size(box) for box, (holders, _) in self.boxes().items())


def reshard(parts: Parts, target: Layout, out: Array, grid: Grid) -> None:
    """Fill ``out``, this rank's box of ``target``, from whoever holds its elements; all ranks of ``grid`` call it.

    Of several who hold a box a rank takes it from itself where it can, else from the one whose turn it is.
    """
    me, takes, gives = grid.index, [], []
    for box, (holders, array) in parts.boxes().items():
        need = common(box, target.box(me))
        if box_size(need):
            giver = _giver(holders, me)
            if giver == me:
                out[within(need, target.box(me))] = array[within(need, box)]
            else:
                takes.append((giver, need))
        if array is not None:
            gives += [(taker, array[within(some, box)]) for taker, some in _asked(box, holders, target, grid)]
    xp = grid.backend.xp
    received = [(giver, need, grid.backend.empty((box_size(need),), out.dtype)) for giver, need in takes]
    sends = [(taker, xp.ascontiguousarray(piece).reshape(-1)) for taker, piece in gives]
    grid.all.start_exchange(sends, [(giver, flat) for giver, _, flat in received], WHERE).wait()
    for _, need, flat in received:
        out[within(need, target.box(me))] = flat.reshape(box_shape(need))


def _asked(box: Box, holders: Sequence[int], target: Layout, grid: Grid) -> Iterator[tuple[int, Box]]:
    """The other ranks that take elements of ``box`` from this one, and which."""
    for taker in range(grid.all.size):
        need = common(box, target.box(taker))
        if taker != grid.index and box_size(need) and _giver(holders, taker) == grid.index:
            yield taker, need


def _giver(holders: Sequence[int], taker: int) -> int:
    return taker if taker in holders else holders[taker % len(holders)]
