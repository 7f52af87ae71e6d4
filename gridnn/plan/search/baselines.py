"""The named strategies on all grids of P ranks, and for each one the grid that is cheapest in the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from gridnn.cost.machine import Machine
from gridnn.layout.gridshape import GridShape
from gridnn.network import Network
from gridnn.plan.plan import Plan
from gridnn.plan.rules import RULES, make_plan
from gridnn.plan.search.cost_model import total_seconds
from gridnn.plan.search.space import divisors

CLOSE, MOST = 1.25, 12  # up to so many plans are priced that the model finds at most so much slower than the best


def all_grids(
    strategy: str, network: Network, ranks: int, batch: int, order: str = "column", **options: Any
) -> tuple[list[Plan], ValueError | None]:
    """The plans of a rule on every grid of ``ranks`` ranks that it can have, and why it cannot have the first other."""
    plans, refused = [], None
    for rows in divisors(ranks):
        try:
            plans.append(make_plan(strategy, network, GridShape(rows, ranks // rows, order), batch, **options))
        except ValueError as error:
            refused = refused or error
    return plans, refused


def best_grids(
    network: Network,
    ranks: int,
    batch: int,
    machine: Machine,
    order: str,
    running: Mapping[str, Any],
    fits: Callable[[Plan], bool] | None = None,
    **setting: Any,
) -> list[Plan]:
    """For every rule its plan on the grid that is cheapest in the model, and plans that are about as cheap as the best.

    Layers too small for a rule have copies. Plans that do not pass ``fits`` are left out.
    """
    every = (all_grids(rule, network, ranks, batch, order, copies=True, **running)[0] for rule in RULES)
    plans = [plan for plan in different(plan for plans in every for plan in plans) if fits is None or fits(plan)]
    if not plans:
        return []
    seconds = total_seconds(network, plans, batch, machine, **setting)
    ascending = [int(place) for place in seconds.argsort(kind="stable")]
    best: dict[str, int] = {}
    for place in ascending:
        best.setdefault(plans[place].strategy, place)
    close = [place for place in ascending if seconds[place] <= CLOSE * seconds[ascending[0]]]
    return [plans[place] for place in dict.fromkeys([*best.values(), *close[:MOST]])]


def different(plans: Iterable[Plan], *, grids: bool = False) -> Iterator[Plan]:
    """The plans that do not divide and run as an earlier one does; with ``grids``, on the same grid.

    On another grid a plan's dimensions have other names, and its bucketed sums may be other calls.
    """
    seen = set()
    for plan in plans:
        mark = tuple(plan.splits.items()), plan.rounds, str(plan.grid) if grids else ""
        if mark not in seen:
            seen.add(mark)
            yield plan
