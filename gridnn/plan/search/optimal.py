"""The strategy ``optimal``: one search over all axes and copies of all layers, its best few plans priced as they run.

The model (`gridnn.plan.search.cost_model`) prices layers and transfers one after the other; elimination, or HiGHS under
a memory limit, finds its optimum with a proof. What runs overlaps, so the optimum, the optima of models in which
gradient sums cost less or nothing, and the best grid of every named strategy are priced by the event simulation; the
fastest wins.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from gridnn.cost.machine import Machine
from gridnn.cost.memory import Peak, peak
from gridnn.cost.price import Price, price
from gridnn.layout.gridshape import GridShape
from gridnn.network import Network
from gridnn.plan.plan import Plan
from gridnn.plan.propagate import propagate
from gridnn.plan.search.baselines import best_grids, different
from gridnn.plan.search.cost_model import CostModel
from gridnn.plan.search.eliminate import eliminate
from gridnn.plan.search.graph import CostGraph, Solution
from gridnn.plan.search.limits import check_ranks, unmet
from gridnn.plan.search.milp import MemoryLimitError, solve
from gridnn.plan.search.space import FEW
from gridnn.program.program import Program, pass_programs, pass_sizes

# Gradient sums run behind the rest of the backward pass: what of them is not hidden is between all and nothing.
UNHIDDEN = (1.0, 0.5, 0.25, 0.0)
ATTEMPTS = 8  # tightenings of a memory limit
TIGHTER = 0.99  # each by at least this factor


class Beside(NamedTuple):
    """A plan that was priced beside the winner: what made it, and its price."""

    strategy: str
    price: Price


class Found(NamedTuple):
    """What the search found.

    Attributes
    ----------
    plan, price : Plan, Price
        The fastest plan by the event simulation.
    certificate : str or None
        ``optimal`` or ``within x %``: what the search proved of the model's optimum; None where the memory held only
        plans of named strategies.
    bound : float
        No plan of the space takes less seconds in the model, in which nothing overlaps.
    seconds : float
        What model and search took, without the prices of single plans.
    candidates : int
        How many configurations of how many layers were compared, in all.
    beside : list of Beside
        All plans that were priced, the fastest first: the model's optima are called ``optimal``.
    """

    plan: Plan
    price: Price
    certificate: str | None
    bound: float
    seconds: float
    candidates: int
    beside: list[Beside]


def plan_optimal(
    network: Network,
    ranks: int,
    batch: int,
    machine: Machine,
    *,
    memory: float | None = None,
    at_most: int | None = FEW,
    accumulate: int = 1,
    order: str = "column",
    itemsize: int = 4,
    slots: int = 1,
    others: Sequence[Plan] = (),
    **running: Any,
) -> Found:
    """The fastest plan for ``ranks`` ranks that the search finds; never slower than the best grid of a named rule.

    Parameters
    ----------
    network : Network
    ranks : int
        P, any integer.
    batch : int
        B, of one update.
    machine : Machine
    memory : float, optional
        Bytes that a rank may use at the peak.
    at_most : int or None
        Factors of a split, copies included; None: all axes together (see `gridnn.plan.search.space.configurations`).
    accumulate : int
        Passes of a batch.
    order : str
        Of the grid; the model takes it as ``column``, the prices as it is.
    itemsize, slots : int
        Bytes of an element, optimizer arrays a weight.
    others : sequence of Plan
        More plans to price beside.
    running
        See `gridnn.plan.plan.OPTIONS`.

    Raises
    ------
    ValueError
        If no plan meets the memory limit, or there are more ranks than the network can use.
    """
    start = time.perf_counter()
    sizes = pass_sizes(batch, accumulate)
    setting = {
        "itemsize": itemsize,
        "slots": slots,
        "passes": len(sizes),
        "full_sum": running.get("gather_backward") == "all-reduce",
        "recompute": running.get("recompute", False),
    }
    model = CostModel(network, ranks, min(sizes), machine, at_most=at_most, **setting)
    check_ranks(model)
    search = Search(model, sizes, order, running, memory)
    solutions = search.solutions(UNHIDDEN if at_most == FEW else UNHIDDEN[::3])
    seconds = time.perf_counter() - start
    fits = None if memory is None else search.fits
    named = best_grids(network, ranks, min(sizes), machine, order, running, fits, **setting)
    plans = list(different([*(search.plan(one.choice) for one in solutions), *named, *others], grids=True))
    priced = search.priced(plans)
    if not priced:
        raise unmet(model, memory, search.least)
    priced.sort(key=lambda one: one.price.seconds)  # stable: of equals the model's optimum, then the first rule
    best = priced[0].price
    certificate, bound = _certified(solutions)
    compared = sum(map(len, model.space.values()))
    plan = replace(best.plan, strategy="optimal", certificate=certificate)
    return Found(plan, best, certificate, bound, seconds, compared, priced)


def _certified(solutions: Sequence[Solution]) -> tuple[str | None, float]:
    """What the first solution proves, and its bound; nothing if the memory held none of the search's plans."""
    if not solutions:
        return None, 0.0
    first = solutions[0]
    return "optimal" if first.optimal else f"within {100 * first.gap:.2g} %", first.bound


class Search:
    """The plans of a model's optima, with their prices.

    Parameters
    ----------
    model : CostModel
    sizes : list of int
        The samples of every pass.
    order : str
        Of the grid.
    running : mapping
        See `gridnn.plan.plan.OPTIONS`.
    memory : float or None
        The limit, in bytes.
    """

    def __init__(
        self, model: CostModel, sizes: list[int], order: str, running: Mapping[str, Any], memory: float | None
    ) -> None:
        self.model, self.sizes, self.order, self.running, self.memory = model, sizes, order, running, memory
        self.least: Peak | None = None  # of all plans that were looked at

    def solutions(self, weights: Sequence[float]) -> list[Solution]:
        """The optimum of the model, and those where gradient sums are weighted, within the memory limit."""
        graphs = [self.model.weighted({"gradient latency": w, "gradient bandwidth": w}) for w in weights]
        if self.memory is None:
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
            needed = self._seen(self._price(self.plan(solution.choice)).memory)
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
        program, setting = Program(self.model.network, plan, max(self.sizes)), self.model.options
        several = len(self.sizes) > 1
        last = self.model.ranks - 1
        found = peak(program, last, itemsize=setting.itemsize, slots=setting.slots, accumulate=several)
        return self._seen(found) <= self.memory

    def _seen(self, found: Peak) -> int:
        if self.least is None or found.total < self.least.total:
            self.least = found
        return found.total

    def plan(self, choice: Sequence[int]) -> Plan:
        """A choice as a plan: its Pc is the number of parts of the batch where most words are moved or summed."""
        model = self.model
        splits = propagate(model.network, model.splits(choice), model.ranks, model.batch, copies=True)
        cols = self._columns(choice)
        return Plan("optimal", GridShape(model.ranks // cols, cols, self.order), splits, **self.running)

    def _columns(self, choice: Sequence[int]) -> int:
        words: dict[int, float] = {}
        for name, place in zip(self.model.names, choice, strict=True):
            terms, split = self.model.node_costs(name), self.model.space[name].splits[place]
            share = terms["words"][place] + terms["gradient words"][place]
            words[split.parts("n")] = words.get(split.parts("n"), 0.0) + share
        return max(words, key=lambda parts: (words[parts], parts))

    def priced(self, plans: Sequence[Plan]) -> list[Beside]:
        """The prices of ``plans`` that the memory holds."""
        priced = [Beside(plan.strategy, self._price(plan)) for plan in plans]
        if self.memory is not None:
            priced = [one for one in priced if one.price.memory.total <= self.memory]
        return priced

    def _price(self, plan: Plan) -> Price:
        setting, passes = self.model.options, pass_programs(self.model.network, plan, self.sizes)
        return price(passes, setting.machine, itemsize=setting.itemsize, slots=setting.slots)
