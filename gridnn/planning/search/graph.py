"""A choice to be made at every node of a graph, with costs of nodes and edges: numbers only, nothing of networks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from gridnn.errors import UserError
from gridnn.planning.search.arrays import Flags, Numbers

Edges = Mapping[tuple[int, int], Numbers] | Iterable[tuple[tuple[int, int], Numbers]]


class InfeasibleError(UserError):
    """No choice is allowed."""


class Solution(NamedTuple):
    """What a search found."""

    choice: tuple[int, ...]  # the configuration of every node
    value: float  # `CostGraph.total` of it
    bound: float  # no choice is cheaper than that; equal to ``value`` where the search proved it
    seconds: float  # what the search took
    # how many nodes node and edge elimination could not remove, and had to be enumerated otherwise; 0 if none
    left: int
    method: str  # ``elimination``, ``milp`` or ``exhaustive``

    @property
    def is_optimal(self) -> bool:
        """Whether nothing is cheaper, up to rounding."""
        return self.gap <= 1e-8

    @property
    def gap(self) -> float:
        """By what share of ``value`` something may be cheaper at the most."""
        return max(0.0, self.value - self.bound) / abs(self.value) if self.value else 0.0


class CostGraph:
    """Costs of a choice at every node.

    ``names`` are those of the nodes; ``costs[v][i]`` is what configuration i of node v costs, and infinity forbids it.
    By the numbers of two nodes, ``edges[u, v][i, j]`` is what configuration i of u costs next to j of v. They are given
    as a mapping or as pairs; parallel ones are added (edge elimination, eq (3) of Jia et al. 2018), whatever their
    direction, and kept with u < v. `ValueError` if a shape does not fit, a number is NaN or minus infinity, or an edge
    joins a node to itself.
    """

    def __init__(self, names: Sequence[str], costs: Sequence[Numbers], edges: Edges) -> None:
        self.names = tuple(names)
        self.costs = tuple(np.asarray(cost, dtype=np.float64) for cost in costs)
        if len(self.names) != len(self.costs):
            raise ValueError(f"{len(self.names)} names and {len(self.costs)} arrays of costs: give one a node")
        for name, cost in zip(self.names, self.costs, strict=True):
            if cost.ndim != 1 or not cost.size:
                raise ValueError(f"node {name!r}: costs of shape {cost.shape}, expected (C,) with C at least 1")
            _numbers(f"node {name!r}", cost)
        self.edges = _added(self.names, self.costs, edges)

    @property
    def sizes(self) -> tuple[int, ...]:
        """C of every node: how many configurations it has."""
        return tuple(cost.size for cost in self.costs)

    def total(self, choice: Sequence[int]) -> float:
        """The cost of one configuration for every node, eq (1)."""
        if len(choice) != len(self.costs):
            raise ValueError(f"a choice of {len(choice)} configurations for {len(self.costs)} nodes: give one a node")
        nodes = sum(float(cost[i]) for cost, i in zip(self.costs, choice, strict=True))
        return nodes + sum(float(table[choice[u], choice[v]]) for (u, v), table in self.edges.items())

    def without(self, forbidden: Sequence[Flags]) -> CostGraph:
        """This graph with the configurations forbidden for which ``forbidden[v]`` is True."""
        costs = [np.where(no, np.inf, cost) for no, cost in zip(forbidden, self.costs, strict=True)]
        return CostGraph(self.names, costs, self.edges)


def _added(names: tuple[str, ...], costs: tuple[Numbers, ...], edges: Edges) -> dict[tuple[int, int], Numbers]:
    """One table for every pair of nodes that are joined, the lower number first."""
    tables: dict[tuple[int, int], Numbers] = {}
    for (u, v), given in edges.items() if isinstance(edges, Mapping) else edges:
        if u == v or not (0 <= u < len(costs) and 0 <= v < len(costs)):
            raise ValueError(f"edge ({u}, {v}): give two different numbers of nodes, 0 to {len(costs) - 1}")
        table, expected = np.asarray(given, dtype=np.float64), (costs[u].size, costs[v].size)
        where = f"edge {names[u]!r} to {names[v]!r}"
        if table.shape != expected:
            raise ValueError(f"{where}: a table of shape {table.shape}, expected {expected}")
        _numbers(where, table)
        key, table = ((u, v), table) if u < v else ((v, u), table.T)
        tables[key] = tables[key] + table if key in tables else table
    return tables


def _numbers(where: str, array: Numbers) -> None:
    if np.isnan(array).any() or np.isneginf(array).any():
        raise ValueError(f"{where}: a cost is NaN or minus infinity; give numbers, or infinity for what is forbidden")
