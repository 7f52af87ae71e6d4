"""The strategy ``optimal``: one search over all axes and replicas of all layers, its best few plans priced as they run.

The model (`gridnn.planning.search.cost_model`) prices layers and transfers one after the other; elimination, or HiGHS
under a memory limit, finds its optimum with a proof. What runs overlaps, so the optimum, the optima of models in which
gradient sums cost less or nothing, and the best grid of every named strategy are priced by the event simulation; the
fastest wins.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from gridnn.cost.memory import Peak, peak
from gridnn.cost.price import Price
from gridnn.layout.gridshape import GridShape
from gridnn.planning.plan import Plan
from gridnn.planning.propagate import propagate
from gridnn.planning.search.baselines import best_grids, distinct_plans
from gridnn.planning.search.cost_model import CostModel
from gridnn.planning.search.eliminate import eliminate
from gridnn.planning.search.graph import CostGraph, Solution
from gridnn.planning.search.limits import check_ranks, unmet
from gridnn.planning.search.milp import MemoryLimitError, solve
from gridnn.planning.search.request import PlanRequest
from gridnn.program.program import Program

# Gradient sums run behind the rest of the backward pass: what of them is not hidden is between all and nothing.
UNHIDDEN = (1.0, 0.5, 0.25, 0.0)
ATTEMPTS = 8  # tightenings of a memory limit
TIGHTER = 0.99  # each by at least this factor


class Found(NamedTuple):
    """What the search found."""

    # plan, price: the fastest plan by the event simulation
    plan: Plan
    price: Price
    # ``optimal`` or ``within x %``: what the search proved of the model's optimum; None where the memory held only
    # plans of named strategies
    certificate: str | None
    bound: float  # no plan of the space takes less seconds in the model, in which nothing overlaps
    seconds: float  # what model and search took, without the prices of single plans
    compared: int  # how many configurations of how many layers were compared, in all
    # all plans that were priced, the fastest first: the model's optima are called ``optimal``
    candidates: list[Price]


def plan_optimal(request: PlanRequest, others: Sequence[Plan] = ()) -> Found:
    """The fastest plan that the search finds; never slower than the best grid of a named rule, nor than ``others``.

    `UserError` if no plan meets the memory limit, or there are more ranks than the network can use.
    """
    start = time.perf_counter()
    case = request.network, request.ranks, request.smallest, request.compared_on
    model = CostModel(*case, at_most=request.at_most, **request.cost_options)
    check_ranks(model)
    search = Search(request, model)
    solutions = search.solutions(UNHIDDEN if request.axes == "few" else UNHIDDEN[::3])
    seconds = time.perf_counter() - start
    rules = best_grids(request, None if request.memory is None else search.fits)
    plans = list(distinct_plans([*(search.plan(one.choice) for one in solutions), *rules, *others], grids=True))
    candidates = search.priced(plans)
    if not candidates:
        raise unmet(model, request.limit, search.least)
    candidates.sort(key=lambda one: one.seconds)  # stable: of equals the model's optimum, then the first rule
    best = candidates[0]
    certificate, bound = _certified(solutions)
    compared = sum(map(len, model.space.values()))
    plan = replace(best.plan, strategy="optimal", certificate=certificate)
    return Found(plan, best, certificate, bound, seconds, compared, candidates)


def _certified(solutions: Sequence[Solution]) -> tuple[str | None, float]:
    """What the first solution proves, and its bound; nothing if the memory held none of the search's plans."""
    if not solutions:
        return None, 0.0
    first = solutions[0]
    return "optimal" if first.is_optimal else f"within {100 * first.gap:.2g} %", first.bound


class Search:
    """The plans of a model's optima, with their prices."""

    def __init__(self, request: PlanRequest, model: CostModel) -> None:
        self.request, self.model, self.memory = request, model, request.limit
        self.least: Peak | None = None  # of all plans that were looked at

    def solutions(self, weights: Sequence[float]) -> list[Solution]:
        """The optimum of the model, and those where gradient sums are weighted, within the memory limit."""
        graphs = [self.model.weighted({"gradient latency": w, "gradient bandwidth": w}) for w in weights]
        if self.request.memory is None:
            return [eliminate(graph) for graph in graphs]
        return [found for found in map(self._within, graphs) if found is not None]

    def _within(self, graph: CostGraph) -> Solution | None:
        """The optimum within the memory, or None.

        The search adds up what layers keep; what a step really needs at its peak is some multiple of that. So the limit
        of the search is tightened by the multiple that the last plan had, until its peak is within the memory.
        """
        kept = sum(float(own.min()) for own in self.model.memory)
        too_large = [passing > self.memory - kept for passing in self.model.passing]
        if any(large.all() for large in too_large):
            return None
        graph = graph.without(too_large)
        solution = eliminate(graph)
        for _ in range(ATTEMPTS):
            needed = self._seen(self.request.price(self.plan(solution.choice)).memory)
            if needed <= self.memory:
                return solution
            used = sum(float(kept[i]) for kept, i in zip(self.model.memory, solution.choice, strict=True))
            try:
                solution = solve(graph, self.model.memory, min(used * self.memory / needed, TIGHTER * used))
            except MemoryLimitError:
                break
        return None

    def fits(self, plan: Plan) -> bool:
        """Whether the memory holds a plan, as far as its last rank tells, which has the largest parts."""
        request = self.request
        program, several = Program(request.network, plan, max(request.passes)), len(request.passes) > 1
        policy = request.compared_on.policy(request.itemsize)
        found = peak(program, request.ranks - 1, slots=request.slots, accumulate=several, policy=policy)
        return self._seen(found) <= self.memory

    def _seen(self, found: Peak) -> int:
        if self.least is None or found.total < self.least.total:
            self.least = found
        return found.total

    def plan(self, choice: Sequence[int]) -> Plan:
        """A choice as a plan: its Pc is the number of parts of the batch where most words are moved or summed."""
        model = self.model
        splits = propagate(model.network, model.splits(choice), model.ranks, model.batch, replicas=True)
        cols = self._columns(choice)
        return Plan("optimal", GridShape(model.ranks // cols, cols, self.request.order), splits, **self.request.options)

    def _columns(self, choice: Sequence[int]) -> int:
        words: dict[int, float] = {}
        for name, place in zip(self.model.names, choice, strict=True):
            terms, split = self.model.node_costs(name), self.model.space[name].splits[place]
            share = terms["words"][place] + terms["gradient words"][place]
            words[split.parts("n")] = words.get(split.parts("n"), 0.0) + share
        return max(words, key=lambda parts: (words[parts], parts))

    def priced(self, plans: Sequence[Plan]) -> list[Price]:
        """The prices of ``plans`` that the memory holds."""
        priced = map(self.request.price, plans)
        return [one for one in priced if one.memory.total <= self.memory]
