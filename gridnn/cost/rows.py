"""A step of one rank from top to bottom: every operation of its schedules with bytes, words and seconds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from gridnn.cost.operations import Priced
from gridnn.cost.price import Price
from gridnn.program.schedule import Begin, Compute, End, Operation, Schedule


class Row(NamedTuple):
    """One operation.

    Attributes
    ----------
    number : int
        Its place in all passes of the batch, from 0 on.
    start : float
        Seconds from the start of the step to its own.
    layer, phase : str
        Whose it is.
    operation : str
        ``forward``, ``copy``, ``begin all-gather``, ...
    buffers : str
        What it reads and writes.
    bytes : int
        Of those buffers on this rank.
    words, messages : int
        What this rank moves.
    computing, moving, waiting : float
        Seconds of the processor; of the movement that begins here if nothing else moves; in which it waits.
    """

    number: int
    start: float
    layer: str
    phase: str
    operation: str
    buffers: str
    bytes: int
    words: int
    messages: int
    computing: float
    moving: float
    waiting: float


def rows(price: Price) -> Iterator[tuple[Schedule, list[Row]]]:
    """The schedule and the rows of every pass."""
    starts: dict[int, float] = {}
    waits: dict[int, float] = {}
    line, number, clock = price.timeline, 0, 0.0
    for event in (*line.events, *line.waits):
        starts[event.operation] = min(event.start, starts.get(event.operation, event.start))
    for event in line.waits:
        waits[event.operation] = waits.get(event.operation, 0.0) + event.seconds
    for schedule, operations in zip(price.schedules, price.passes, strict=True):
        made = []
        for priced in operations:
            clock = starts.get(number, clock)  # what takes no time starts with what is before it
            made.append(_row(number, clock, waits.get(number, 0.0), priced, schedule))
            number += 1
        yield schedule, made


def _row(number: int, start: float, waiting: float, priced: Priced, schedule: Schedule) -> Row:
    operation, itemsize = priced.operation, schedule.policy.itemsize
    sizes: dict[str, int] = {}  # by the memory in which they lie: an array and a view of it count once
    for name in (*operation.reads, *operation.writes):
        if name in schedule.buffers:
            root, size = schedule.root(name).name, schedule.buffers[name].bytes(itemsize)
            sizes[root] = max(size, sizes.get(root, 0))
    moved = [movement for _, movement in priced.movements]
    return Row(
        number,
        start,
        operation.layer,
        operation.phase,
        describe(operation),
        " -> ".join(filter(None, (", ".join(operation.reads), ", ".join(operation.writes)))),
        sum(sizes.values()),
        sum(one.words for one in moved),
        sum(one.messages for one in moved),
        priced.seconds,
        priced.alone,
        waiting,
    )


def describe(operation: Operation) -> str:
    """What an operation does: the layer's own name for a call, else the kind; of a part of a call which part."""
    if isinstance(operation, Compute):
        if operation.region is None:
            return operation.task.method
        return f"{operation.task.method}[{','.join(f'{cut.start}:{cut.stop}' for cut in operation.region)}]"
    if isinstance(operation, (Begin, End)):
        movement = operation.movement
        ranks = "" if movement.members is None else f" of {len(movement.members)} ranks"
        return f"{type(operation).__name__.lower()} {operation.number}: {movement.kind}{ranks}"
    return type(operation).__name__.lower()
