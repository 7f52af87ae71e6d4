"""One step of a transfer: what a rank gives to whom and takes from whom, from integers alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from gridnn.layout.counts import Count, all_reduce, all_to_all, dimension_of, joining, messages
from gridnn.layout.group import Group
from gridnn.layout.layout import Box, Layout, box_size, common
from gridnn.layout.split import coordinates_of

ADJOINTS = {"all-gather": "reduce-scatter", "reduce-scatter": "all-gather"}


class Piece(NamedTuple):
    """A box of the tensor that goes to, or comes from, rank ``peer``."""

    peer: int
    box: Box


@dataclass(frozen=True)
class Stage:
    """One step of a transfer, over the groups of ranks that differ in ``mesh_axes`` only (unused by ``neighbours``)."""

    kind: str
    source: Layout
    target: Layout
    mesh_axes: tuple[int, ...] = ()

    def members(self, index: int) -> Group:
        """The ranks of the group of rank ``index``, in the order of the boxes that they hold."""
        mesh = self.source.mesh
        strides = tuple((mesh[mesh_axis], math.prod(mesh[mesh_axis + 1 :])) for mesh_axis in self.mesh_axes)
        return Group(index - sum(index // stride % radix * stride for radix, stride in strides), strides)

    @property
    def _unchanged(self) -> tuple[int, ...]:
        """The dimensions along which nothing moves, though their parts may overlap (a halo that came before).

        Digits of different meshes are not the same, also where they have the same number.
        """
        same_mesh = self.source.mesh == self.target.mesh
        dims = zip(self.source.dims, self.target.dims, strict=True)
        return tuple(i for i, (old, new) in enumerate(dims) if old == new and (same_mesh or not old.mesh_axes))

    def receives(self, index: int) -> Iterator[Piece]:
        """What rank ``index`` takes from whom, itself included."""
        needed = self.target.box(index)
        for peer in self.source.holders(needed, (), index, self._unchanged):
            box = common(self.source.box(peer), needed)
            if box_size(box):
                yield Piece(peer, box)

    def sends(self, index: int) -> Iterator[Piece]:
        """What rank ``index`` gives to whom, itself included."""
        held, replicas = self.source.box(index), self.source.replicas
        mine = coordinates_of(index, self.source.mesh)
        for peer in self.target.holders(held, self.target.replicas, index, self._unchanged):
            theirs = coordinates_of(peer, self.source.mesh)
            box = common(held, self.target.box(peer))
            # of several replicas, a rank takes the one that is most like itself
            if box_size(box) and all(mine[d] == theirs[d] for d in replicas):
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
        along, sizes = (dimension_of(members, rows), len(members)), [box_size(self.source.box(index))]
        sizes.append(box_size(self.target.box(index)))
        if self.kind == "all-reduce" or (backward and full_sum and self.kind == "all-gather"):
            return [all_reduce(*along, members.index(index), sizes[1])]
        return [joining(ADJOINTS[self.kind] if backward else self.kind, *along, min(sizes), max(sizes))]

    def _pair_counts(self, index: int, rows: int, backward: bool) -> list[Count]:
        pieces = self.receives(index) if backward else self.sends(index)
        away = [(piece.peer, box_size(piece.box)) for piece in pieces if piece.peer != index]
        if self.kind == "neighbours":
            return messages(index, away, rows)
        return [all_to_all(dimension_of(self.members(index), rows), [size for _, size in away])]
