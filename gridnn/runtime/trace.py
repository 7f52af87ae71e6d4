"""What the operations of a schedule took on this rank: the interpreter that runs them one by one, with a clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from gridnn.program.schedule import Operation, Schedule, Update

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
    """

    step: int
    number: int
    schedule: Schedule
    stamps: list[Any]
    update: tuple[Any, Any] | None = None

    def spans(self) -> Iterator[Span]:
        """Its operations; the update where there was one."""
        for place, operation in enumerate(self.schedule.operations):
            if isinstance(operation, Update):
                if self.update:
                    yield Span(operation, *self.update)
            else:
                yield Span(operation, self.stamps[place], self.stamps[place + 1])


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

    def run(self, schedule: Schedule, calls: Sequence[Call], step: int, number: int) -> None:
        """Run a pass, operation by operation."""
        stamp = self._stamp
        stamps = [stamp()]
        for call in calls:
            call()
            stamps.append(stamp())
        self.passes.append(TracedPass(step, number, schedule, stamps))

    def run_update(self, call: Call) -> None:
        """Run the update that ends the last pass."""
        start = self._stamp()
        call()
        self.passes[-1].update = (start, self._stamp())

    def settle(self) -> None:
        """Turn the marks of a device into seconds of the host's clock; it has come to the end of the last pass."""
        if not self.device:
            return
        self.device.wait(self.device.mark())
        for one in self.passes:
            one.stamps = list(map(self._seconds, one.stamps))
            one.update = one.update and tuple(map(self._seconds, one.update))

    def _stamp(self) -> Any:
        return self.device.mark() if self.device else time.perf_counter()

    def _seconds(self, mark: Any) -> float:
        return mark if isinstance(mark, float) else self._host + self.device.seconds(self._zero, mark)
