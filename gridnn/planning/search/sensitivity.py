"""How a choice moves when a constant of the machine is off: the best plan then, and what ours would lose."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gridnn.planning.plan import Plan
from gridnn.planning.search.request import PricedPlan
from gridnn.planning.search.strategies import plan_for

CONSTANTS = ("alpha", "beta", "compute")
CLOSE = 0.02  # below this relative difference no model of a machine can tell two plans apart


@dataclass(frozen=True)
class Shift:
    """One constant off by a factor."""

    # constant, factor: ``alpha``, ``beta`` or ``compute`` (the rate), and by what it is multiplied
    constant: str
    factor: float
    best: Plan  # the best plan then
    changed: tuple[str, ...]  # the layers that it divides otherwise
    loss: float  # the relative time that our plan takes longer then: 0.1 is 10 %

    @property
    def is_decisive(self) -> bool:
        """Whether another plan is better then, by more than `CLOSE`."""
        return bool(self.changed) and self.loss > CLOSE


def sensitivity(made: PricedPlan, factor: float = 2.0) -> list[Shift]:
    """The choice with every constant of the machine multiplied and divided by ``factor``."""
    free = replace(made.request, grid=None, group=None, domain=None, replicas=False)
    shifts = []
    for constant in CONSTANTS:
        for by in (1 / factor, factor):
            request = replace(free, machine=free.compared_on.scaled(**{constant: by}))
            best = plan_for("optimal", request)
            changed = tuple(name for name, split in made.plan.splits.items() if best.splits[name] != split)
            loss = request.price(made.plan).seconds / request.price(best).seconds - 1 if changed else 0.0
            shifts.append(Shift(constant, by, best, changed if loss >= 0 else (), max(0.0, loss)))
    return shifts


def verdict(shifts: list[Shift]) -> str:
    """One line: whether the choice can be relied on."""
    worst = max(shifts, key=lambda shift: shift.loss)
    if not worst.is_decisive:
        return (
            f"the choice stands: with alpha, beta or the compute rate off by {_factor(shifts):g}x it is within "
            f"{worst.loss:.1%} of the best"
        )
    text = f"{worst.constant} {'x' if worst.factor > 1 else '/'} {max(worst.factor, 1 / worst.factor):g}"
    return (
        f"too close to call: with {text} another plan ({len(worst.changed)} layers otherwise) is {worst.loss:.1%} "
        "faster; calibrate, or measure both"
    )


def _factor(shifts: list[Shift]) -> float:
    return max(max(shift.factor, 1 / shift.factor) for shift in shifts)
