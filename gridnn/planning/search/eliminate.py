"""The cheapest choice by elimination: node after node is replaced by what it costs its neighbours at the least.

Jia, Lin, Qi, Aiken 2018 (arXiv 1802.04924) eliminate nodes with one edge in and one out (eq (2)) and add parallel edges
(eq (3)), and enumerate the nodes that are left. Here leaves go too, and a node with more than two neighbours leaves a
table over all of them (bucket elimination, Dechter 1999), so that no node is left.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from gridnn.planning.search.arrays import Numbers
from gridnn.planning.search.graph import CostGraph, InfeasibleError, Solution

BLOCK = 1 << 15  # elements of the running minimum: with its candidates 512 KiB, which stays in a core's cache
MEMORY = 1 << 30  # bytes of one table


class Factor(NamedTuple):
    """A cost that depends on the configurations of the nodes ``scope``, one dimension each."""

    scope: tuple[int, ...]
    table: Numbers


class TooEntangledError(ValueError):
    """The graph has no order of elimination whose tables fit into the memory."""


def eliminate(graph: CostGraph, memory: int = MEMORY) -> Solution:
    """The cheapest choice of ``graph``; of equal ones always the same.

    With C configurations a node it takes C^3 operations for every node that has two neighbours in the end; chains,
    residual blocks and inception modules (series-parallel graphs) have no other ones. `TooEntangledError` if a table
    would take more than ``memory`` bytes, `InfeasibleError` if every choice costs infinity.
    """
    start = time.perf_counter()
    bucket = _Bucket(graph)
    steps: list[tuple[int, list[Factor]]] = []
    wide = 0
    for v in bucket.order():
        neighbours = bucket.neighbours(v)
        if bucket.size(v) * 8 > memory:
            raise _entangled(graph, v, len(neighbours), bucket.size(v) * 8, memory)
        factors = bucket.take(v)
        steps.append((v, factors))
        wide += len(neighbours) > 2
        if neighbours:
            bucket.put(neighbours, least(v, neighbours, factors, graph.sizes))
    choice = _undo(steps, len(graph.costs))
    value = graph.total(choice)
    if math.isinf(value):
        raise InfeasibleError("every choice costs infinity: allow configurations that fit together")
    return Solution(choice, value, value, time.perf_counter() - start, wide, "elimination")


class _Bucket:
    """The factors that are left, by the nodes that they depend on."""

    def __init__(self, graph: CostGraph) -> None:
        self.sizes = graph.sizes
        self.factors: list[dict[tuple[int, ...], Numbers]] = [{(v,): cost} for v, cost in enumerate(graph.costs)]
        for scope, table in graph.edges.items():
            self.put(scope, table)

    def neighbours(self, v: int) -> tuple[int, ...]:
        return tuple(sorted({u for scope in self.factors[v] for u in scope} - {v}))

    def size(self, v: int) -> int:
        """How many elements the table has that ``v`` leaves."""
        return math.prod(self.sizes[u] for u in self.neighbours(v))

    def order(self) -> Iterator[int]:
        """The nodes, always the one next that leaves the smallest table; the caller takes each before the next."""
        queue = [(self.size(v), v) for v in range(len(self.sizes))]
        heapq.heapify(queue)
        done = set()
        while queue:
            size, v = heapq.heappop(queue)
            if v in done or size != self.size(v):  # from before its neighbours changed
                continue
            neighbours = self.neighbours(v)
            done.add(v)
            yield v
            for u in neighbours:
                heapq.heappush(queue, (self.size(u), u))

    def take(self, v: int) -> list[Factor]:
        """The factors that depend on ``v``, which are left no longer."""
        taken = [Factor(*item) for item in self.factors[v].items()]
        for factor in taken:
            for u in factor.scope:
                del self.factors[u][factor.scope]
        return taken

    def put(self, scope: tuple[int, ...], table: Numbers) -> None:
        """Add a factor; a parallel one is added up, eq (3)."""
        there = self.factors[scope[0]].get(scope)
        table = table if there is None else there + table
        for u in scope:
            self.factors[u][scope] = table


def least(v: int, neighbours: tuple[int, ...], factors: list[Factor], sizes: tuple[int, ...]) -> Numbers:
    """The least sum of ``factors`` over the configurations of ``v``, for all of those of its neighbours: eq (2)."""
    tables = _joined([_aligned(v, neighbours, factor) for factor in factors])
    shape = tuple(sizes[u] for u in neighbours)
    out = np.full(shape, np.inf)
    rows = max(1, BLOCK // math.prod(shape[1:]))
    for first in range(0, shape[0], rows):
        part = out[first : first + rows]
        sums = np.empty_like(part)
        first_table, *others = (t[:, first : first + rows] if t.shape[1] > 1 else t for t in tables)
        for i in range(sizes[v]):
            candidates = first_table[i]
            for table in others:
                candidates = np.add(candidates, table[i], out=sums)
            np.minimum(part, candidates, out=part)
    return out


def _joined(tables: list[Numbers]) -> list[Numbers]:
    """The costs of the node itself added to its smallest table, so that fewer additions are left for the loop."""
    alone, *others = sorted(tables, key=np.size)
    return [alone + others[0], *others[1:]]


def _aligned(v: int, neighbours: tuple[int, ...], factor: Factor) -> Numbers:
    """A factor with ``v`` as its first dimension, then the neighbours, of length 1 where it does not depend on one."""
    order = (v, *neighbours)
    places = [order.index(u) for u in factor.scope]
    table: Numbers = factor.table.transpose(sorted(range(len(places)), key=places.__getitem__))
    lengths = iter(table.shape)
    return table.reshape([next(lengths) if u in factor.scope else 1 for u in order])


def _undo(steps: list[tuple[int, list[Factor]]], count: int) -> tuple[int, ...]:
    """The choices, the node eliminated last first: its neighbours at that time are known then."""
    choice = [0] * count
    for v, factors in reversed(steps):
        costs = sum(f.table[tuple(slice(None) if u == v else choice[u] for u in f.scope)] for f in factors)
        choice[v] = int(np.argmin(costs))
    return tuple(choice)


def _entangled(graph: CostGraph, v: int, degree: int, needed: int, memory: int) -> TooEntangledError:
    return TooEntangledError(
        f"node {graph.names[v]!r} would leave a table over {degree} neighbours of {needed} bytes, more than {memory}: "
        "allow fewer configurations (fewer axes divided), or search by milp"
    )
