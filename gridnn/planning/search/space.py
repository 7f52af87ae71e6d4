"""The configurations of a layer on P ranks: every way to divide its axes, the ranks left over being replicas.

A configuration is a `gridnn.layout.split.Split` in a canonical order of its factors, n the slowest, then d, h, w, then
co and ci (or ci and co), replicas the fastest, so that the parts of neighbouring layers nest. Replicas repeat the work:
a small layer on "fewer ranks" is a layer on all of them with replicas, which takes no longer, and its result need
not be broadcast."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from gridnn.layout.split import AXES, REPLICAS, Split, ordered_axes
from gridnn.planning.search.arrays import Integers

FEW = 2  # factors of a split in the fast search: at most two axes divided, or one and replicas


class MeshAxis(NamedTuple):
    """Where an axis lies in the ranks of every configuration: ``parts`` parts, each ``1 / start`` of all ranks apart.

    ``start`` is the product of the slower factors: on the mesh of the ranks the axis takes the range (start, start x
    parts) of divisors of P, counted from the slowest.
    """

    start: Integers
    parts: Integers

    @property
    def stop(self) -> Integers:
        """``start x parts``."""
        return self.start * self.parts


class Space:
    """The configurations of one layer, each over all P ranks, as splits and as arrays."""

    def __init__(self, splits: Sequence[Split]) -> None:
        self.splits = tuple(splits)

    def __len__(self) -> int:
        return len(self.splits)

    @cached_property
    def ranks(self) -> int:
        """P."""
        return self.splits[0].ranks

    @cached_property
    def mesh_axes(self) -> Mapping[str, MeshAxis]:
        """The mesh axis of every axis and of the replicas, an array element a configuration.

        Factors of one axis are taken as neighbours; of several factors called replicas the slowest one says where.
        """
        named = (axis for split in self.splits for axis, _ in split.factors)
        rows = {name: row for row, name in enumerate(ordered_axes((*AXES, *named, REPLICAS)))}
        start = np.ones((len(rows), len(self)), np.int64)
        parts = np.ones_like(start)
        for place, split in enumerate(self.splits):
            before = 1
            for axis, count in split.factors:
                row = rows[axis]
                if parts[row, place] == 1:
                    start[row, place] = before
                parts[row, place] *= count
                before *= count
        return {name: MeshAxis(start[row], parts[row]) for name, row in rows.items()}

    @cached_property
    def cuts(self) -> np.ndarray:
        """Which divisors of P are ends of a mesh axis: 1 or 0, [configurations, divisors]."""
        known = {divisor: place for place, divisor in enumerate(divisors(self.ranks))}
        cuts = np.zeros((len(self), len(known)), np.float32)
        for place, split in enumerate(self.splits):
            ends = itertools.accumulate((count for _, count in split.factors), lambda a, b: a * b)
            cuts[place, [known[end] for end in ends]] = 1
        return cuts


def divisors(number: int) -> tuple[int, ...]:
    """The divisors of ``number``, ascending."""
    small = [k for k in range(1, int(number**0.5) + 1) if number % k == 0]
    return tuple(dict.fromkeys([*small, *(number // k for k in reversed(small))]))


def configurations(ranks: int, allowed: Mapping[str, frozenset[int]], at_most: int | None = FEW) -> tuple[Split, ...]:
    """Every configuration on ``ranks`` ranks, any number, whose axes have the ``allowed`` numbers of parts.

    It has ``at_most`` factors, replicas included. None: any number of axes, and replicas beside at most one of them.
    """
    axes = [axis for axis in ordered_axes(allowed) if allowed[axis] - {1}]
    found: list[Split] = []
    for factors in _factorings(ranks, axes, allowed, len(axes) if at_most is None else at_most):
        left = ranks
        for _, parts in factors:
            left //= parts
        if left > 1:
            if len(factors) + 1 > (at_most or FEW):
                continue
            factors = (*factors, (REPLICAS, left))
        found.extend(Split(ordered) for ordered in _orders(factors))
    return tuple(found)


def most_parts(ranks: int, allowed: Mapping[str, frozenset[int]]) -> int:
    """The most parts, a divisor of ``ranks``, into which all axes together can be divided."""
    axes = ordered_axes(allowed)
    return max(math.prod(parts for _, parts in one) for one in _factorings(ranks, axes, allowed, len(axes)))


def _factorings(
    ranks: int, axes: Sequence[str], may: Mapping[str, frozenset[int]], most: int
) -> Iterator[tuple[tuple[str, int], ...]]:
    """Parts of at most ``most`` of ``axes`` whose product divides ``ranks``, the most of the first axes first."""
    if not axes or not most:
        yield ()
        return
    axis, *rest = axes
    for parts in reversed(divisors(ranks)):
        if parts == 1:
            yield from _factorings(ranks, rest, may, most)
        elif parts in may[axis]:
            for others in _factorings(ranks // parts, rest, may, most - 1):
                yield ((axis, parts), *others)


def _orders(factors: tuple[tuple[str, int], ...]) -> Iterator[tuple[tuple[str, int], ...]]:
    """The factors in the canonical order; where co and ci are divided, beside one axis at most, both orders."""
    yield factors
    axes = [axis for axis, _ in factors]
    if "co" in axes and "ci" in axes and len(axes) <= FEW + 1:
        place = axes.index("co")
        yield (*factors[:place], factors[place + 1], factors[place], *factors[place + 2 :])
