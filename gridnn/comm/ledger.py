"""What moved: words, messages, bytes and seconds, by layer, phase, grid dimension and kind of call."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from gridnn.comm.counts import DIMENSIONS, Count

PHASES = ("forward", "recompute", "backward", "update", "evaluation")
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


class Ledger:
    """The account of one rank.  A prediction is a ledger too, written without moving anything.

    Attributes
    ----------
    evaluating : bool
        While it is set, everything is entered under the phase ``evaluation``: passes that are no part of a step.
    """

    def __init__(self) -> None:
        self.rows: dict[Key, Tally] = {}
        self.evaluating = False

    def add(self, where: Where, count: Count, *, itemsize: int = 0, calls: int = 1, seconds: float = 0.0) -> None:
        """Enter one movement."""
        phase = "evaluation" if self.evaluating else where.phase
        tally = self.rows.setdefault(Key(where.layer, phase, count.dimension, count.kind), Tally())
        tally.words += count.words
        tally.messages += count.messages
        tally.bytes += count.words * itemsize
        tally.calls += calls
        tally.seconds += seconds

    def merge(self, other: Ledger) -> None:
        """Enter everything that ``other`` holds."""
        for key, tally in other.rows.items():
            count = Count(key.kind, key.dimension, tally.words, tally.messages)
            self.add(Where(key.layer, key.phase), count, calls=tally.calls, seconds=tally.seconds)

    def clear(self) -> None:
        """Forget everything counted so far."""
        self.rows.clear()

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
