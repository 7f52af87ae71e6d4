"""What the operations of a schedule took on this rank: the interpreter that runs them one by one, with a clock."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from gridnn.program.schedule import Operation, Schedule

Call = Callable[[], Any]


class Span(NamedTuple):
    """An operation, from ``start`` to ``stop`` seconds of this rank's `time.perf_counter`."""

    operation: Operation
    start: float
    stop: float

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.stop - self.start


@dataclass
class TracedPass:
    """One pass: when every operation began, and the last one ended.

    Attributes
    ----------
    step : int
        Of the training step; 0 of an evaluation.
    number : int
        Of the pass in its step.
    stamps, ending : list
        When the operations up to the update began, and the last one of them ended; and those from the update on.
    """

    step: int
    number: int
    schedule: Schedule
    stamps: list[Any]
    ending: list[Any] = field(default_factory=list)

    def spans(self) -> Iterator[Span]:
        """Its operations; the update, and what follows, where there was one."""
        ends = itertools.chain(itertools.pairwise(self.stamps), itertools.pairwise(self.ending))
        for operation, (start, stop) in zip(self.schedule.operations, ends, strict=False):
            yield Span(operation, start, stop)


class Trace:
    """The passes that were run with a clock.

    Parameters
    ----------
    device : Device or None
        Where the work is done behind the host's back: its compute stream is marked between two operations, which costs
        no synchronisation; what runs on other streams is told where the compute stream waits for it.
    """

    def __init__(self, device: Any = None) -> None:
        self.device = device
        self.passes: list[TracedPass] = []
        if device:
            self._zero = device.mark()
            device.wait(self._zero)
            self._host = time.perf_counter()

    def run(self, schedule: Schedule, calls: Iterable[Call], step: int, number: int) -> None:
        """Run a pass, operation by operation."""
        self.passes.append(TracedPass(step, number, schedule, self._timed(calls)))

    def finish(self, calls: Iterable[Call]) -> None:
        """Run the update of the last pass, and what follows."""
        self.passes[-1].ending = self._timed(calls)

    def _timed(self, calls: Iterable[Call]) -> list[Any]:
        stamps = [self._stamp()]
        for call in calls:
            call()
            stamps.append(self._stamp())
        return stamps

    def settle(self) -> None:
        """Turn the marks of a device into seconds of the host's clock; it has come to the end of the last pass."""
        if not self.device:
            return
        self.device.wait(self.device.mark())
        for one in self.passes:
            one.stamps = list(map(self._seconds, one.stamps))
            one.ending = list(map(self._seconds, one.ending))

    def _stamp(self) -> Any:
        return self.device.mark() if self.device else time.perf_counter()

    def _seconds(self, mark: Any) -> float:
        return mark if isinstance(mark, float) else self._host + self.device.seconds(self._zero, mark)
