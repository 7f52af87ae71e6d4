"""Configurations that no cheapest choice needs, because another one of the same node always does as well."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np

from gridnn.planning.search.arrays import Integers, Numbers
from gridnn.planning.search.graph import CostGraph

MOST = 200  # configurations of a node: comparing all pairs takes the square of that, for every one of its neighbours'


def undominated(graph: CostGraph, memory: Sequence[Numbers] | None = None) -> list[Integers]:
    """The configurations of every node that are left.

    Configuration k replaces i if it costs no more than i whatever the neighbours have, ``cost[k] - cost[i] + (sum over
    the edges of max over j of edge[k, j] - edge[i, j]) <= 0``, and takes no more memory. Each node is compared in the
    graph that those before it left, so that never all of several equal choices go.
    """
    kept = [np.arange(size) for size in graph.sizes]
    for v, size in enumerate(graph.sizes):
        if size <= MOST:
            kept[v] = _kept(graph, kept, v, None if memory is None else memory[v])
    return kept


def _kept(graph: CostGraph, kept: list[Integers], v: int, memory: Numbers | None) -> Integers:
    tables = [graph.costs[v][:, None]]
    tables += [table[:, kept[b]] for (a, b), table in graph.edges.items() if a == v]
    tables += [table[kept[a]].T for (a, b), table in graph.edges.items() if b == v]
    more = reduce(np.add, map(_more, tables))
    impossible = np.any([np.isinf(table).all(axis=1) for table in tables], axis=0)
    replaces = (more <= 0) | impossible  # [k, i]
    if memory is not None:
        replaces &= (memory[:, None] <= memory) | impossible
    np.fill_diagonal(replaces, False)
    left = np.ones(len(more), dtype=bool)
    for i in range(len(more)):
        left[i] = not (replaces[:, i] & left).any()
    return np.flatnonzero(left)


def _more(table: Numbers) -> Numbers:
    """By how much row k exceeds row i at the most, where i is not forbidden: [k, i]."""
    forbidden = np.isinf(table)
    finite = np.where(forbidden, 0.0, table)
    most = np.empty((len(table), len(table)))
    for k, row in enumerate(table):
        most[k] = np.where(forbidden, -np.inf, row - finite).max(axis=1)
    return np.where(forbidden.all(axis=1), 0.0, most)  # an impossible row is replaced by any other
