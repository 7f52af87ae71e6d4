"""What a machine costs: latency and bandwidth by level, compute rates, memory; pure numbers, given or calibrated."""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from gridnn.layout.gridshape import GridShape
from gridnn.layout.group import Group

# The movements that have a price of their own; "started all-reduce" is the non-blocking form of the gradient sums.
MOVEMENTS = ("all-gather", "reduce-scatter", "all-reduce", "started all-reduce", "all-to-all", "neighbours")
WORK = ("gemm", "conv", "memory")


class Range(NamedTuple):
    """From ``start`` bytes a message on, b bytes in m messages take ``alpha * m + beta * b`` seconds.

    The bytes of a message are those that pass its link: ``load * b / m`` where ``load`` groups share it. So the seconds
    are m f(load b / m) with one function f, and grow with b, m and load alike where f does.
    """

    start: int
    alpha: float
    beta: float


class Reach(NamedTuple):
    """How far a group of ranks reaches: the level that joins it, and how many such groups load one link at once."""

    level: int
    load: float


@dataclass(frozen=True)
class Level:
    """Links of one kind: between the ranks of a node, between nodes, ...

    Attributes
    ----------
    name : str
        ``node``, ``network``, ...
    ranks : int or None
        How many ranks it joins; None: all of them (the outermost level).
    alpha, beta : float
        Seconds per message, and per byte on one link.
    shared : int
        How many ranks of a unit of the level below share one link.
    movements : mapping of str to tuple of Range
        What was measured, for the movements of `MOVEMENTS` where it was; the starts ascend from 0.
    """

    name: str
    ranks: int | None
    alpha: float
    beta: float
    shared: int = 1
    movements: Mapping[str, tuple[Range, ...]] = field(default_factory=dict)

    def joins(self, first: int, last: int) -> bool:
        """Whether two ranks of the job are in the same unit of this level."""
        return self.ranks is None or first // self.ranks == last // self.ranks

    def seconds(self, kind: str, size: float, messages: float, load: float = 1.0) -> float:
        """The seconds of ``size`` bytes in ``messages`` messages, with ``load`` groups on the link."""
        ranges = self.movements.get(kind)
        if not ranges:
            return self.alpha * messages + self.beta * load * size
        each = load * size / max(1, messages)
        place = max(0, bisect.bisect_right([r.start for r in ranges], each) - 1)
        return ranges[place].alpha * messages + ranges[place].beta * load * size

    def scaled(self, alpha: float, beta: float) -> Level:
        """This level with latencies and inverse bandwidths multiplied."""
        movements = {
            kind: tuple(Range(r.start, r.alpha * alpha, r.beta * beta) for r in ranges)
            for kind, ranges in self.movements.items()
        }
        return replace(self, alpha=self.alpha * alpha, beta=self.beta * beta, movements=movements)


@dataclass(frozen=True)
class Compute:
    """How fast one rank computes while all others of its node do.

    Attributes
    ----------
    rates : mapping of str to tuple of (flops, flops per second)
        For ``gemm`` and ``conv``, by the floating-point operations of one call, ascending; between two entries the rate
        is interpolated over the logarithm, outside it is that of the nearest.
    memory : float
        Bytes per second that element-wise work streams.
    overhead : float
        Seconds per call of a layer, whatever its size.
    """

    rates: Mapping[str, tuple[tuple[float, float], ...]]
    memory: float
    overhead: float = 0.0

    def rate(self, kind: str, flops: float) -> float:
        """Flops per second of a call of ``flops`` operations."""
        points = self.rates[kind]
        place = bisect.bisect_left([at for at, _ in points], flops)
        if place in (0, len(points)):
            return points[min(place, len(points) - 1)][1]
        (low, slow), (high, fast) = points[place - 1], points[place]
        share = math.log(flops / low) / math.log(high / low)
        return slow + share * (fast - slow)

    def seconds(self, kind: str, flops: float, size: float) -> float:
        """The seconds of one call that does ``flops`` operations of ``kind`` and streams ``size`` bytes."""
        streamed = size / self.memory
        worked = flops / self.rate(kind, flops) if kind != "memory" and flops else 0.0
        return self.overhead + max(streamed, worked) if flops or size else 0.0


@dataclass(frozen=True)
class Machine:
    """A machine as the alpha-beta model sees it.

    Attributes
    ----------
    name : str
        ``cori-knl``, ...
    levels : tuple of Level
        From the innermost to the outermost.
    compute : Compute
        Of one rank.
    memory : float or None
        Bytes that one rank may use; None: not known.
    overlap : float
        How fast a started movement goes on while the processor works, as a share of its speed when the processor waits:
        1 where an adapter or a spare core moves it, 0 where nothing moves before it is waited for.
    estimates : tuple of str
        The constants that are estimates, by their path in the file (``levels.network.alpha``).
    provenance : mapping
        Where the constants come from: source by constant; of a calibrated machine host, date, MPI, ranks.
    """

    name: str
    levels: tuple[Level, ...]
    compute: Compute
    memory: float | None = None
    estimates: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    overlap: float = 1.0

    def estimated(self) -> str:
        """One line that names what is estimated, for every output that the machine stands behind; empty: nothing."""
        return f"estimates: {', '.join(self.estimates)}" if self.estimates else ""

    def note(self) -> str:
        """The machine's name, and what of it is estimated."""
        return "; ".join(filter(None, (f"machine {self.name}", self.estimated())))

    def reach(self, group: Sequence[int], shape: GridShape) -> Reach:
        """How far ``group``, grid indices, reaches when all groups like it are active at once."""
        return self._reach(*_in_job(group, shape), shape.size)

    def _reach(self, first: int, last: int, strides: tuple[tuple[int, int], ...], ranks: int) -> Reach:
        joined = (n for n, level in enumerate(self.levels) if level.joins(first, last))
        number = next(joined, len(self.levels) - 1)
        below = self.levels[number - 1].ranks or 1 if number else 1
        inside = math.prod(min(size, max(1, below // stride)) for size, stride in strides)
        flows = max(1.0, min(below, ranks) / inside)
        return Reach(number, max(1.0, flows * self.levels[number].shared / below))

    def seconds(self, kind: str, size: float, messages: float, reach: Reach) -> float:
        """The seconds of a movement of ``size`` bytes in ``messages`` messages by the busiest rank of a group."""
        return self.levels[reach.level].seconds(kind, size, messages, reach.load)

    def scaled(self, alpha: float = 1.0, beta: float = 1.0, compute: float = 1.0) -> Machine:
        """This machine with latencies, inverse bandwidths and compute rates multiplied."""
        rates = {
            kind: tuple((at, rate * compute) for at, rate in points) for kind, points in self.compute.rates.items()
        }
        work = Compute(rates, self.compute.memory * compute, self.compute.overhead / compute)
        return replace(self, levels=tuple(level.scaled(alpha, beta) for level in self.levels), compute=work)


def most_growth(low: float, high: float) -> float:
    """By how much a rate may grow from ``low`` to ``high`` flops for more work to take more time (`Compute.rate`)."""
    return 1 + math.log(high / low)


def _in_job(group: Sequence[int], shape: GridShape) -> tuple[int, int, tuple[tuple[int, int], ...]]:
    """First and last rank of the job in a group of grid indices, and its strides in the job."""
    if not isinstance(group, Group):
        group = tuple(group)
        gap = group[1] - group[0] if len(group) > 1 else 1
        group = Group(min(group), ((len(group), abs(gap)),))
    if shape.order == "column":
        return group.first, group.last, group.strides
    strides = []
    for size, stride in group.strides:  # index c * Pr + r is rank r * Pc + c
        down = min(size, max(1, shape.rows // stride)) if stride < shape.rows else 1
        strides += [(down, stride * shape.cols), (size // down, max(1, stride * down // shape.rows))]
    used = tuple((size, stride) for size, stride in strides if size > 1)
    r, c = group.first % shape.rows, group.first // shape.rows
    first = shape.rank(r, c)
    return first, first + sum((size - 1) * stride for size, stride in used), used
