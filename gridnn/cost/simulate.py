"""The time line of a step on one rank: the schedule of `gridnn.execute`, event by event.

Two resources: the processor, and the rank's connection to the network, one for all grid dimensions, since the messages
of rows and columns leave through the same port. Movements that are under way at once share it evenly, so that a
blocking one beside a started sum takes longer, and neither resource ever does more than one second of work in a second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from gridnn.cost.movements import Call
from gridnn.cost.schedule import Part, PricedStep, Reading, Schedule, Shares

COMPUTE = "compute"


class Event(NamedTuple):
    """From ``start`` to ``stop`` seconds: computation, or a movement along a grid dimension."""

    start: float
    stop: float
    resource: str
    layer: str
    phase: str
    kind: str = ""


@dataclass(frozen=True)
class Timeline:
    """A step on one rank.

    Attributes
    ----------
    events : tuple of Event
        In the order in which they start.
    seconds : float
        The end of the last one.
    compute, communication : float
        Seconds of computation, and of all movements if each were alone.
    """

    events: tuple[Event, ...]
    seconds: float
    compute: float
    communication: float

    @property
    def serial(self) -> float:
        """The seconds without overlap."""
        return self.compute + self.communication

    @property
    def exposed(self) -> float:
        """The seconds in which the processor waits for the network."""
        return self.seconds - self.compute


def simulate(passes: Sequence[Schedule], *, overlap: float = 1.0) -> Timeline:
    """The time line of a step whose batch runs in ``passes``, all of one rank.

    Halos run behind the interior of their layer, halo sums behind the gradient of its weights, sums of gradients behind
    the remaining backward pass; every other movement holds the processor. While the processor works, what was started
    goes on at the share ``overlap`` of its speed; with 0 every movement holds the processor.
    """
    return _Run(overlap).step(passes)


class _Clock:
    """Time, the processor (which waits or works), and the movements under way with the seconds that they still need."""

    def __init__(self, overlap: float) -> None:
        self.overlap, self.now = overlap, 0.0
        self.events: list[Event] = []
        self.worked = self.moved = 0.0
        self._flying: dict[int, list] = {}  # number -> [seconds left, start, what]
        self._count = 0

    def compute(self, seconds: float, layer: str, phase: str) -> None:
        """Work for ``seconds``, while what was started goes on."""
        if seconds > 0:
            start, until = self.now, self.now + seconds
            while self.overlap and self._flying and self._next(self.overlap) < until:
                self._land(self.overlap)
            self._progress(until, self.overlap)
            self.worked += seconds
            self.events.append(Event(start, until, COMPUTE, layer, phase))

    def start(self, seconds: float, what: tuple[str, str, str, str]) -> int:
        """Start a movement, ``what`` is its (resource, layer, phase, kind); gives its number."""
        self._count += 1
        if seconds > 0:
            self._flying[self._count] = [seconds, self.now, what]
            self.moved += seconds
        if not self.overlap:
            self.wait(self._count)
        return self._count

    def wait(self, number: int) -> None:
        """Do nothing until movement ``number`` has ended."""
        while number in self._flying:
            self._land(1.0)

    def _next(self, pace: float) -> float:
        """When the next movement ends if no other starts, and all go on at ``pace``."""
        return self.now + len(self._flying) * min(left for left, *_ in self._flying.values()) / pace

    def _progress(self, until: float, pace: float) -> None:
        share = (until - self.now) * pace / max(1, len(self._flying))
        for flight in self._flying.values():
            flight[0] -= share
        self.now = until

    def _land(self, pace: float) -> None:
        """Let the time pass to the end of the next movement."""
        first, at = min(self._flying, key=lambda number: self._flying[number][0]), self._next(pace)
        self._progress(at, pace)
        _, start, what = self._flying.pop(first)
        self.events.append(Event(start, at, *what))


class _Run:
    """The order of `gridnn.execute.Executable` and `gridnn.train.session.Session.step`."""

    def __init__(self, overlap: float) -> None:
        self.clock = _Clock(overlap)

    def step(self, passes: Sequence[Schedule]) -> Timeline:
        clock, pending = self.clock, []
        for number, one in enumerate(passes, 1):
            pending += self._pass(one, number > 1, number == len(passes))
        for started in pending:
            clock.wait(started)
        final = passes[-1]
        if final.loss:
            self._block((final.loss,), final.program.steps[-1].name)
        for name, seconds in final.updates.items():
            clock.compute(seconds, name, "update")
        return Timeline(tuple(sorted(clock.events)), clock.now, clock.worked, clock.moved)

    def _pass(self, one: Schedule, accumulate: bool, last: bool) -> list[int]:
        """Forward and backward; gives the sums of gradients that were started."""
        first, *rounds = one.parts
        pending: list[int] = []
        self._forwards(first)
        for number, part in enumerate(rounds, 1):
            self._forwards(part)
            ends = last and number == len(rounds)
            pending += self._backwards(part, accumulate or number > 1, one.buckets if ends else {})
        return pending + self._backwards(first, accumulate, one.buckets if last else {})

    def _forwards(self, part: Part) -> None:
        for priced in part.steps:
            self._forward(priced, "forward")

    def _backwards(self, part: Part, accumulate: bool, buckets: Mapping[str, Sequence[Shares]]) -> list[int]:
        pending = []
        for segment in reversed(part.segments):
            if segment != part.segments[-1]:
                for place in segment:
                    self._forward(part.steps[place], "recompute")
            for place in reversed(segment):
                priced = part.steps[place]
                if priced.has_backward:
                    self._backward(priced, accumulate)
                pending += [self._sum(shares) for shares in buckets.get(priced.name, ())]
        return pending

    def _forward(self, priced: PricedStep, phase: str) -> None:
        clock, rest = self.clock, priced.forward
        for reading in priced.readings:
            clock.compute(reading.copy, priced.name, phase)
            if reading.forward:
                started = self._start(reading.forward[0], priced.name, phase)
                if reading.interior:
                    clock.compute(reading.interior * rest, priced.name, phase)
                    rest -= reading.interior * rest
                clock.wait(started)
                for call in reading.forward[1:]:
                    self._block(call, priced.name, phase)
        clock.compute(rest, priced.name, phase)
        for movement in priced.sums:
            if movement.phase == phase:
                self._block((movement,), priced.name)

    def _backward(self, priced: PricedStep, accumulate: bool) -> None:
        clock, name = self.clock, priced.name
        clock.compute(priced.inputs, name, "backward")
        if len(priced.readings) == 1 and priced.readings[0].flies and priced.readings[0].backward:
            self._return(priced.readings[0], name, priced.weights)
        else:
            clock.compute(priced.weights, name, "backward")
            for movement in priced.sums:
                if movement.phase == "backward":
                    self._block((movement,), name)
            for reading in priced.readings:
                self._return(reading, name)
        if accumulate:
            clock.compute(priced.accumulate, name, "backward")

    def _return(self, reading: Reading, name: str, meanwhile: float = 0.0) -> None:
        """The adjoint of a reading, its first call behind ``meanwhile`` seconds of work."""
        self.clock.compute(reading.copy_back, name, "backward")
        if reading.backward:
            started = self._start(reading.backward[0], name)
            self.clock.compute(meanwhile, name, "backward")
            self.clock.wait(started)
            for call in reading.backward[1:]:
                self._block(call, name)

    def _sum(self, shares: Shares) -> int:
        layer, movement = shares[-1]
        alone = sum(share.seconds for _, share in shares)
        return self.clock.start(alone, (movement.dimension, layer, "update", movement.kind))

    def _block(self, call: Call, layer: str, phase: str = "") -> None:
        self.clock.wait(self._start(call, layer, phase))

    def _start(self, call: Call, layer: str, phase: str = "") -> int:
        most = max(call, key=lambda movement: movement.seconds)
        what = (most.dimension, layer, phase or most.phase, most.kind)
        return self.clock.start(sum(movement.seconds for movement in call), what)
