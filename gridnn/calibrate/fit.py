"""From measured points to constants: alpha and beta by range, rates by size, and how far off they are."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gridnn.cost.machine import Level, Range, most_growth
from gridnn.errors import UserError

BREAKS = tuple(4**power for power in range(3, 13))  # bytes a message where a range may start: 64 B to 16 MB
MOST_RANGES = 3
SPAN = 15.0  # three sizes, each four times the last
GAIN = 0.8  # one range more has to bring the mean error down to this share of what it was
CLOSE = 0.06  # a mean error that needs no range more
APART = 4.0  # the factor between two sizes at which a rate stands


class Point(NamedTuple):
    """One measured movement, by the busiest rank of the slowest group; all groups like it were active."""

    # kind, dimension: one of `machine.MOVEMENTS`; column, row, world, or node (the ranks of a node)
    kind: str
    dimension: str
    level: str  # the level of the machine that joins the groups
    load: float  # how many groups share a link (`machine.GroupLevel`)
    # size, messages: bytes and messages as the ledger counts them
    size: float
    messages: float
    seconds: float  # the median of the calls


class Residual(NamedTuple):
    """How far the fit is from the points of one movement and dimension: relative errors, median and largest."""

    kind: str
    dimension: str
    level: str
    points: int
    median: float
    largest: float


def fit_ranges(points: Sequence[Point]) -> tuple[Range, ...]:
    """alpha and beta of the points of one movement and level, non-negative, by range of the bytes of a message.

    The seconds of a message are fitted as a function of its bytes, so that groups of all sizes are fitted together. The
    mean relative error is minimised: one point that something else slowed down counts little. The function may jump
    upwards between ranges and never falls. A range more has to earn its keep (`GAIN`). `UserError` if SciPy, whose
    linear programming is used, is not installed.
    """
    sizes = np.array([point.load * point.size / max(1.0, point.messages) for point in points])
    seconds = np.array([point.seconds / max(1.0, point.messages) for point in points])
    best, error = _fit(sizes, seconds, (0,))
    for count in range(1, MOST_RANGES):
        tries = [_fit(sizes, seconds, starts) for starts in _starts(sizes, count)] if error > CLOSE else []
        if tries and min(tries, key=lambda one: one[1])[1] < GAIN * error:
            best, error = min(tries, key=lambda one: one[1])
    return best


def _starts(sizes: np.ndarray, count: int) -> list[tuple[int, ...]]:
    """Ways to begin ``count`` ranges after the first, each with sizes of at least a factor `SPAN` from end to end."""
    found = []
    for starts in itertools.combinations(BREAKS, count):
        place = np.searchsorted(starts, sizes, "right")
        inside = [sizes[place == i] for i in range(count + 1)]
        if all(part.size and part.max() >= SPAN * part.min() for part in inside):
            found.append((0, *starts))
    return found


def _fit(sizes: np.ndarray, seconds: np.ndarray, starts: tuple[int, ...]) -> tuple[tuple[Range, ...], float]:
    """The ranges that begin at ``starts`` with the least mean relative error, and that error.

    A linear program in alpha, beta of every range and the error of every point, all of them at least 0.
    """
    linprog = solver()
    count, unit = len(sizes), (float(seconds.min()), float(seconds.max() / max(1.0, sizes.max())))
    place = np.searchsorted(starts, sizes, "right") - 1
    fit = np.zeros((count, 2 * len(starts)))
    fit[np.arange(count), 2 * place] = unit[0] / seconds
    fit[np.arange(count), 2 * place + 1] = unit[1] * sizes / seconds
    above, below = np.hstack([fit, -np.eye(count)]), np.hstack([-fit, -np.eye(count)])
    rising = np.zeros((len(starts) - 1, 2 * len(starts) + count))
    for row, start in enumerate(starts[1:]):
        step = np.array([unit[0], unit[1] * start])
        step /= step.max()
        rising[row, 2 * row : 2 * row + 2], rising[row, 2 * row + 2 : 2 * row + 4] = step, -step
    bound = np.concatenate([np.ones(count), -np.ones(count), np.zeros(len(rising))])
    cost = np.concatenate([np.zeros(2 * len(starts)), np.full(count, 1 / count)])
    solved = linprog(cost, np.vstack([above, below, rising]), bound, method="highs")
    values = np.maximum(0.0, solved.x[: 2 * len(starts)]).reshape(-1, 2) * unit
    return _risen(starts, values), float(solved.fun)


def _risen(starts: tuple[int, ...], values: np.ndarray) -> tuple[Range, ...]:
    """The ranges, lifted by what the solver's rounding lets them fall short where they meet."""
    found = [Range(0, *map(float, values[0]))]
    for start, (alpha, beta) in zip(starts[1:], values[1:], strict=True):
        end = found[-1].alpha + found[-1].beta * start
        found.append(Range(start, float(alpha + max(0.0, end - (alpha + beta * start))), float(beta)))
    return tuple(found)


def solver() -> Any:
    """SciPy's linear programs; `UserError` if it is not installed."""
    try:
        from scipy.optimize import linprog
    except ImportError as error:
        raise UserError(f"the fit needs SciPy ({error}): pip install 'gridnn[plan]'") from error
    return linprog


def residuals(points: Sequence[Point], levels: Sequence[Level]) -> list[Residual]:
    """The errors of every movement and dimension, relative to the measured seconds."""
    named, groups = {level.name: level for level in levels}, {}
    for point in points:
        predicted = named[point.level].seconds(point.kind, point.size, point.messages, point.load)
        groups.setdefault(point[:3], []).append(abs(predicted / point.seconds - 1))
    return [Residual(*key, len(errors), statistics.median(errors), max(errors)) for key, errors in groups.items()]


def fit_rates(points: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """Rates by flops from measured (flops, seconds): the median over those of a size, larger ones never sooner done."""
    bins: dict[int, list[tuple[float, float]]] = {}
    for flops, seconds in points:
        bins.setdefault(round(math.log(flops, APART)), []).append((flops, flops / seconds))
    middle = statistics.median
    found = [(middle(at for at, _ in one), middle(rate for _, rate in one)) for _, one in sorted(bins.items())]
    for place in range(len(found) - 2, -1, -1):
        (low, slow), (high, fast) = found[place], found[place + 1]
        found[place] = (low, max(slow, fast / most_growth(low, high)))
    return tuple(found)
