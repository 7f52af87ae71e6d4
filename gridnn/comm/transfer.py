"""The movement of one tensor from one layout to another, planned from integers alone.

A transfer is a linear operator.  It is at most two stages: the partial sums are summed, then the boxes are moved.  Each
stage is of one kind:

==================  ==========================================  ===================
kind                what the layouts look like                  its adjoint
==================  ==========================================  ===================
``local``           everything needed is at hand                ``local``
``all-gather``      divided -> replicated                       ``reduce-scatter``
``reduce-scatter``  partial sums -> divided                     ``all-gather``
``all-reduce``      partial sums -> replicated                  ``all-reduce``
``all-to-all``      divided -> divided along another dimension  ``all-to-all``
``neighbours``      anything else (halos, uneven changes)       ``neighbours``
==================  ==========================================  ===================

A halo over d dimensions goes either to all 3^d - 1 neighbours at once, or dimension after dimension (2 d messages, and
the corners travel along): see `halo_stages`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from gridnn.comm.counts import Count, collective, messages
from gridnn.comm.layout import Box, Dim, Layout, box_size, common, common_mesh
from gridnn.comm.partition import Even, Partition
from gridnn.comm.split import digits_of, index_of

ADJOINTS = {"all-gather": "reduce-scatter", "reduce-scatter": "all-gather"}
HALOS = ("auto", "direct", "stepwise")
# alpha / beta in words, at which a message weighs as much as its contents: 2 us and 6 GB/s of float32 (Gholami et al.
# 2018, section 4). Plans need one number that does not depend on where they are made.
MESSAGE_WORDS = 3000


class Piece(NamedTuple):
    """A box of the tensor that goes to, or comes from, rank ``peer``."""

    peer: int
    box: Box


@dataclass(frozen=True)
class Stage:
    """One step of a transfer, over the groups of ranks that differ in ``digits`` only (unused by ``neighbours``)."""

    kind: str
    source: Layout
    target: Layout
    digits: tuple[int, ...] = ()

    def members(self, index: int) -> tuple[int, ...]:
        """The ranks of the group of rank ``index``, in the order of the boxes that they hold."""
        mesh = self.source.mesh
        digits = list(digits_of(index, mesh))
        ranks = []
        for values in itertools.product(*(range(mesh[d]) for d in self.digits)):
            for digit, value in zip(self.digits, values, strict=True):
                digits[digit] = value
            ranks.append(index_of(tuple(digits), mesh))
        return tuple(ranks)

    @property
    def _unchanged(self) -> tuple[int, ...]:
        """The dimensions along which nothing moves, though their parts may overlap (a halo that came before)."""
        dims = zip(self.source.dims, self.target.dims, strict=True)
        return tuple(place for place, (old, new) in enumerate(dims) if old == new)

    def receives(self, index: int) -> Iterator[Piece]:
        """What rank ``index`` takes from whom, itself included."""
        needed = self.target.box(index)
        for peer in self.source.holders(needed, (), index, self._unchanged):
            box = common(self.source.box(peer), needed)
            if box_size(box):
                yield Piece(peer, box)

    def sends(self, index: int) -> Iterator[Piece]:
        """What rank ``index`` gives to whom, itself included."""
        held, copies = self.source.box(index), self.source.copies
        mine = digits_of(index, self.source.mesh)
        for peer in self.target.holders(held, self.target.copies, index, self._unchanged):
            theirs = digits_of(peer, self.source.mesh)
            box = common(held, self.target.box(peer))
            # of several replicas, a rank takes the one that is most like itself
            if box_size(box) and all(mine[d] == theirs[d] for d in copies):
                yield Piece(peer, box)

    def boxes(self, index: int) -> tuple[Box, ...]:
        """The part of every member of the group, where the stage is a collective that joins or divides."""
        divided = self.source if self.kind == "all-gather" else self.target
        return tuple(divided.box(member) for member in self.members(index))

    def counts(self, index: int, rows: int, backward: bool, full_sum: bool) -> list[Count]:
        """The words and messages of rank ``index``; see `Transfer.counts`."""
        if self.kind == "local":
            return []
        if self.kind in ("neighbours", "all-to-all"):
            return self._pair_counts(index, rows, backward)
        members = self.members(index)
        place = members.index(index)
        if self.kind == "all-reduce":
            return [collective("all-reduce", members, place, [box_size(self.target.box(index))], rows)]
        if backward and full_sum and self.kind == "all-gather":
            return [collective("all-reduce", members, place, [box_size(self.target.box(index))], rows)]
        kind = ADJOINTS[self.kind] if backward else self.kind
        return [collective(kind, members, place, [box_size(box) for box in self.boxes(index)], rows)]

    def _pair_counts(self, index: int, rows: int, backward: bool) -> list[Count]:
        pieces = self.receives(index) if backward else self.sends(index)
        away = [(piece.peer, box_size(piece.box)) for piece in pieces if piece.peer != index]
        if self.kind == "neighbours":
            return messages(index, away, rows)
        sizes = [sum(size for _, size in away), len(away)]
        return [collective("all-to-all", self.members(index), 0, sizes, rows)]


@dataclass(frozen=True)
class Transfer:
    """The plan of a movement: its stages, and how its adjoint sums.

    Attributes
    ----------
    source, target : Layout
        Where the tensor is and where it must be. Parts of ``source`` do not overlap (between two stages they may, along
        dimensions that the second one leaves alone), ``target`` has no partial sums.
    stages : tuple of Stage
        What is done, in this order; nothing for an identity.
    full_sum : bool
        Whether the adjoint of an all-gather is the all-reduce of Gholami et al. 2018, eq (8), of which each rank keeps
        its part, in place of the reduce-scatter.
    """

    source: Layout
    target: Layout
    stages: tuple[Stage, ...]
    full_sum: bool = False

    def counts(self, index: int, rows: int, backward: bool = False) -> list[Count]:
        """The words and messages of rank ``index`` on a grid of ``rows`` rows, for the movement or its adjoint."""
        return [c for stage in self.stages for c in stage.counts(index, rows, backward, self.full_sum)]


def plan_transfer(source: Layout, target: Layout, rows: int, full_sum: bool = False, halo: str = "auto") -> Transfer:
    """Plan the movement from ``source`` to ``target`` on a grid of ``rows`` rows.

    ``halo`` is one of `HALOS`: how halos over several dimensions are exchanged.

    Raises
    ------
    ValueError
        If the layouts are of different tensors or different numbers of ranks.
    """
    if source.shape != target.shape:
        raise ValueError(f"a transfer keeps its tensor's shape, but {source.shape} is not {target.shape}")
    grid = (-(-_ranks(source) // rows), rows)
    mesh = common_mesh(source.mesh, target.mesh, grid) or common_mesh(source.mesh, target.mesh)
    if mesh is None:
        stages = _sum_everywhere(source) + _pairwise(source.summed(), target)
    else:
        stages = _plan(source.refined(mesh), target.refined(mesh))
    if stages and stages[-1].kind == "neighbours":
        stages = (*stages[:-1], *halo_stages(stages[-1], halo))
    return Transfer(source, target, stages, full_sum)


def _ranks(layout: Layout) -> int:
    count = 1
    for radix in layout.mesh:
        count *= radix
    return count


def _plan(source: Layout, target: Layout) -> tuple[Stage, ...]:
    if not source.partial:
        return _move(source, target)
    middle = _scattered(source, target)
    if middle is None:
        stages = _sum_everywhere(source)
        return stages + _move(source.summed(), target)
    return (Stage("reduce-scatter", source, middle, source.partial), *_move(middle, target))


def _sum_everywhere(source: Layout) -> tuple[Stage, ...]:
    return (Stage("all-reduce", source, source.summed(), source.partial),) if source.partial else ()


def _scattered(source: Layout, target: Layout) -> Layout | None:
    """``source`` with its partial sums divided where ``target`` divides them, or None if not all of them are."""
    left, dims = set(source.partial), []
    for old, new in zip(source.dims, target.dims, strict=True):
        added = new.digits[len(old.digits) :]
        if not added or new.digits[: len(old.digits)] != old.digits or not left.issuperset(added):
            dims.append(old)
            continue
        partition = _nested(old.partition, new.partition, _radix(source, added))
        if partition is None:
            return None
        left.difference_update(added)
        dims.append(Dim(partition, new.digits))
    return None if left else Layout(source.mesh, tuple(dims))


def _nested(coarse: Partition, wanted: Partition, factor: int) -> Partition | None:
    """``wanted`` if its parts nest in those of ``coarse``, else the even partition if it does (a halo comes after)."""
    for partition in (wanted, Even(coarse.size, coarse.parts * factor)):
        if partition.coarsen(factor) == coarse:
            return partition
    return None


def _radix(layout: Layout, digits: tuple[int, ...]) -> int:
    count = 1
    for digit in digits:
        count *= layout.mesh[digit]
    return count


def _move(source: Layout, target: Layout) -> tuple[Stage, ...]:
    """The stage between two layouts without partial sums."""
    if source.dims == target.dims:
        return ()
    removed, added, nested = set(), set(), True
    for old, new in zip(source.dims, target.dims, strict=True):
        if old == new:
            continue
        gone, come = old.digits[len(new.digits) :], new.digits[len(old.digits) :]
        removed.update(gone)
        added.update(come)
        prefix = old.digits[: len(new.digits)] == new.digits[: len(old.digits)]
        finer, coarser = (old, new) if gone else (new, old)
        factor = _radix(source, gone or come)
        nested &= prefix and factor > 1 and finer.partition.coarsen(factor) == coarser.partition
    group = tuple(sorted(removed))
    if nested and not added:
        return (Stage("all-gather", source, target, group),)
    if nested and not removed:
        return (Stage("local", source, target),)
    if nested and added == removed:
        return (Stage("all-to-all", source, target, group),)
    return _pairwise(source, target)


def _pairwise(source: Layout, target: Layout) -> tuple[Stage, ...]:
    return (Stage("neighbours", source, target),)


def halo_stages(stage: Stage, halo: str) -> tuple[Stage, ...]:
    """One exchange with all neighbours, or one for every dimension that has a halo, whichever ``halo`` says.

    The second way sends less often: what one dimension brought is sent on along the next, so that corners arrive over a
    neighbour. It moves as many words where every rank needs all that it has, and more where a rank passes on what it
    does not need itself. ``auto`` takes the cheaper one by messages x `MESSAGE_WORDS` + words of the busiest rank.
    """
    stepwise = _by_dimension(stage)
    if halo == "direct" or len(stepwise) < 2:
        return (stage,)
    if halo == "stepwise" or sum(map(_price, stepwise)) < _price(stage):
        return stepwise
    return (stage,)


def _by_dimension(stage: Stage) -> tuple[Stage, ...]:
    """The same movement, one dimension a stage; the stage itself where the ranks divide other dimensions then."""
    source, target = stage.source, stage.target
    if source.mesh != target.mesh or any(
        old.digits != new.digits for old, new in zip(source.dims, target.dims, strict=True)
    ):
        return (stage,)
    stages = []
    for place, (old, new) in enumerate(zip(source.dims, target.dims, strict=True)):
        if old != new:
            after = Layout(source.mesh, (*source.dims[:place], new, *source.dims[place + 1 :]))
            stages.append(Stage("neighbours", source, after))
            source = after
    return tuple(stages)


def _price(stage: Stage) -> int:
    """Messages x `MESSAGE_WORDS` + words of the rank that sends most, of those at the borders and in the middle."""
    return max(
        sum(MESSAGE_WORDS + box_size(piece.box) for piece in stage.sends(index) if piece.peer != index)
        for index in _typical(stage.source)
    )


def _typical(layout: Layout) -> Iterator[int]:
    """The ranks with the first, the middle and the last part of every divided dimension: 3^d, whatever P."""
    choices = []
    for dim in layout.dims:
        radix = tuple(layout.mesh[digit] for digit in dim.digits)
        parts = sorted({0, dim.partition.parts // 2, dim.partition.parts - 1}) if dim.digits else [0]
        choices.append([tuple(zip(dim.digits, digits_of(part, radix), strict=True)) for part in parts])
    for choice in itertools.product(*choices):
        digits = [0] * len(layout.mesh)
        for digit, value in itertools.chain.from_iterable(choice):
            digits[digit] = value
        yield index_of(tuple(digits), layout.mesh)
