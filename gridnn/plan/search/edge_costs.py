"""What a link between two layers with a choice costs, for all pairs of their configurations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from gridnn.cost.machine import Machine
from gridnn.layout.counts import SUMS
from gridnn.plan.search.groups import Block, Member, Placing, joined, placings
from gridnn.plan.search.movement import ONE, Dimension, Stage, stages
from gridnn.plan.search.space import Digits, Space, divisors
from gridnn.plan.search.tables import Tables
from gridnn.plan.search.timing import Strides, movement_seconds
from gridnn.units import wide

ADJOINTS = {"all-gather": "reduce-scatter", "reduce-scatter": "all-gather"}
Terms = dict[str, np.ndarray]


class Distinct(NamedTuple):
    """Configurations without repetition: the first of each, and for every one its place among them."""

    first: np.ndarray
    place: np.ndarray


class Pairs(NamedTuple):
    """Costs of pairs of configurations: by term, for distinct ones, and the place of every one among them."""

    terms: Terms
    rows: np.ndarray
    cols: np.ndarray

    def spread(self, array: np.ndarray) -> np.ndarray:
        """An array over distinct configurations, over all: [C_u, C_v]."""
        return array[np.ix_(self.rows, self.cols)]


@dataclass(frozen=True)
class Setting:
    """What costs depend on beside network and splits: see `gridnn.plan.search.cost_model.CostModel`."""

    ranks: int
    machine: Machine
    itemsize: int = 4
    slots: int = 1
    passes: int = 1
    full_sum: bool = False
    recompute: bool = False


class LinkPricer:
    """Prices links: ``latency`` and ``bandwidth`` in seconds a step, both directions; ``words``, means over ranks."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.tables = Tables(setting.ranks)
        self._places = np.array(divisors(setting.ranks))

    def link(self, source: Block, before: Space, member: int, target: Block, after: Space, index: int) -> Pairs:
        """The costs of a link for all pairs of configurations."""
        giver, reader = source.members[member], target.main
        old, rows = self._distinct(placings(source, before)[member], _axes_out(giver), before)
        new, cols = self._distinct(dict(after.digits), _axes_in(reader, index), after)
        old = {axis: Digits(*(one[:, None] for one in digits)) for axis, digits in old.items()}
        new = {axis: Digits(*(one[None, :] for one in digits)) for axis, digits in new.items()}
        crossing = self._crossing
        comparable = crossing is None or before.cuts[rows.first] @ crossing @ after.cuts[cols.first].T == 0
        shape = len(rows.first), len(cols.first)
        return Pairs(self._moved(giver, old, reader, new, index, comparable, shape), rows.place, cols.place)

    def along(self, source: Block, before: Space, member: int, target: Block, after: Space, index: int) -> Terms:
        """The costs of a link for two spaces of equal length, configuration by configuration."""
        giver, reader, crossing = source.members[member], target.main, self._crossing
        comparable = crossing is None or ((before.cuts @ crossing) * after.cuts).sum(axis=1) == 0
        old, new = placings(source, before)[member], dict(after.digits)
        return self._moved(giver, old, reader, new, index, comparable, (len(before),))

    def _moved(self, giver: Member, old: Placing, reader: Member, new: Placing, index: int, comparable, shape) -> Terms:
        terms = no_terms(shape, "latency", "bandwidth", "words")
        self.add_stages(terms, self.stages(giver, old, reader, new, index, comparable), reader.wanted[index])
        return terms

    def _distinct(self, placing: Placing, axes: Sequence[str], space: Space) -> tuple[Placing, Distinct]:
        """The configurations in which a tensor lies differently: those that differ in ``axes``."""
        columns = []
        for axis in axes:
            start, parts = np.broadcast_arrays(*placing[axis])
            columns += [np.where(parts > 1, start, 1), parts]
        if self._crossing is not None:
            columns += list(space.cuts.T)
        rows = np.stack(np.broadcast_arrays(*columns, np.ones(len(space), np.int64)), axis=1)
        _, first, place = np.unique(rows, axis=0, return_index=True, return_inverse=True)
        chosen = {axis: Digits(*(np.broadcast_to(one, (len(space),))[first] for one in placing[axis])) for axis in axes}
        return chosen, Distinct(first, place.reshape(-1))

    def stages(self, giver: Member, old: Placing, reader: Member, new: Placing, index: int, comparable) -> list[Stage]:
        dims = []
        for place in range(len(giver.shapes.output)):
            (before, source), (after, target) = (
                self.tables.output(giver.layer, giver.shapes, place),
                self.tables.input(reader.layer, reader.shapes, index, place),
            )
            a, b = (placing.get(axis, ONE) if axis else ONE for placing, axis in ((old, before), (new, after)))
            dims.append(Dimension(a, b, self.place(a), self.place(b), self.tables.table(source, target)))
        contracted = giver.layer.contracted(giver.shapes)
        partial = joined(*(old[axis] for axis in contracted)) if contracted else ONE
        return stages(dims, partial, comparable, self.setting.ranks)

    def place(self, digits: Digits) -> np.ndarray:
        return np.searchsorted(self._places, digits.parts)

    @cached_property
    def _crossing(self) -> np.ndarray | None:
        """Which divisors of P no mesh can both have as ends of digits; None on a prime power of ranks."""
        apart = (self._places[:, None] % self._places > 0) & (self._places % self._places[:, None] > 0)
        return apart.astype(np.float32) if apart.any() else None

    def add_stages(self, terms: Terms, moved: Sequence[Stage], wanted: bool) -> None:
        """Add stages, forward and, where the gradient is wanted, backward."""
        passes, again = self.setting.passes, 2 if self.setting.recompute else 1
        for stage in moved:
            self.enter(terms, stage.where, stage.kind, stage.words, stage.messages, stage.strides, again * passes)
            if not wanted:
                continue
            kind, words, messages = ADJOINTS.get(stage.kind, stage.kind), stage.words, stage.messages
            if self.setting.full_sum and stage.kind == "all-gather":
                kind, words, messages = "all-reduce", 2 * words, 2 * messages
            self.enter(terms, stage.where, kind, words, messages, stage.strides, passes)

    def enter(self, terms: Terms, where, kind: str, words, messages, strides: Strides, times: float) -> None:
        size = words * (wide(self.setting.itemsize) if kind in SUMS else self.setting.itemsize)
        cost = movement_seconds(self.setting.machine, kind, size, messages, strides, self.setting.ranks)
        for name, array in (("latency", cost.latency), ("bandwidth", cost.bandwidth), ("words", words)):
            terms[name].reshape(-1)[where] += times * array


def _axes_out(member: Member) -> tuple[str, ...]:
    """The axes that say how the output of a layer lies."""
    layer, shapes = member.layer, member.shapes
    return tuple(dict.fromkeys((*layer.output_axes(shapes), *layer.contracted(shapes))))


def _axes_in(member: Member, index: int) -> tuple[str, ...]:
    return tuple(member.layer.input_axes(index, member.shapes))


def no_terms(shape: tuple[int, ...], *names: str) -> Terms:
    return {name: np.zeros(shape) for name in names}
