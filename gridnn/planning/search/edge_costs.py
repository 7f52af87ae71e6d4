"""What the tensors between two layer groups cost, for all pairs of configurations of their leaders."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from gridnn.cost.machine import Machine
from gridnn.layout.counts import SUMS
from gridnn.planning.search.arrays import Flags, Integers, Numbers
from gridnn.planning.search.groups import GroupEdge, GroupLayer, LayerGroup
from gridnn.planning.search.movement import Dimension, Stage, stages
from gridnn.planning.search.placement import UNDIVIDED, Placement, merge_axes, placements
from gridnn.planning.search.space import MeshAxis, Space, divisors
from gridnn.planning.search.tables import Tables
from gridnn.planning.search.timing import Strides, movement_seconds
from gridnn.units import wide

ADJOINTS = {"all-gather": "reduce-scatter", "reduce-scatter": "all-gather"}
ANYWHERE = np.ones(1, bool)  # of all pairs of configurations: one mesh refines both
CostTerms = dict[str, Numbers]
Placed = tuple[GroupLayer, Placement]


class Distinct(NamedTuple):
    """Configurations without repetition: the first of each, and for every one its place among them."""

    first: Integers
    place: Integers


class Side(NamedTuple):
    """One end of an edge: a layer group, and the configurations of its leader."""

    group: LayerGroup
    space: Space


class EdgeTable(NamedTuple):
    """Costs of pairs of configurations: by term, for distinct ones, and the place of every one among them."""

    terms: CostTerms
    rows: Integers
    cols: Integers

    def expand(self, array: Numbers) -> Numbers:
        """An array over distinct configurations, over all: [C_u, C_v]."""
        return array[np.ix_(self.rows, self.cols)]


@dataclass(frozen=True)
class CostOptions:
    """What costs depend on beside network and splits."""

    # ranks, machine: P, and what work and movements cost
    ranks: int
    machine: Machine
    # itemsize, slots: bytes of an element, and arrays that the optimizer keeps for every weight
    itemsize: int = 4
    slots: int = 1
    passes: int = 1  # of a batch
    # full_sum, recompute: how the plan is run: see `gridnn.planning.plan.Plan`
    full_sum: bool = False
    recompute: bool = False


class EdgeCosts:
    """The costs of edges: seconds of ``latency`` and ``bandwidth`` a step, both ways; ``words``, means over ranks."""

    def __init__(self, options: CostOptions) -> None:
        self.options = options
        self.tables = Tables(options.ranks)
        self._places = np.array(divisors(options.ranks))

    def edge(self, edge: GroupEdge, source: Side, target: Side) -> EdgeTable:
        """The costs of an edge for all pairs of configurations."""
        giver, reader = source.group.layers[edge.place], target.group.leader
        before = placements(*source)[edge.place]
        given = giver.layer.output_axes(giver.shapes), giver.layer.contracted(giver.shapes)
        read = reader.layer.input_axes(edge.index, reader.shapes)
        before, rows = self._distinct(before, tuple(dict.fromkeys(itertools.chain(*given))), source.space)
        after, cols = self._distinct(dict(target.space.mesh_axes), read, target.space)
        before = {axis: MeshAxis(*(one[:, None] for one in along)) for axis, along in before.items()}
        after = {axis: MeshAxis(*(one[None, :] for one in along)) for axis, along in after.items()}
        crossing = self._crossing
        comparable = ANYWHERE
        if crossing is not None:
            comparable = source.space.cuts[rows.first] @ crossing @ target.space.cuts[cols.first].T == 0
        terms = no_terms((len(rows.first), len(cols.first)), "latency", "bandwidth", "words")
        self._add_edge(terms, edge.index, (giver, before), (reader, after), comparable)
        return EdgeTable(terms, rows.place, cols.place)

    def matched(self, edge: GroupEdge, source: Side, target: Side) -> CostTerms:
        """The costs of an edge for two spaces of equal length, configuration by configuration."""
        giver, reader, crossing = source.group.layers[edge.place], target.group.leader, self._crossing
        comparable = ANYWHERE
        if crossing is not None:
            comparable = ((source.space.cuts @ crossing) * target.space.cuts).sum(axis=1) == 0
        before, after = placements(*source)[edge.place], dict(target.space.mesh_axes)
        terms = no_terms((len(source.space),), "latency", "bandwidth", "words")
        self._add_edge(terms, edge.index, (giver, before), (reader, after), comparable)
        return terms

    def _add_edge(self, terms: CostTerms, index: int, source: Placed, target: Placed, comparable: Flags) -> None:
        self.add_stages(terms, self.stages(index, source, target, comparable), target[0].input_gradients[index])

    def _distinct(self, placement: Placement, axes: Sequence[str], space: Space) -> tuple[Placement, Distinct]:
        """The configurations in which a tensor lies differently: those that differ in ``axes``."""
        columns = []
        for axis in axes:
            start, parts = np.broadcast_arrays(*placement[axis])
            columns += [np.where(parts > 1, start, 1), parts]
        if self._crossing is not None:
            columns += list(space.cuts.T)
        rows = np.stack(np.broadcast_arrays(*columns, np.ones(len(space), np.int64)), axis=1)
        _, first, place = np.unique(rows, axis=0, return_index=True, return_inverse=True)
        chosen = {
            axis: MeshAxis(*(np.broadcast_to(one, (len(space),))[first] for one in placement[axis])) for axis in axes
        }
        return chosen, Distinct(first, place.reshape(-1))

    def stages(self, index: int, source: Placed, target: Placed, comparable: Flags) -> list[Stage]:
        """The stages of the transfer of ``source``'s output to input ``index`` of ``target``."""
        (giver, old), (reader, new), dims = source, target, []
        for place in range(len(giver.shapes.output)):
            (before, had), (after, asked) = (
                self.tables.output(giver.layer, giver.shapes, place),
                self.tables.input(reader.layer, reader.shapes, index, place),
            )
            a, b = (one.get(axis, UNDIVIDED) if axis else UNDIVIDED for one, axis in ((old, before), (new, after)))
            dims.append(Dimension(a, b, self.place(a), self.place(b), self.tables.table(had, asked)))
        contracted = giver.layer.contracted(giver.shapes)
        partial = merge_axes(*(old[axis] for axis in contracted)) if contracted else UNDIVIDED
        return stages(dims, partial, comparable, self.options.ranks)

    def place(self, axis: MeshAxis) -> Integers:
        """The place of the numbers of parts among the divisors of P."""
        return np.searchsorted(self._places, axis.parts)

    @cached_property
    def _crossing(self) -> np.ndarray | None:
        """Which divisors of P no mesh can both have as ends of its axes; None on a prime power of ranks."""
        apart = (self._places[:, None] % self._places > 0) & (self._places % self._places[:, None] > 0)
        return apart.astype(np.float32) if apart.any() else None

    def add_stages(self, terms: CostTerms, moved: Sequence[Stage], has_gradient: bool) -> None:
        """Add stages, forward and, where the gradient is computed, backward."""
        passes, again = self.options.passes, 2 if self.options.recompute else 1
        for stage in moved:
            self.add(terms, stage.where, stage.kind, stage.words, stage.messages, stage.strides, again * passes)
            if not has_gradient:
                continue
            kind, words, messages = ADJOINTS.get(stage.kind, stage.kind), stage.words, stage.messages
            if self.options.full_sum and stage.kind == "all-gather":
                kind, words, messages = "all-reduce", 2 * words, 2 * messages
            self.add(terms, stage.where, kind, words, messages, stage.strides, passes)

    def add(
        self,
        terms: CostTerms,
        where: Integers,
        kind: str,
        words: Numbers,
        messages: Integers | Numbers,
        strides: Strides,
        times: float,
    ) -> None:
        """Add movements of ``words`` elements in ``messages`` messages, so many ``times``."""
        size = words * (wide(self.options.itemsize) if kind in SUMS else self.options.itemsize)
        cost = movement_seconds(self.options.machine, kind, size, messages, strides, self.options.ranks)
        for name, array in (("latency", cost.latency), ("bandwidth", cost.bandwidth), ("words", words)):
            terms[name].reshape(-1)[where] += times * array


def no_terms(shape: tuple[int, ...], *names: str) -> CostTerms:
    """Terms without costs."""
    return {name: np.zeros(shape) for name in names}
