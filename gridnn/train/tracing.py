"""A trace: some steps of all ranks, operation by operation, beside what is predicted, as a file that Perfetto opens.

The format is that of Chrome's trace events (JSON): a process a rank, a track for what was measured, and tracks for the
predicted processor and network.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from gridnn.comm.clock import clock_offset, collect
from gridnn.cost.machine import Machine
from gridnn.cost.price import Price, price
from gridnn.cost.rows import describe
from gridnn.cost.timeline import COMPUTE, Event
from gridnn.errors import UserError
from gridnn.program.program import pass_programs, pass_sizes
from gridnn.records import OutputFile
from gridnn.runtime.trace import Trace, TracedPass
from gridnn.train.runner import Runner

STEPS = 5  # that a trace has
FIRST = 2  # steps that are left out where there are more: they fill caches, and compile
MICRO = 1e6  # the file's unit of time
MEASURED, PROCESSOR, NETWORK = 0, 1, 2  # tracks


def price_runner(runner: Runner, machine: Machine, batch: int, slots: int) -> Price:
    """What a step of ``batch`` samples is predicted to take on this rank."""
    programs = pass_programs(runner.network, runner.plan, pass_sizes(batch, runner.accumulate))
    itemsize = runner.parameters.dtype.itemsize
    return price(programs, machine, itemsize=itemsize, slots=slots, index=runner.grid.index)


class Tracer:
    """Traces some steps of a run, and writes them; all ranks make it and call it together.

    Parameters
    ----------
    runner : Runner
        What makes the steps.
    predicted : Price
        Of this rank's step.
    file : OutputFile or None
        On rank 0.
    done, total : int
        The steps that are made already, and all of them.
    """

    def __init__(self, runner: Runner, predicted: Price, file: OutputFile | None, done: int, total: int) -> None:
        self.runner, self.predicted, self.file = runner, predicted, file
        self.first = done + 1 + min(FIRST, max(0, total - done - STEPS))
        self.last = self.first + STEPS - 1

    def begin(self, step: int) -> None:
        """Step ``step`` begins."""
        if step == self.first:
            self.runner.trace = Trace(self.runner.grid.backend.device)

    def end(self, step: int) -> str | None:
        """Step ``step`` has ended; the text says why the trace could not be written."""
        return self.finish() if step == self.last else None

    def finish(self) -> str | None:
        """Write what there is, once; the text says why it could not be written."""
        trace, self.runner.trace = self.runner.trace, None
        if trace is None:
            return None
        trace.settle()
        group = self.runner.grid.all
        offset = clock_offset(group)
        pieces = collect(group, ",\n".join(map(json.dumps, self._events(trace, offset))))
        try:
            if self.file is not None:
                self._write(self.file, pieces)
        except UserError as error:
            return f"{error}; the run goes on"
        finally:
            list(pieces)  # all ranks take part in collecting them
        return None

    def _write(self, output: OutputFile, pieces: Iterator[str]) -> None:
        with output.opened() as file:
            file.write('{"displayTimeUnit": "ms", "traceEvents": [\n')
            for number, events in enumerate(pieces):
                file.write(f",\n{events}" if number else events)
            file.write("\n]}\n")

    def _events(self, trace: Trace, offset: float) -> Iterator[dict[str, Any]]:
        grid = self.runner.grid
        rank = grid.shape.rank(grid.r, grid.c)
        lanes = {lane for event, lane in _lanes(self.predicted.timeline.events) if event.resource != COMPUTE}
        names = {MEASURED: "measured", PROCESSOR: f"predicted on {self.predicted.machine}"}
        names |= {NETWORK + lane: "predicted: network" for lane in sorted(lanes)}
        about = {"ph": "M", "pid": rank}
        yield {**about, "name": "process_name", "args": {"name": f"rank {rank}: row {grid.r}, column {grid.c}"}}
        for track, name in names.items():
            yield {**about, "name": "thread_name", "tid": track, "args": {"name": name}}
            yield {**about, "name": "thread_sort_index", "tid": track, "args": {"sort_index": track}}
        for one in trace.passes:
            yield from _measured(one, rank, offset)
            if one.schedule.kind == "training" and one.number == 0:
                yield from _predicted(self.predicted, rank, one.stamps[0] + offset)


def _slice(name: str, start: float, seconds: float, rank: int, track: int, **facts: Any) -> dict[str, Any]:
    times = {"ts": round(start * MICRO, 3), "dur": round(max(0.0, seconds) * MICRO, 3)}
    return {"ph": "X", "name": name, **times, "pid": rank, "tid": track, "args": facts}


def _measured(one: TracedPass, rank: int, offset: float) -> Iterator[dict[str, Any]]:
    for span in one.spans():
        operation = span.operation
        facts = {"step": one.step, "pass": one.number + 1, "phase": operation.phase, "kind": one.schedule.kind}
        buffers = {"reads": ", ".join(operation.reads), "writes": ", ".join(operation.writes)}
        name = f"{operation.layer} {describe(operation)}".strip()
        yield _slice(name, span.start + offset, span.seconds, rank, MEASURED, **facts, **buffers)


def _predicted(found: Price, rank: int, start: float) -> Iterator[dict[str, Any]]:
    line = found.timeline
    for event, lane in _lanes(line.events):
        track = PROCESSOR if event.resource == COMPUTE else NETWORK + lane
        name = f"{event.layer} {event.phase}" if event.resource == COMPUTE else event.label
        yield _slice(name.strip(), start + event.start, event.seconds, rank, track)
    for event in line.waits:
        yield _slice(f"wait for {event.label}", start + event.start, event.seconds, rank, PROCESSOR)


def _lanes(events: Sequence[Event]) -> Iterator[tuple[Event, int]]:
    """Every event with a lane on which no other movement is under way: slices of one track may not overlap."""
    ends: list[float] = []
    for event in events:
        if event.resource == COMPUTE:
            yield event, 0
            continue
        lane = next((number for number, end in enumerate(ends) if end <= event.start), len(ends))
        ends[lane:] = [event.stop, *ends[lane + 1 :]]
        yield event, lane
