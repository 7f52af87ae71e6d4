"""The cheapest choice as a mixed-integer linear program, solved by HiGHS: with a memory limit, and with a certificate.

x[v, i] is 1 if node v has configuration i; y[u, v, i, j] is 1 if u has i and v has j. Every node has one configuration,
and the sums of y over j and over i are x[u, i] and x[v, j], so that only x must be whole.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gridnn.errors import UserError
from gridnn.planning.search.arrays import Integers, Numbers
from gridnn.planning.search.dominated import undominated
from gridnn.planning.search.eliminate import TooEntangledError, eliminate
from gridnn.planning.search.graph import CostGraph, InfeasibleError, Solution

SCALE = 1e4  # the objective's size: HiGHS stops at an absolute difference of 1e-6
FREE = 1 << 26  # bytes of a table of the elimination that finds the optimum without a limit
INFEASIBLE = 2


class MemoryLimitError(InfeasibleError):
    """No choice fits into the memory; ``least`` bytes would do."""

    def __init__(self, text: str, least: float) -> None:
        super().__init__(text)
        self.least = least


class Reduced(NamedTuple):
    """A graph of the configurations ``kept[v]`` of every node only, and what they take of the memory."""

    graph: CostGraph
    memory: list[Numbers] | None
    kept: list[Integers]


def solve(graph: CostGraph, memory: Sequence[Numbers] | None = None, limit: float | None = None) -> Solution:
    """The cheapest choice of ``graph`` whose memory is at most ``limit``, in bytes.

    ``memory`` has the bytes of every configuration of every node; their sum over the nodes is limited.
    `MemoryLimitError` if no choice fits: it says how little would do (``least``), and which node needs most;
    `InfeasibleError` if every choice costs infinity, `UserError` if scipy is not installed.
    """
    start = time.perf_counter()
    memory = None if limit is None else _checked(graph, memory, limit)
    reduced = _reduced(graph, memory)
    free, scale = _free(reduced.graph)
    answer = _run(reduced, limit, scale)
    if answer.x is None:
        if answer.status == INFEASIBLE and memory is not None and limit is not None:
            raise _needs(graph, memory, limit)
        why = "every choice costs infinity" if answer.status == INFEASIBLE else f"none found: {answer.message}"
        raise InfeasibleError(f"{why}; allow more configurations")
    chosen, first = [], 0
    for kept in reduced.kept:
        chosen.append(int(kept[int(np.argmax(answer.x[first : first + kept.size]))]))
        first += kept.size
    value = graph.total(chosen)
    bound = min(value, max(free, -np.inf if answer.mip_dual_bound is None else answer.mip_dual_bound * scale))
    if abs(value - bound) <= 1e-9 * abs(value):  # what the solver's tolerances leave
        bound = value
    return Solution(tuple(chosen), value, bound, time.perf_counter() - start, len(graph.names), "milp")


def _checked(graph: CostGraph, memory: Sequence[Numbers] | None, limit: float) -> Sequence[Numbers]:
    """The memory; refuse a limit without bytes, or one that the sum of every node's least exceeds."""
    if memory is None or [np.shape(bytes_) for bytes_ in memory] != [(size,) for size in graph.sizes]:
        raise ValueError("a memory limit needs an array of bytes for every node, as long as its costs")
    if sum(float(np.min(bytes_)) for bytes_ in memory) > limit:
        raise _needs(graph, memory, limit)
    return memory


def _needs(graph: CostGraph, memory: Sequence[Numbers], limit: float) -> MemoryLimitError:
    """The least memory, found as the cheapest choice where the cost is the memory, and the node that needs most."""
    allowed = [np.where(np.isinf(cost), np.inf, bytes_) for cost, bytes_ in zip(graph.costs, memory, strict=True)]
    edges = {key: np.where(np.isinf(table), np.inf, 0.0) for key, table in graph.edges.items()}
    best = solve(CostGraph(graph.names, allowed, edges))
    needs = [float(bytes_[i]) for bytes_, i in zip(memory, best.choice, strict=True)]
    most = int(np.argmax(needs))
    return MemoryLimitError(
        f"the least memory of any choice is {best.value:.0f} bytes > {limit:.0f} bytes allowed; most of it "
        f"({needs[most]:.0f}) is for {graph.names[most]!r}: allow {best.value:.0f} bytes, or divide over more ranks",
        best.value,
    )


def _reduced(graph: CostGraph, memory: Sequence[Numbers] | None) -> Reduced:
    """The graph without the configurations that another one of the same node replaces at no higher cost."""
    kept = undominated(graph, memory)
    costs = [cost[rows] for cost, rows in zip(graph.costs, kept, strict=True)]
    edges = {(u, v): table[np.ix_(kept[u], kept[v])] for (u, v), table in graph.edges.items()}
    bytes_ = None if memory is None else [m[rows] for m, rows in zip(memory, kept, strict=True)]
    return Reduced(CostGraph(graph.names, costs, edges), bytes_, kept)


def _free(graph: CostGraph) -> tuple[float, float]:
    """The optimum without a memory limit (minus infinity where it is not known soon), and the objective's unit."""
    largest = max(float(np.abs(a[np.isfinite(a)]).max(initial=0.0)) for a in (*graph.costs, *graph.edges.values()))
    try:
        free = eliminate(graph, FREE).value
    except TooEntangledError:
        return -np.inf, (largest or 1.0) / SCALE
    return free, (abs(free) or largest or 1.0) / SCALE


def _run(reduced: Reduced, limit: float | None, scale: float) -> Any:
    """HiGHS's answer; its objective is in units of ``scale``."""
    try:
        from scipy import optimize, sparse
    except ImportError:
        raise UserError("the search by milp needs scipy: pip install 'gridnn[plan]'") from None
    graph = reduced.graph
    objective = np.concatenate([*graph.costs, *(table.ravel() for table in graph.edges.values())])
    allowed = np.isfinite(objective)
    objective = np.where(allowed, objective, 0.0)
    rows, columns, values, sides = _equations(graph)
    shape = (len(sides), objective.size)
    constraints = [optimize.LinearConstraint(sparse.csr_array((values, (rows, columns)), shape=shape), sides, sides)]
    count = sum(graph.sizes)
    if reduced.memory is not None and limit is not None:
        part = np.concatenate([np.concatenate(reduced.memory), np.zeros(objective.size - count)]) / max(limit, 1.0)
        constraints.append(optimize.LinearConstraint(sparse.csr_array(part[None]), -np.inf, limit / max(limit, 1.0)))
    return optimize.milp(
        objective / scale,
        integrality=(np.arange(objective.size) < count).astype(int),
        bounds=optimize.Bounds(0.0, allowed.astype(float)),
        constraints=constraints,
        options={"mip_rel_gap": 0.0},
    )


def _equations(graph: CostGraph) -> tuple[Integers, Integers, Numbers, Numbers]:
    """Rows, columns and values of the equations, and their right sides."""
    sizes = graph.sizes
    at = np.concatenate([[0], np.cumsum(sizes)])
    nodes = len(sizes)
    rows, columns = [np.repeat(np.arange(nodes), sizes)], [np.arange(at[-1])]
    values = [np.ones(at[-1])]
    row, column = nodes, int(at[-1])
    for u, v in graph.edges:
        shape = sizes[u], sizes[v]
        i, j = np.indices(shape).reshape(2, -1)
        y = column + np.arange(i.size)
        for end, place in ((u, i), (v, j)):
            rows += [row + place, row + np.arange(sizes[end])]
            columns += [y, at[end] + np.arange(sizes[end])]
            values += [np.ones(y.size), -np.ones(sizes[end])]
            row += sizes[end]
        column += i.size
    sides = np.concatenate([np.ones(nodes), np.zeros(row - nodes)])
    return np.concatenate(rows), np.concatenate(columns), np.concatenate(values), sides
