"""The step time of a network for every choice of splits: a graph of small cost tables, from the transfers that run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, reduce
from typing import Any

import numpy as np

from gridnn.cost.machine import Machine
from gridnn.layout.split import Split
from gridnn.network import Network
from gridnn.planning.plan import Plan
from gridnn.planning.search.arrays import Numbers
from gridnn.planning.search.edge_costs import CostOptions, CostTerms, EdgeTable, Side
from gridnn.planning.search.graph import CostGraph
from gridnn.planning.search.groups import GroupEdge, LayerGroup, allowed_channel_parts, allowed_parts, group_layers
from gridnn.planning.search.node_costs import NodeCosts
from gridnn.planning.search.space import FEW, Space, configurations

SECONDS = ("compute", "update", "latency", "bandwidth", "gradient latency", "gradient bandwidth")


class CostModel:
    """Costs of every configuration of every layer group, and of every pair of configurations of neighbours.

    ``ranks`` is P, any integer, and ``batch`` the samples of one pass. A split has ``at_most`` factors (see
    `gridnn.planning.search.space.configurations`); or the ``spaces`` say which configurations are compared. ``options``
    are `itemsize`, `slots`, `passes`, `full_sum`, `recompute` of `gridnn.planning.search.edge_costs.CostOptions`.
    ``names`` are the leaders of the groups, the layers with a choice, and ``space`` has their configurations.
    """

    def __init__(
        self,
        network: Network,
        ranks: int,
        batch: int,
        machine: Machine,
        *,
        at_most: int | None = FEW,
        spaces: Mapping[str, Space] | None = None,
        **options: Any,
    ) -> None:
        self.network, self.batch, self.ranks = network, batch, ranks
        self.grouped = group_layers(network, batch)
        self.names = list(self.grouped.groups)
        self.options = CostOptions(ranks, machine, **options)
        self._costs = NodeCosts(self.options)
        self._nodes: dict[tuple[LayerGroup, int], CostTerms] = {}
        self._edges: dict[tuple[LayerGroup, int, int, LayerGroup, int, int], EdgeTable] = {}
        self.space = dict(spaces) if spaces is not None else self._spaces(at_most)

    def _spaces(self, at_most: int | None) -> dict[str, Space]:
        """The configurations of every group; equal groups share one object, and so their costs."""
        known: dict[object, Space] = {}
        spaces = {}
        for name, group in self.grouped.groups.items():
            if group not in known:
                may, both = allowed_parts(group, self.ranks), allowed_channel_parts(group, self.ranks)
                limits = frozenset(may.items()), both
                if limits not in known:
                    splits = configurations(self.ranks, may, at_most)
                    known[limits] = Space([s for s in splits if s.parts("co") * s.parts("ci") in both])
                known[group] = known[limits]
            spaces[name] = known[group]
        return spaces

    # -- what it costs ---------------------------------------------------------------------------------------

    def node_costs(self, name: str) -> CostTerms:
        """The costs of the group of layer ``name``, by term and configuration."""
        group, space = self._side(name)
        key = group, id(space)
        if key not in self._nodes:
            self._nodes[key] = self._costs.group(group, space)
        return self._nodes[key]

    def edge_costs(self, edge: GroupEdge) -> CostTerms:
        """The costs of moving a tensor, by term and pair of configurations."""
        table = self._table(edge)
        return {name: table.expand(array) for name, array in table.terms.items()}

    def _table(self, edge: GroupEdge) -> EdgeTable:
        """The costs of an edge; those between equal groups are computed once."""
        source, target = self._side(edge.source), self._side(edge.target)
        key = source.group, id(source.space), edge.place, target.group, id(target.space), edge.index
        if key not in self._edges:
            self._edges[key] = self._costs.edge(edge, source, target)
        return self._edges[key]

    def _side(self, name: str) -> Side:
        return Side(self.grouped.groups[name], self.space[name])

    def matched(self) -> list[CostTerms]:
        """The terms of every group and edge, the first configurations of all groups together, then the second ones."""
        edges = (
            self._costs.matched(edge, self._side(edge.source), self._side(edge.target)) for edge in self.grouped.edges
        )
        return [*map(self.node_costs, self.names), *edges]

    @property
    def memory(self) -> list[Numbers]:
        """The bytes that every configuration of every layer keeps on a rank: weights, gradients, optimizer, outputs."""
        return [self.node_costs(name)["memory"] for name in self.names]

    @property
    def passing(self) -> list[Numbers]:
        """The bytes that come and go while a layer runs, beside what all layers keep."""
        return [self.node_costs(name)["passing memory"] for name in self.names]

    @cached_property
    def graph(self) -> CostGraph:
        """The costs in seconds, for the search."""
        return self.weighted({})

    def weighted(self, weights: Mapping[str, float]) -> CostGraph:
        """The costs in seconds with some terms multiplied: ``{"gradient bandwidth": 0.5}``."""
        place = {name: number for number, name in enumerate(self.names)}
        made: dict[int, Numbers] = {}  # equal edges share one table

        def expanded(table: EdgeTable) -> Numbers:
            if id(table) not in made:
                made[id(table)] = table.expand(_seconds(table.terms, weights))
            return made[id(table)]

        costs = [_seconds(self.node_costs(name), weights) for name in self.names]
        edges = [((place[e.source], place[e.target]), expanded(self._table(e))) for e in self.grouped.edges]
        return CostGraph(self.names, costs, edges)

    # -- plans -----------------------------------------------------------------------------------------------

    def splits(self, choice: Sequence[int]) -> dict[str, Split]:
        """The splits of a choice, for `gridnn.planning.propagate.propagate`."""
        return {name: self.space[name].splits[place] for name, place in zip(self.names, choice, strict=True)}


def total_seconds(network: Network, plans: Sequence[Plan], batch: int, machine: Machine, **options: Any) -> Numbers:
    """The model's seconds of some plans, all at once."""
    return sum_terms(plan_costs(network, plans, batch, machine, **options), SECONDS)


def plan_costs(
    network: Network, plans: Sequence[Plan], batch: int, machine: Machine, **options: Any
) -> list[CostTerms]:
    """The terms of every group and edge of some plans: arrays with one element a plan."""
    names = group_layers(network, batch).groups
    spaces = {name: Space([plan.splits[name] for plan in plans]) for name in names}
    model = CostModel(network, plans[0].grid.size, batch, machine, spaces=spaces, **options)
    return model.matched()


def sum_terms(terms: Sequence[CostTerms], names: Sequence[str]) -> Numbers:
    """The sum of some terms over all groups and edges."""
    return reduce(np.add, (one[name] for one in terms for name in names if name in one))


def _seconds(terms: CostTerms, weights: Mapping[str, float]) -> Numbers:
    return reduce(np.add, (weights.get(name, 1.0) * terms[name] for name in SECONDS if name in terms))
