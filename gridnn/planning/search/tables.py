"""How the parts of one dimension of a tensor overlap before and after a transfer, for all pairs of numbers of parts.

A transfer moves boxes, and a box is a product of intervals: what a rank needs, and what of it the rank has, is a
product over the dimensions. So small tables per dimension, made from the same `gridnn.layout.partition.Partition`
objects that run, give the words of every pair of configurations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import SupportsFloat

import numpy as np

from gridnn.layers.base import Layer, Shapes
from gridnn.layout.partition import Even, Partition
from gridnn.layout.split import Split
from gridnn.planning.search.arrays import Flags, Integers, Numbers
from gridnn.planning.search.space import divisors

WHOLE = Split(())
# One dimension of a tensor in every number of parts, the divisors of P in ascending order; None where too many.
Family = tuple[Partition | None, ...]
Bounds = tuple[Integers, Integers]


@dataclass(frozen=True, eq=False)
class Table:
    """One dimension from ``p`` source parts (first index) to ``q`` target parts (second), numbers by their place."""

    held: Numbers  # the mean size of a source part [p]
    need: Numbers  # the mean size of a target part [q]
    # the mean over ranks of what the source part and the target part share, if their mesh axes begin alike [p, q]
    both: Numbers
    hit: Numbers  # the share of ranks for which that is not nothing [p, q]
    touched: Numbers  # the mean number of source parts that a target part touches [p, q]
    # coarser, finer: how many times fewer, or more, parts the target has; at least 1 [p, q]
    coarser: Integers
    finer: Integers
    # same, nests, scatters: whether the partitions are one; whether the finer one nests in the other; whether partial
    # sums in ``p`` parts can be divided into ``q``
    same: Flags
    nests: Flags
    scatters: Flags


class Tables:
    """Families and tables on P ranks, each made once: groups of a network repeat.

    ``output``, ``input``, ``table`` and ``widest`` are the methods `_output`, `_input`, `_table` and `_widest`, with
    memory.
    """

    def __init__(self, ranks: int) -> None:
        self.ranks = ranks
        self.output, self.input = cache(self._output), cache(self._input)
        self.table, self.widest = cache(self._table), cache(self._widest)
        self._bounds = cache(_bounds)

    def _output(self, layer: Layer, shapes: Shapes, dim: int) -> tuple[str | None, Family]:
        """The axis of dimension ``dim`` of the output, and the dimension in every number of parts."""
        axis, size = layer.output_axes(shapes)[dim], shapes.output[dim]
        splits = self._splits(axis, size)
        return axis, tuple(layer.cut_output(shapes, split)[dim].partition if split else None for split in splits)

    def _input(self, layer: Layer, shapes: Shapes, index: int, dim: int) -> tuple[str | None, Family]:
        """The axis of dimension ``dim`` of input ``index``, and what the layer asks for in every number of parts."""
        axis = layer.cut_input(index, shapes, WHOLE)[dim].axis
        outputs: dict[str | None, int] = dict(zip(layer.output_axes(shapes), shapes.output, strict=True))
        splits = self._splits(axis, outputs.get(axis, shapes.inputs[index][dim]))
        return axis, tuple(layer.cut_input(index, shapes, split)[dim].partition if split else None for split in splits)

    def _splits(self, axis: str | None, size: int) -> list[Split | None]:
        """``axis`` in every number of parts up to ``size``; a dimension that nothing divides has one part only."""
        return [
            WHOLE if parts == 1 else Split(((axis, parts),)) if axis and parts <= size else None
            for parts in divisors(self.ranks)
        ]

    def _table(self, source: Family, target: Family) -> Table:
        """The table of one dimension; numbers of parts that are too many have zeros."""
        count = len(source)
        both, hit, touched = (np.zeros((count, count)) for _ in range(3))
        same, nests, scatters = (np.zeros((count, count), bool) for _ in range(3))
        for p, old in enumerate(source):
            for q, new in enumerate(target):
                if old is not None and new is not None:
                    both[p, q], hit[p, q], touched[p, q] = _overlaps(self._bounds(old), self._bounds(new))
                    same[p, q], nests[p, q], scatters[p, q] = old == new, _nests(old, new), _scatters(old, new)
        held, need = (self._sizes(family, np.mean) for family in (source, target))
        parts = np.array(divisors(self.ranks))
        coarser, finer = np.maximum(parts[:, None] // parts, 1), np.maximum(parts // parts[:, None], 1)
        return Table(held, need, both, hit, touched, coarser, finer, same, nests, scatters)

    def _widest(self, family: Family) -> Integers:
        """The largest size of a part, by the place of the number of parts."""
        return self._sizes(family, np.max).astype(np.int64)

    def _sizes(self, family: Family, mean: Callable[[Integers], SupportsFloat]) -> Numbers:
        bounds = [self._bounds(partition) if partition else None for partition in family]
        return np.array([0.0 if pair is None else float(mean(pair[1] - pair[0])) for pair in bounds])


def _bounds(partition: Partition) -> Bounds:
    """Starts and stops of the parts."""
    if isinstance(partition, Even):
        ends = np.arange(partition.parts + 1) * partition.size // partition.parts
        return ends[:-1], ends[1:]
    starts, stops = np.array([partition.interval(part) for part in range(partition.parts)]).T
    return starts, stops


def _overlaps(before: Bounds, after: Bounds) -> tuple[float, float, float]:
    """Mean overlap and share of ranks with one (mesh axes that begin alike), and mean number of parts touched."""
    (start, stop), (first, last) = before, after
    common = math.lcm(len(start), len(first))
    p, q = (np.arange(common) // (common // len(one)) for one in (start, first))
    shared = np.maximum(np.minimum(stop[p], last[q]) - np.maximum(start[p], first[q]), 0)
    parts = np.searchsorted(start, last, "left") - np.searchsorted(stop, first, "right")
    touched = int(parts[last > first].sum()) / len(first)
    return int(shared.sum()) / common, np.count_nonzero(shared) / common, touched


def _nests(old: Partition, new: Partition) -> bool:
    """Whether the finer of two partitions divides the parts of the other (see `gridnn.layout.transfer`)."""
    finer, coarser = (old, new) if old.parts > new.parts else (new, old)
    if finer.parts == coarser.parts or finer.parts % coarser.parts:
        return False
    return finer.coarsen(finer.parts // coarser.parts) == coarser


def _scatters(old: Partition, new: Partition) -> bool:
    """Whether a reduce-scatter can divide partial sums in ``old`` parts into as many as ``new`` has."""
    if new.parts <= old.parts or new.parts % old.parts:
        return False
    return any(one.coarsen(new.parts // old.parts) == old for one in (new, Even(old.size, new.parts)))
