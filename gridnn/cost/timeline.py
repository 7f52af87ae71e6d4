"""The time line of a step on one rank: its schedule, operation by operation, on a machine.

Two resources: the processor, and the rank's connection to the network, one for all grid dimensions, since the messages
of rows and columns leave through the same port. Movements that are under way at once share it evenly, so that a
blocking one beside a started sum takes longer, and neither resource ever does more than one second of work in a second.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from gridnn.cost.operations import Priced
from gridnn.program.schedule import Begin, End

COMPUTE = "compute"
ROUNDING = 1e-9  # of all seconds: less is a sum's rounding


class Event(NamedTuple):
    """From ``start`` to ``stop`` seconds: computation, or a movement along a grid dimension.

    ``operation`` is the place in the list of all passes of what computes, waits, or began the movement.
    """

    start: float
    stop: float
    resource: str
    layer: str
    phase: str
    kind: str = ""
    operation: int = 0

    @property
    def seconds(self) -> float:
        """How long it takes."""
        return self.stop - self.start

    @property
    def label(self) -> str:
        """What is moved: "all-gather of fc6 forward (column)"."""
        return f"{self.kind} of {self.layer} {self.phase} ({self.resource})"


@dataclass(frozen=True)
class Timeline:
    """A step on one rank.

    Attributes
    ----------
    events : tuple of Event
        In the order in which they start.
    waits : tuple of Event
        When the processor waits, and for which movement: with the computation, the critical path.
    seconds : float
        The end of the last event.
    compute, communication : float
        Seconds of computation, and of all movements if each were alone.
    """

    events: tuple[Event, ...]
    waits: tuple[Event, ...]
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
        return max(0.0, self.seconds - self.compute)

    @property
    def hidden(self) -> float:
        """The seconds of movements behind computation."""
        hidden = self.serial - self.seconds
        return hidden if hidden > ROUNDING * self.serial else 0.0

    @property
    def critical_path(self) -> tuple[Event, ...]:
        """What the step's end waits for: computation, and the movements that it waits for, in order of time."""
        return tuple(sorted([*(e for e in self.events if e.resource == COMPUTE), *self.waits]))

    def computed(self) -> dict[str, float]:
        """The seconds of computation, by layer and phase; the longest first."""
        return _longest((f"{e.layer} {e.phase}".strip(), e.seconds) for e in self.events if e.resource == COMPUTE)

    def waited_for(self) -> dict[str, float]:
        """The seconds in which the processor waits, by movement; the longest first."""
        return _longest((event.label, event.seconds) for event in self.waits)

    def hidden_movements(self) -> dict[str, float]:
        """The seconds of movements that go on behind computation, by movement; the longest first."""
        return _longest((event.label, self._behind(event)) for event in self.events if event.resource != COMPUTE)

    def _behind(self, event: Event) -> float:
        """The seconds of a movement in which the processor does not wait, for it or for another one."""
        return event.seconds - sum(
            max(0.0, min(event.stop, wait.stop) - max(event.start, wait.start)) for wait in self.waits
        )


def _longest(pairs: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Sums by name, in descending order, without those that are nothing but rounding."""
    totals: dict[str, float] = {}
    for name, seconds in pairs:
        totals[name] = totals.get(name, 0.0) + seconds
    least = ROUNDING * sum(map(abs, totals.values()))
    return {name: value for name, value in sorted(totals.items(), key=lambda one: -one[1]) if value > least}


def timeline(passes: Iterable[Sequence[Priced]], *, overlap: float = 1.0) -> Timeline:
    """The time line of a step whose batch runs in ``passes``, all of one rank.

    Movements go on behind whatever lies between their beginning and their end, at the share ``overlap`` of their speed;
    with 0 every movement holds the processor.
    """
    clock = _Clock(overlap)
    for number, operations in enumerate(passes):
        started: dict[int, int] = {}
        for priced in operations:
            operation = priced.operation
            clock.operation += 1
            if isinstance(operation, Begin):
                clock.compute(priced.seconds, operation.layer, operation.phase)
                started[operation.number] = clock.start(priced.alone, priced.label)
            elif isinstance(operation, End):
                clock.wait(started.pop(operation.number))
                clock.compute(priced.seconds, operation.layer, operation.phase)
            else:
                for layer, seconds in priced.computing:
                    clock.compute(seconds, layer, operation.phase)
        assert not started, f"pass {number} leaves movements under way"
    return clock.timeline()


@dataclass(slots=True)
class _Flight:
    """A movement under way: the seconds that it still needs, and its event, which so far has but begun."""

    left: float
    event: Event


class _Clock:
    """Time, the processor (which waits or works), and the movements under way with the seconds that they still need."""

    def __init__(self, overlap: float) -> None:
        self.overlap, self.now = overlap, 0.0
        self.events: list[Event] = []
        self.waits: list[Event] = []
        self.worked = self.moved = 0.0
        self.operation = -1  # the place of the one under way
        self._flying: dict[int, _Flight] = {}  # by number
        self._count = 0

    def timeline(self) -> Timeline:
        """What has happened."""
        return Timeline(tuple(sorted(self.events)), tuple(self.waits), self.now, self.worked, self.moved)

    def compute(self, seconds: float, layer: str, phase: str) -> None:
        """Work for ``seconds``, while what was started goes on."""
        if seconds > 0:
            start, until = self.now, self.now + seconds
            while self.overlap and self._flying and self._next(self.overlap) < until:
                self._land(self.overlap)
            self._progress(until, self.overlap)
            self.worked += seconds
            self.events.append(Event(start, until, COMPUTE, layer, phase, "", self.operation))

    def start(self, seconds: float, label: tuple[str, str, str, str]) -> int:
        """Start a movement, ``label`` is its (resource, layer, phase, kind); gives its number."""
        self._count += 1
        if seconds > 0:
            self._flying[self._count] = _Flight(seconds, Event(self.now, self.now, *label, operation=self.operation))
            self.moved += seconds
        if not self.overlap:
            self.wait(self._count)
        return self._count

    def wait(self, number: int) -> None:
        """Do nothing until movement ``number`` has ended."""
        if number in self._flying:
            start, event = self.now, self._flying[number].event
            while number in self._flying:
                self._land(1.0)
            self.waits.append(event._replace(start=start, stop=self.now, operation=self.operation))

    def _next(self, pace: float) -> float:
        """When the next movement ends if no other starts, and all go on at ``pace``."""
        return self.now + len(self._flying) * min(flight.left for flight in self._flying.values()) / pace

    def _progress(self, until: float, pace: float) -> None:
        share = (until - self.now) * pace / max(1, len(self._flying))
        for flight in self._flying.values():
            flight.left -= share
        self.now = until

    def _land(self, pace: float) -> None:
        """Let the time pass to the end of the next movement."""
        first, at = min(self._flying, key=lambda number: self._flying[number].left), self._next(pace)
        self._progress(at, pace)
        self.events.append(self._flying.pop(first).event._replace(stop=at))
