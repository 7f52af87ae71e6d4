"""What the movements of one rank cost: the stages of the transfers that run, counted and priced on a machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gridnn.cost.machine import GroupLevel, Machine
from gridnn.layout.counts import SUMS, Count, all_reduce, bucket, dimension_of, messages
from gridnn.layout.gridshape import GridShape
from gridnn.layout.group import Group
from gridnn.layout.layout import box_size
from gridnn.layout.stage import Stage
from gridnn.layout.transfer import Transfer
from gridnn.program.program import Bucket
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


Call = tuple[Movement, ...]  # what is started and waited for at once: messages to neighbours in several dimensions, say


class Movements:
    """The movements of rank ``index``.

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

    def transfer(self, transfer: Transfer, phase: str) -> tuple[Call, ...]:
        """The calls of a transfer, or with ``phase`` backward of its adjoint, in the order in which they run."""
        backward = phase == "backward"
        stages = transfer.stages[::-1] if backward else transfer.stages
        calls = (self._stage(stage, phase, backward, transfer.full_sum) for stage in stages)
        return tuple(call for call in calls if call)

    def all_reduce(self, phase: str, members: Group, words: int) -> Movement:
        """A sum of ``words`` float64 elements over ``members``."""
        count = all_reduce(dimension_of(members, self.grid.rows), len(members), members.index(self.index), words)
        return self._call(phase, [count], self._far(members), WIDE)[0]

    def bucket(self, group: Bucket) -> tuple[tuple[str, Movement], ...]:
        """The shares of the layers, by name, in the started all-reduce of a bucket of gradients."""
        members = group.members
        along, place = dimension_of(members, self.grid.rows), members.index(self.index)
        counts = bucket(along, len(members), place, [gradient.size for gradient in group.gradients])
        (whole,) = self._call("update", counts, self._far(members), self.itemsize, "started all-reduce")
        return tuple(
            (gradient.layer, whole._replace(words=count.words, messages=count.messages, seconds=_share(whole, count)))
            for gradient, count in zip(group.gradients, counts, strict=True)
        )

    def _stage(self, stage: Stage, phase: str, backward: bool, full_sum: bool) -> Call:
        if stage.kind != "neighbours":
            counts = stage.counts(self.index, self.grid.rows, backward, full_sum)
            return self._call(phase, counts, self._far(stage.members(self.index)), self.itemsize) if counts else ()
        pieces = stage.receives(self.index) if backward else stage.sends(self.index)
        away = [(piece.peer, box_size(piece.box)) for piece in pieces if piece.peer != self.index]
        peers = [self._far(tuple(sorted((self.index, peer)))) for peer, _ in away]
        counts = messages(self.index, away, self.grid.rows)
        return self._call(phase, counts, max(peers), self.itemsize) if peers else ()

    def _call(self, phase: str, counts: Sequence[Count], at: GroupLevel, itemsize: int, kind: str = "") -> Call:
        """One call whose counts may be of several dimensions: priced whole, its seconds shared by words."""
        kind = kind or counts[0].kind
        total, sent = sum(count.words for count in counts), sum(count.messages for count in counts)
        size = wide(itemsize) if kind in SUMS else itemsize
        seconds = self.machine.seconds(kind, total * size, sent, at) if sent else 0.0
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


def _share(whole: Movement, count: Count) -> float:
    return whole.seconds * count.words / whole.words if whole.words else 0.0
