"""The cheapest choice by depth-first search with a bound: slow, and independent of how the others find it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from gridnn.planning.search.arrays import Numbers
from gridnn.planning.search.graph import CostGraph, InfeasibleError, Solution

CHECK = 1 << 12  # visits between two looks at the clock


class Ahead(NamedTuple):
    """A node as the search meets it: its costs, and the tables [earlier configuration, own] of the nodes before it."""

    costs: Numbers
    before: tuple[tuple[int, Numbers], ...]


def search(graph: CostGraph, seconds: float | None = None, *, ahead: bool = True) -> Solution:
    """Try every choice of ``graph`` that may be cheaper than the best one so far.

    The nodes are chosen in their order. What those that are not chosen yet cost at the least is the sum, over them, of
    their cheapest configuration with the cheapest edges from before; where that is too much, the rest is left out.
    Without ``ahead`` only what is chosen counts, as in the baseline of Jia et al. 2018, which needs costs that are not
    negative. The search stops after ``seconds``; then the ``bound`` may be below the ``value``. `InfeasibleError` if
    every choice costs infinity, or none was found in time.
    """
    start = time.perf_counter()
    nodes = [
        Ahead(cost, tuple((u, table) for (u, w), table in graph.edges.items() if w == v))
        for v, cost in enumerate(graph.costs)
    ]
    rest = _rest(nodes)
    bounds = rest if ahead else [0.0] * len(rest)
    best, value = None, math.inf
    finished = True
    choice = [0] * len(nodes)
    open_ = [_branches(nodes, choice, 0, 0.0)] if nodes else []
    visits = 0
    while open_:
        visits += 1
        if seconds is not None and visits % CHECK == 0 and time.perf_counter() - start > seconds:
            finished = False
            break
        depth = len(open_) - 1
        cost, i = next(open_[-1], (math.inf, 0))
        if cost + bounds[depth + 1] >= value:  # the branches come in order: none of the others is cheaper
            open_.pop()
            continue
        choice[depth] = i
        if depth + 1 == len(nodes):
            best, value = tuple(choice), cost
        else:
            open_.append(_branches(nodes, choice, depth + 1, cost))
    if best is None:
        why = "every choice costs infinity" if finished else f"no choice found in {seconds} s"
        raise InfeasibleError(f"{why}; allow other configurations, or more seconds")
    value = graph.total(best)
    bound = value if finished else min(value, rest[0])
    return Solution(best, value, bound, time.perf_counter() - start, len(nodes), "exhaustive")


def _rest(nodes: list[Ahead]) -> list[float]:
    """What the nodes from each one on cost at the least."""
    least = [float((node.costs + sum(table.min(axis=0) for _, table in node.before)).min()) for node in nodes]
    return [*np.cumsum(least[::-1])[::-1].tolist(), 0.0]


def _branches(nodes: list[Ahead], choice: list[int], depth: int, cost: float) -> Iterator[tuple[float, int]]:
    """The configurations of a node, the cheapest first, with the cost of all nodes up to it."""
    node = nodes[depth]
    costs = cost + node.costs
    for u, table in node.before:
        costs = costs + table[choice[u]]
    order = np.argsort(costs, kind="stable")
    return zip(costs[order].tolist(), order.tolist(), strict=True)
