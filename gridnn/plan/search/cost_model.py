"""The step time of a network for every choice of splits: a graph of small cost tables, from the transfers that run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from gridnn.cost.machine import Machine
from gridnn.layout.split import Split
from gridnn.network import Network
from gridnn.plan.plan import Plan
from gridnn.plan.search.edge_costs import Pairs, Setting, Terms
from gridnn.plan.search.graph import CostGraph
from gridnn.plan.search.groups import allowed, condense, together
from gridnn.plan.search.node_costs import Pricer
from gridnn.plan.search.space import FEW, Space, configurations

SECONDS = ("compute", "update", "latency", "bandwidth", "gradient latency", "gradient bandwidth")


class CostModel:
    """Costs of every configuration of every layer with a choice, and of every pair of configurations of neighbours.

    Parameters
    ----------
    network : Network
    ranks : int
        P, any integer.
    batch : int
        Samples of one pass.
    machine : Machine
    at_most : int or None
        Factors of a split at the most, see `gridnn.plan.search.space.configurations`.
    spaces : mapping of str to Space, optional
        The configurations to compare, instead of all of them.
    setting
        `itemsize`, `slots`, `passes`, `full_sum`, `recompute` of `gridnn.plan.search.edge_costs.Setting`.

    Attributes
    ----------
    names : list of str
        The layers with a choice; the others follow them.
    space : dict of str to Space
        Their configurations.
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
        **setting,
    ) -> None:
        self.network, self.batch, self.ranks = network, batch, ranks
        self.condensed = condense(network, batch)
        self.names = list(self.condensed.blocks)
        self.setting = Setting(ranks, machine, **setting)
        self._pricer = Pricer(self.setting)
        self._nodes: dict[tuple, Terms] = {}
        self._links: dict[tuple, Pairs] = {}
        self.space = dict(spaces) if spaces is not None else self._spaces(at_most)

    def _spaces(self, at_most: int | None) -> dict[str, Space]:
        """The configurations of every block; equal blocks share one object, and so their costs."""
        known: dict[object, Space] = {}
        spaces = {}
        for name, block in self.condensed.blocks.items():
            if block not in known:
                may, both = allowed(block, self.ranks), together(block, self.ranks)
                limits = frozenset(may.items()), both
                if limits not in known:
                    splits = configurations(self.ranks, may, at_most)
                    known[limits] = Space([s for s in splits if s.parts("co") * s.parts("ci") in both])
                known[block] = known[limits]
            spaces[name] = known[block]
        return spaces

    # -- what it costs ---------------------------------------------------------------------------------------

    def node_terms(self, name: str) -> Terms:
        """The costs of layer ``name`` and of those that follow it, by term and configuration."""
        block, space = self.condensed.blocks[name], self.space[name]
        key = block, id(space)
        if key not in self._nodes:
            self._nodes[key] = self._pricer.block(block, space)
        return self._nodes[key]

    def edge_terms(self, u: str, v: str) -> Terms:
        """The costs of moving the tensors from ``u`` to ``v``, by term and pair of configurations."""
        found: Terms = {}
        for pairs in self._pairs(u, v):
            spread = {name: pairs.spread(array) for name, array in pairs.terms.items()}
            found = {name: found[name] + spread[name] for name in found} if found else spread
        return found

    def _pairs(self, u: str, v: str) -> list[Pairs]:
        """The costs of the links between two layers."""
        blocks, found = self.condensed.blocks, []
        for link in self.condensed.links:
            if (link.source, link.target) == (u, v):
                key = blocks[u], id(self.space[u]), link.member, blocks[v], id(self.space[v]), link.index
                if key not in self._links:
                    ends = blocks[u], self.space[u], link.member, blocks[v], self.space[v], link.index
                    self._links[key] = self._pricer.link(*ends)
                found.append(self._links[key])
        return found

    def along(self) -> list[Terms]:
        """The terms of every layer and link, the first configurations of all layers together, then the second ones."""
        blocks = self.condensed.blocks
        links = (
            self._pricer.along(
                blocks[link.source],
                self.space[link.source],
                link.member,
                blocks[link.target],
                self.space[link.target],
                link.index,
            )
            for link in self.condensed.links
        )
        return [*map(self.node_terms, self.names), *links]

    @property
    def edges(self) -> list[tuple[str, str]]:
        """The pairs of layers with a choice between which tensors move."""
        return list(dict.fromkeys((link.source, link.target) for link in self.condensed.links))

    @property
    def memory(self) -> list[np.ndarray]:
        """The bytes that every configuration of every layer keeps on a rank: weights, gradients, optimizer, outputs."""
        return [self.node_terms(name)["memory"] for name in self.names]

    @property
    def passing(self) -> list[np.ndarray]:
        """The bytes that come and go while a layer runs, beside what all layers keep."""
        return [self.node_terms(name)["passing memory"] for name in self.names]

    @cached_property
    def graph(self) -> CostGraph:
        """The costs in seconds, for the search."""
        return self.weighted({})

    def weighted(self, weights: Mapping[str, float]) -> CostGraph:
        """The costs in seconds with some terms multiplied: ``{"gradient bandwidth": 0.5}``."""
        place = {name: number for number, name in enumerate(self.names)}
        made: dict[int, np.ndarray] = {}  # equal links share one table

        def table(pairs: Pairs) -> np.ndarray:
            if id(pairs) not in made:
                made[id(pairs)] = pairs.spread(_seconds(pairs.terms, weights))
            return made[id(pairs)]

        costs = [_seconds(self.node_terms(name), weights) for name in self.names]
        edges = [((place[u], place[v]), table(pairs)) for u, v in self.edges for pairs in self._pairs(u, v)]
        return CostGraph(self.names, costs, edges)

    # -- plans -----------------------------------------------------------------------------------------------

    def splits(self, choice: Sequence[int]) -> dict[str, Split]:
        """The splits of a choice, for `gridnn.plan.propagate.propagate`."""
        return {name: self.space[name].splits[place] for name, place in zip(self.names, choice, strict=True)}


def total_seconds(network: Network, plans: Sequence[Plan], batch: int, machine: Machine, **setting) -> np.ndarray:
    """The model's seconds of some plans, all at once."""
    return sum_along(along(network, plans, batch, machine, **setting), SECONDS)


def along(network: Network, plans: Sequence[Plan], batch: int, machine: Machine, **setting) -> list[Terms]:
    """The terms of every layer and link of some plans: arrays with one element a plan."""
    names = condense(network, batch).blocks
    spaces = {name: Space([plan.splits[name] for plan in plans]) for name in names}
    model = CostModel(network, plans[0].grid.size, batch, machine, spaces=spaces, **setting)
    return model.along()


def sum_along(terms: Sequence[Terms], names: Sequence[str]) -> np.ndarray:
    """The sum of some terms over all layers and links."""
    return sum(one[name] for one in terms for name in names if name in one)


def _seconds(terms: Terms, weights: Mapping[str, float]) -> np.ndarray:
    return sum(weights.get(name, 1.0) * terms[name] for name in SECONDS if name in terms)
