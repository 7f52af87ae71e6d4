"""The rules on all grids of P ranks: the grid that is cheapest for each, what stands in a comparison, a sweep."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from gridnn.cost.price import Price
from gridnn.errors import UserError
from gridnn.layout.counts import DIMENSIONS
from gridnn.layout.gridshape import GridShape
from gridnn.planning.plan import Plan
from gridnn.planning.rules import RULES, Domain, make_plan
from gridnn.planning.search.cost_model import total_seconds
from gridnn.planning.search.request import PlanRequest, PricedPlan
from gridnn.planning.search.space import divisors

CLOSE, MOST = 1.25, 12  # up to so many plans are priced that the model finds at most so much slower than the best


class Baseline(NamedTuple):
    """A row of a comparison: what a plan is called, its grid and its price; or why it has none."""

    name: str
    grid: str
    price: Price | None
    why: str = ""

    def as_row(self) -> dict[str, Any]:
        """Strategy, grid, seconds, words by grid dimension and bytes; None where it cannot be had."""
        words = {dimension: f"{dimension}_words" for dimension in DIMENSIONS}
        names = ("seconds", "compute_seconds", "communication_seconds", *words.values(), "bytes")
        numbers: dict[str, Any] = dict.fromkeys(names)
        if self.price is not None:
            numbers |= {"seconds": self.price.seconds, "compute_seconds": self.price.compute}
            numbers |= {"communication_seconds": self.price.communication, "bytes": self.price.memory.total}
            numbers |= {words[dimension]: count for dimension, count in self.price.words().items()}
        return {"strategy": self.name, "grid": self.grid, **numbers}


def all_grids(
    strategy: str, request: PlanRequest, *, domain: Domain | None = None, replicas: bool = False
) -> tuple[list[Plan], UserError | None]:
    """The plans of a rule on every grid that it can have, and why it cannot have the first other.

    ``domain`` and ``replicas`` are those of `gridnn.planning.rules.make_plan`.
    """
    network, batch, plans, refused = request.network, request.smallest, [], None
    for rows in divisors(request.ranks):
        grid = GridShape(rows, request.ranks // rows, request.order)
        try:
            plan = make_plan(strategy, network, grid, batch, domain=domain, replicas=replicas, **request.options)
        except UserError as error:
            refused = refused or error
        else:
            plans.append(plan)
    return plans, refused


def best_grids(request: PlanRequest, fits: Callable[[Plan], bool] | None = None) -> list[Plan]:
    """For every rule its plan on the grid that is cheapest in the model, and plans that are about as cheap as the best.

    Layers too small for a rule have replicas. Plans that do not pass ``fits`` are left out.
    """
    every = (all_grids(rule, request, replicas=True)[0] for rule in RULES)
    plans = [plan for plan in distinct_plans(plan for plans in every for plan in plans) if fits is None or fits(plan)]
    if not plans:
        return []
    seconds = total_seconds(request.network, plans, request.smallest, request.compared_on, **request.cost_options)
    ascending = [int(place) for place in seconds.argsort(kind="stable")]
    best: dict[str, int] = {}
    for place in ascending:
        best.setdefault(plans[place].strategy, place)
    close = [place for place in ascending if seconds[place] <= CLOSE * seconds[ascending[0]]]
    return [plans[place] for place in dict.fromkeys([*best.values(), *close[:MOST]])]


def distinct_plans(plans: Iterable[Plan], *, grids: bool = False) -> Iterator[Plan]:
    """The plans that do not divide and run as an earlier one does; with ``grids``, on the same grid.

    On another grid a plan's dimensions have other names, and its bucketed sums may be other calls.
    """
    seen = set()
    for plan in plans:
        mark = tuple(plan.splits.items()), plan.microbatches, str(plan.grid) if grids else ""
        if mark not in seen:
            seen.add(mark)
            yield plan


def compare(made: PricedPlan) -> list[Baseline]:
    """The plan itself and, for every rule, the fastest of the grids that are cheapest in the model."""
    found = best_grids(made.request)
    own = made.plan.strategy, made.plan.grid
    prices = [made.request.price(plan) for plan in found if (plan.strategy, plan.grid) != own]
    slowest_first = sorted(prices, key=lambda one: one.seconds, reverse=True)
    fastest = {price.plan.strategy: _row(price) for price in slowest_first}
    known = {plan.strategy for plan in found}
    return [
        _this(made),
        *fastest.values(),
        *(row for name in RULES if name not in known for row in _refused(made, name)),
    ]


def sweep(made: PricedPlan) -> list[Baseline]:
    """The plan itself, and every rule on every grid that it can have; layers too small have replicas."""
    rows = [_this(made)]
    for name in RULES:
        plans, _ = all_grids(name, made.request, replicas=True)
        rows += [_row(made.request.price(plan)) for plan in plans] or _refused(made, name)
    return rows


def _this(made: PricedPlan) -> Baseline:
    return Baseline(f"this: {made.plan.strategy}", str(made.plan.grid), made.price)


def _refused(made: PricedPlan, strategy: str) -> list[Baseline]:
    """Why a rule cannot be had on any grid; nothing where it can (then it is what another one is)."""
    plans, refused = all_grids(strategy, made.request, replicas=True)
    return [] if plans else [Baseline(strategy, "", None, str(refused))]


def _row(price: Price) -> Baseline:
    return Baseline(price.plan.strategy, str(price.plan.grid), price)
