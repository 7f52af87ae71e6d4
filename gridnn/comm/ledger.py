"""What moved: words, messages, bytes and seconds, by layer, phase, grid dimension and kind of call."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from gridnn.layout.counts import DIMENSIONS, Count

PHASES = ("forward", "recompute", "backward", "update", "evaluation", "copy", "reshard")
CONTROL = "(control)"  # agreements and small values that are no part of a step


class Where(NamedTuple):
    """For which layer, in which phase of the step, something is moved."""

    layer: str
    phase: str


class Key(NamedTuple):
    """One row of the ledger."""

    layer: str
    phase: str
    dimension: str
    kind: str


@dataclass
class Tally:
    """What was counted in one row."""

    words: int = 0
    messages: int = 0
    bytes: int = 0
    calls: int = 0
    seconds: float = 0.0


class Stopwatch:
    """How long the step stands still while its ``with`` blocks run.

    What stands still is the compute stream of a ``device``, by marks on it, which are read later and cost no
    synchronisation; without one the host, by its clock.
    """

    def __init__(self, device: Any = None) -> None:
        self.device, self._seconds, self._spans = device, 0.0, []

    def __enter__(self) -> None:
        self._started = time.perf_counter() if self.device is None else self.device.mark()

    def __exit__(self, *_: object) -> None:
        if self.device is None:
            self._seconds += time.perf_counter() - self._started
        else:
            self._spans.append((self._started, self.device.mark()))

    def seconds(self) -> float:
        """The seconds of all blocks; a device must have come to the end of the last one."""
        return self._seconds + sum(self.device.seconds(*span) for span in self._spans)


class Ledger:
    """The account of one rank.  A prediction is a ledger too, written without moving anything.

    While ``evaluating`` is set, everything is entered under the phase ``evaluation``: passes that are no part of a
    step.
    """

    def __init__(self) -> None:
        self.rows: dict[Key, Tally] = {}
        self.evaluating = False
        self._unsettled: list[tuple[Stopwatch, Sequence[tuple[Tally, float]]]] = []

    def add(self, where: Where, count: Count, *, itemsize: int = 0, calls: int = 1, seconds: float = 0.0) -> Tally:
        """Enter one movement; gives its row."""
        phase = "evaluation" if self.evaluating else where.phase
        tally = self.rows.setdefault(Key(where.layer, phase, count.dimension, count.kind), Tally())
        tally.words += count.words
        tally.messages += count.messages
        tally.bytes += count.words * itemsize
        tally.calls += calls
        tally.seconds += seconds
        return tally

    def time(self, watch: Stopwatch, rows: Sequence[tuple[Tally, float]]) -> None:
        """Enter the seconds of ``watch`` in rows, a share in each: those of a device when it is settled."""
        if watch.device is None:
            _share(watch.seconds(), rows)
        else:
            self._unsettled.append((watch, rows))

    def settle(self) -> None:
        """Enter the seconds that a device has measured; called when it has done all that was asked of it."""
        for watch, rows in self._unsettled:
            _share(watch.seconds(), rows)
        self._unsettled.clear()

    def merge(self, other: Ledger) -> None:
        """Enter everything that ``other`` holds."""
        for key, tally in other.rows.items():
            count = Count(key.kind, key.dimension, tally.words, tally.messages)
            self.add(Where(key.layer, key.phase), count, calls=tally.calls, seconds=tally.seconds)

    def clear(self) -> None:
        """Forget everything counted so far."""
        self.rows.clear()
        self._unsettled.clear()

    def steps(self) -> Iterator[tuple[Key, Tally]]:
        """The rows that belong to training steps: all but the control traffic."""
        return ((key, tally) for key, tally in self.rows.items() if key.layer != CONTROL)

    @property
    def seconds(self) -> float:
        """The seconds spent in communication."""
        return sum(tally.seconds for tally in self.rows.values())

    def words_of(self, layer: str, dimension: str) -> int:
        """The words of one layer along one grid dimension."""
        return sum(t.words for key, t in self.steps() if (key.layer, key.dimension) == (layer, dimension))

    def words_by_dimension(self) -> dict[str, int]:
        """The words of all steps, by grid dimension."""
        return {d: sum(t.words for key, t in self.steps() if key.dimension == d) for d in DIMENSIONS}

    def integers(self) -> dict[Key, tuple[int, int]]:
        """Words and messages of every row: what must be equal in prediction and measurement."""
        return {key: (tally.words, tally.messages) for key, tally in self.steps() if tally.words or tally.messages}


def _share(seconds: float, rows: Sequence[tuple[Tally, float]]) -> None:
    for tally, share in rows:
        tally.seconds += seconds * share
