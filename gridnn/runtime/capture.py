"""CUDA graphs of a schedule: every run of operations of this rank alone is recorded once, and launched as one call.

The first pass runs as if there were no graphs: it compiles kernels, and takes what is kept for good. In the second one
the regions are recorded, from the third one on they are launched; what lies between them, messages, sums over ranks and
what differs from step to step by more than its arrays, runs as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gridnn.program.schedule import Accumulate, Add, Compute, Copy, Fill, Operation

Call = Callable[[], Any]
Numbered = Sequence[tuple[int, Call]]  # calls with the numbers of their operations, in a graph of its first one
LEAST = 2  # operations of a region: to launch a graph costs as much as to launch a kernel
LOCAL = (Accumulate, Add, Compute, Copy, Fill)


@dataclass
class Region:
    """Operations that follow each other, from ``start`` on, and their graph once it is recorded."""

    start: int
    stop: int
    layers: frozenset[str]
    graph: Call | None = None


class Capture:
    """The graphs of one schedule.

    Parameters
    ----------
    recorder : Recorder
        Of the device.

    Attributes
    ----------
    regions : list of Region
        Those that have graphs, once they are recorded.
    """

    def __init__(self, recorder: Any) -> None:
        self._recorder = recorder
        self.clear()

    def clear(self) -> None:
        """Forget the graphs: the arrays lie elsewhere now."""
        self.regions: list[Region] = []
        self._calls: list[tuple[int, Call]] = []
        self._passes = 0

    def run(self, operations: Sequence[Operation], calls: Numbered, each: Callable[[Numbered], None]) -> None:
        """One pass; ``each`` does numbered calls."""
        self._passes += 1
        if self._passes == 1:
            each(calls)
        elif self._passes == 2:
            self._record(operations, calls, each)
        else:
            each(self._calls)

    def _record(self, operations: Sequence[Operation], calls: Numbered, each: Callable[[Numbered], None]) -> None:
        """Run a pass, and record the graph of every region before it runs."""
        regions, place, known = find_regions(operations), 0, []
        for region in regions:
            each(calls[place : region.start])
            region.graph = self._recorder.record([call for _, call in calls[region.start : region.stop]])
            each([(region.start, region.graph)])
            known += [*calls[place : region.start], (region.start, region.graph)]
            place = region.stop
        each(calls[place:])
        self.regions, self._calls = regions, [*known, *calls[place:]]


def find_regions(operations: Sequence[Operation]) -> list[Region]:
    """The runs of operations that repeat the same kernels on the same arrays in every pass."""
    found, start = [], None
    for number, operation in enumerate([*operations, None]):
        if operation is not None and _repeats(operation):
            start = number if start is None else start
        elif start is not None:
            if number - start >= LEAST:
                found.append(Region(start, number, frozenset(op.layer for op in operations[start:number])))
            start = None
    return found


def _repeats(operation: Operation) -> bool:
    stochastic = isinstance(operation, Compute) and operation.task.stochastic
    return isinstance(operation, LOCAL) and not stochastic
