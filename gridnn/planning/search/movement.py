"""Words and messages of a transfer for all pairs of configurations at once: `gridnn.layout.transfer` on arrays.

All arrays have the shape that source and target axes broadcast to: [C_u, C_v] for an edge, [C] inside a layer. Words
and messages are means over the ranks. Two dimensions are taken as independent where their mesh axes cross, which is
exact where sizes divide and no halo is wider on one side of the network than on the other (see ``docs/optimal.md``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from gridnn.planning.search.arrays import Flags, Integers, Numbers
from gridnn.planning.search.space import MeshAxis
from gridnn.planning.search.tables import Table
from gridnn.planning.search.timing import Strides

Shape = tuple[int, ...]
Element = TypeVar("Element", bound=np.generic)
KINDS = ("all-gather", "all-to-all", "neighbours")


class Dimension(NamedTuple):
    """One dimension of a tensor in a transfer: its mesh axes before and after, their places in the table, the table."""

    source: MeshAxis
    target: MeshAxis
    p: Integers
    q: Integers
    table: Table


@dataclass(frozen=True)
class Stage:
    """One stage of every transfer, where it has one."""

    kind: str  # of the forward pass
    # array of int: the transfers that have it, by their place in the flat array; the arrays below have its length
    where: Integers
    # words, messages: means over the ranks
    words: Numbers
    messages: Integers | Numbers
    # tuple of (sizes, strides): the groups of ranks: so many, so far apart, along every mesh axis; see
    # `gridnn.layout.group.Group`
    strides: Strides


def stages(dims: Sequence[Dimension], partial: MeshAxis, comparable: Flags, ranks: int) -> list[Stage]:
    """The stages of all transfers of a tensor, by its dimensions.

    ``partial`` are the ranks that hold partial sums of the source; ``comparable`` is whether one mesh refines source
    and target (see `gridnn.layout.layout.common_mesh`).
    """
    shape = np.broadcast_shapes(*(np.broadcast_shapes(d.p.shape, d.q.shape) for d in dims), np.shape(partial.parts))
    found = []
    if (partial.parts > 1).any():
        tails = [_tail(dim, partial) & comparable for dim in dims]
        covered = np.ones(shape, np.int64)
        for dim, tail in zip(dims, tails, strict=True):
            covered = covered * np.where(tail, dim.target.parts // dim.source.parts, 1)
        scattered = (covered == partial.parts) & (partial.parts > 1)
        found = _sums(dims, partial, scattered, shape, ranks)
        dims = [_after(dim, tail & scattered) for dim, tail in zip(dims, tails, strict=True)]
    return found + _moves(dims, comparable, shape, ranks)


def _tail(dim: Dimension, partial: MeshAxis) -> Flags:
    """Whether the target divides this dimension further, along mesh axes of the partial sums."""
    old, new = dim.source, dim.target
    begins: Flags = (old.start == new.start) | (old.parts == 1)
    inside = (new.start * old.parts >= partial.start) & (new.stop <= partial.stop)
    return begins & inside & dim.table.scatters[dim.p, dim.q]


def _after(dim: Dimension, divided: Flags) -> Dimension:
    """The dimension after a reduce-scatter that has divided it as the target does."""
    source = MeshAxis(
        np.where(divided, dim.target.start, dim.source.start), np.where(divided, dim.target.parts, dim.source.parts)
    )
    return dim._replace(source=source, p=np.where(divided, dim.q, dim.p))


def _sums(dims: Sequence[Dimension], partial: MeshAxis, scattered: Flags, shape: Shape, ranks: int) -> list[Stage]:
    """The reduce-scatters and all-reduces of partial sums."""
    size = _product([dim.table.held[dim.p] for dim in dims], shape)
    parts, stop = (np.broadcast_to(one, shape).ravel() for one in (partial.parts, partial.stop))
    scattered = np.broadcast_to(scattered, shape).ravel()
    found = []
    for kind, which, factor in (("reduce-scatter", scattered, 1), ("all-reduce", (parts > 1) & ~scattered, 2)):
        where = np.flatnonzero(which)
        if len(where):
            group, whole = parts[where], size[where]
            strides = ((group, ranks // stop[where]),)
            words = factor * whole * (1 - 1 / group)
            found.append(Stage(kind, where, words, factor * rounds(group), strides))
    return found


def _moves(dims: Sequence[Dimension], comparable: Flags, shape: Shape, ranks: int) -> list[Stage]:
    """The movements of boxes without partial sums: all-gather, all-to-all, messages."""
    pairs = [dim.p * dim.table.both.shape[1] + dim.q for dim in dims]  # places in the flat tables
    begins = [_begins(dim) for dim in dims]
    need = _product([dim.table.need[dim.q] for dim in dims], shape)
    words = need - _product(
        [
            np.where(alike, dim.table.both.take(pair), dim.table.need[dim.q] / dim.source.parts)
            for dim, pair, alike in zip(dims, pairs, begins, strict=True)
        ],
        shape,
    )
    moving = np.flatnonzero(words > 1e-9 * need)
    if not len(moving):
        return []
    at = _Picker(shape, moving)
    nested, removed, groups, changes = at(comparable), np.ones(len(moving), np.int64), [], []
    added, last_gone, last_come = removed, removed, removed
    for dim, pair, alike in zip(dims, pairs, begins, strict=True):
        pair, alike = at(pair), at(alike)
        old, new = (MeshAxis(at(axis.start), at(axis.parts)) for axis in (dim.source, dim.target))
        equal = alike & dim.table.same.take(pair)
        nested = nested & (equal | (alike & dim.table.nests.take(pair)))
        gone, come = dim.table.coarser.take(pair), dim.table.finer.take(pair)
        removed, added = removed * gone, added * come
        groups.append((gone, at(ranks // dim.source.stop)))
        last_gone = np.maximum(last_gone, np.where(gone > 1, at(dim.source.stop), 1))
        last_come = np.maximum(last_come, np.where(come > 1, at(dim.target.stop), 1))
        changes.append(_Change(dim.table, pair, alike, equal, old, new))
    # the same mesh axes on both sides: as many, and their fastest ends alike (those of one axis are neighbours)
    moved = words[moving]
    gather = nested & (added == 1)
    exchange = nested & ~gather & (added == removed) & (last_gone == last_come)
    found = []
    for kind, which in zip(KINDS, (gather, exchange, ~(gather | exchange)), strict=True):
        mine = np.flatnonzero(which)
        if len(mine):
            messages: Integers | Numbers
            if kind == "neighbours":
                messages, strides = _peers(changes, mine, ranks)
            else:
                strides = tuple((sizes[mine], steps[mine]) for sizes, steps in groups)
                messages = rounds(removed[mine]) if kind == "all-gather" else removed[mine] - 1
            found.append(Stage(kind, moving[mine], moved[mine], messages, strides))
    return found


def _begins(dim: Dimension) -> Flags:
    """Whether the mesh axes of source and target begin alike, or one side has none."""
    old, new = dim.source, dim.target
    begins: Flags = (old.start == new.start) | (old.parts == 1) | (new.parts == 1)
    return begins


class _Picker:
    """Takes some elements out of arrays that broadcast to a shape, without broadcasting them."""

    def __init__(self, shape: tuple[int, ...], where: Integers) -> None:
        self.shape, self.where = shape, where
        self.places = np.unravel_index(where, shape)

    def __call__(self, array: NDArray[Element]) -> NDArray[Element]:
        if array.shape == self.shape:
            return array.reshape(-1)[self.where]
        if array.size == 1:
            return np.full(len(self.where), array.reshape(-1)[0])
        axis = next(axis for axis, size in enumerate(array.shape) if size > 1)
        return array.reshape(-1)[self.places[axis]]


class _Change(NamedTuple):
    """What becomes of one dimension, for transfers that move something."""

    table: Table
    pair: Integers  # the place in the flat tables
    begins: Flags  # the mesh axes begin alike, or one side has none
    equal: Flags  # the same parts on the same mesh axes
    source: MeshAxis
    target: MeshAxis


def _peers(changes: Sequence[_Change], mine: Integers, ranks: int) -> tuple[Numbers, Strides]:
    """The mean number of ranks that a rank hears from, and the block of ranks that they lie in.

    A halo over several dimensions goes to all neighbours at once or dimension after dimension, whichever sends less.
    """
    everyone, own, stepwise = np.ones(len(mine)), np.ones(len(mine)), np.zeros(len(mine))
    halo, first = np.ones(len(mine), bool), np.full(len(mine), ranks, np.int64)
    for change in changes:
        pair, begins, other = change.pair[mine], change.begins[mine], ~change.equal[mine]
        parts = change.source.parts[mine]
        touched = change.table.touched.take(pair)
        everyone, stepwise = everyone * touched, stepwise + touched - 1
        own = own * np.where(begins, change.table.hit.take(pair), touched / parts)
        halo &= begins & (parts == change.target.parts[mine])
        for axis in (change.source, change.target):
            divided = other & (axis.parts[mine] > 1)
            first = np.minimum(first, np.where(divided, axis.start[mine], ranks))
    direct = everyone - own
    return np.where(halo, np.minimum(direct, stepwise), direct), ((ranks // first, np.ones_like(first)),)


def rounds(group: Integers) -> Integers:
    """ceil(log2 p), as in `gridnn.layout.counts.rounds`."""
    exponents: Numbers = np.ceil(np.log2(group))
    return exponents.astype(np.int64)


def _product(factors: Sequence[Numbers], shape: Shape) -> Numbers:
    """The product of all factors, flat."""
    product = np.ones(shape)
    for factor in factors:
        product = product * factor
    return product.ravel()
