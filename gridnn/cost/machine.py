"""What a machine costs: latency and bandwidth by level, compute rates, memory; pure numbers, given or calibrated."""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from gridnn.layout.gridshape import GridShape
from gridnn.layout.group import Group
from gridnn.program.schedule import Policy, cpu_policy, gpu_policy

# The movements that have a price of their own; "started all-reduce" is the non-blocking form of the gradient sums.
MOVEMENTS = ("all-gather", "reduce-scatter", "all-reduce", "started all-reduce", "all-to-all", "neighbours")
WORK = ("gemm", "conv", "memory")


class Range(NamedTuple):
    """From ``start`` bytes a message on, b bytes in m messages take ``alpha * m + beta * b`` seconds.

    The bytes of a message are those that pass its link: ``c * b / m`` where c groups share it (its contention). So the
    seconds are m f(c b / m) with one function f, and grow with b, m and c alike where f does.
    """

    start: float
    alpha: float
    beta: float


class GroupLevel(NamedTuple):
    """The level that joins a group of ranks, and how many such groups share one of its links at once."""

    level: int
    contention: float


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

    def has_both(self, first: int, last: int) -> bool:
        """Whether two ranks of the job are in the same unit of this level."""
        return self.ranks is None or first // self.ranks == last // self.ranks

    def seconds(self, kind: str, size: float, messages: float, contention: float = 1.0) -> float:
        """The seconds of ``size`` bytes in ``messages`` messages, with ``contention`` groups on the link."""
        ranges = self.movements.get(kind)
        if not ranges:
            return self.alpha * messages + self.beta * contention * size
        each = contention * size / max(1, messages)
        place = max(0, bisect.bisect_right([r.start for r in ranges], each) - 1)
        return ranges[place].alpha * messages + ranges[place].beta * contention * size

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
    device : str
        What a rank computes on: ``cpu`` or ``gpu``.
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
    device: str = "cpu"

    def policy(self, itemsize: int = 4) -> Policy:
        """How a rank of this machine runs a schedule whose activations have so many bytes an element."""
        return gpu_policy(itemsize) if self.device == "gpu" else cpu_policy(itemsize)

    def estimated(self) -> str:
        """One line that names what is estimated, for every output that the machine stands behind; empty: nothing."""
        return f"estimates: {', '.join(self.estimates)}" if self.estimates else ""

    def note(self) -> str:
        """The machine's name, and what of it is estimated."""
        return "; ".join(filter(None, (f"machine {self.name}", self.estimated())))

    @property
    def units(self) -> tuple[int, ...]:
        """How many ranks a unit of the level below joins, for every level: a single one for the innermost."""
        return (1, *(level.ranks or 1 for level in self.levels[:-1]))

    def level_of(self, group: Sequence[int], shape: GridShape) -> GroupLevel:
        """The level of ``group``, grid indices, and its contention when all groups like it are active at once."""
        first, last, strides = _in_job(group, shape)
        joined = (n for n, level in enumerate(self.levels) if level.has_both(first, last))
        number = next(joined, len(self.levels) - 1)
        unit = self.units[number]
        inside = math.prod(min(size, max(1, unit // stride)) for size, stride in strides)
        flows = max(1.0, min(unit, shape.size) / inside)
        return GroupLevel(number, max(1.0, flows * self.levels[number].shared / unit))

    def seconds(self, kind: str, size: float, messages: float, at: GroupLevel) -> float:
        """The seconds of a movement of ``size`` bytes in ``messages`` messages by the critical rank of a group."""
        return self.levels[at.level].seconds(kind, size, messages, at.contention)

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
