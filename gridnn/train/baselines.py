"""Other plans for the same run, to stand beside one: the named strategies on their best grids, or all on all grids."""

from __future__ import annotations

from typing import NamedTuple

from gridnn.cost.price import Price
from gridnn.plan.plan import Plan
from gridnn.plan.rules import RULES
from gridnn.search.named import all_grids, best_grids
from gridnn.train.planned import Planned, priced


class Baseline(NamedTuple):
    """A plan in a comparison: what it is called, its grid and its price; ``why`` it has none."""

    name: str
    grid: str
    price: Price | None
    why: str = ""


def named_plans(made: Planned) -> list[Baseline]:
    """The plan itself and, for every named strategy, the fastest of the grids that are cheapest in the model."""
    found = best_grids(*_case(made), made.machine, made.config.plan.order, made.running, **made.setting)
    rows = [_priced(made, plan) for plan in found if not _same(plan, made.plan)]
    fastest = {row.name: row for row in sorted(rows, key=lambda row: row.price.seconds, reverse=True)}
    known = {plan.strategy for plan in found}
    return [
        _this(made),
        *fastest.values(),
        *(row for name in RULES if name not in known for row in _refused(made, name)),
    ]


def sweep(made: Planned) -> list[Baseline]:
    """The plan itself, and every named strategy on every grid that it can have; layers too small have copies."""
    rows = [_this(made)]
    for name in RULES:
        plans, _ = all_grids(name, *_case(made), made.config.plan.order, copies=True, **made.running)
        rows += [_priced(made, plan) for plan in plans] or _refused(made, name)
    return rows


def _this(made: Planned) -> Baseline:
    return Baseline(f"this: {made.plan.strategy}", str(made.plan.grid), made.price)


def _case(made: Planned) -> tuple:
    return made.network, made.ranks, made.smallest


def _refused(made: Planned, strategy: str) -> list[Baseline]:
    """Why a strategy cannot be had on any grid; nothing where it can (then it is what another one is)."""
    plans, refused = all_grids(strategy, *_case(made), made.config.plan.order, copies=True, **made.running)
    return [] if plans else [Baseline(strategy, "", None, str(refused))]


def _priced(made: Planned, plan: Plan) -> Baseline:
    return Baseline(plan.strategy, str(plan.grid), priced(made.config, made.network, plan, made.batch, made.machine))


def _same(one: Plan, other: Plan) -> bool:
    return (one.strategy, one.grid) == (other.strategy, other.grid)
