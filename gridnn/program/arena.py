"""The memory of a schedule: when every buffer lives, which share memory, and where it lies in one block."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from gridnn.program.schedule import Buffer, Compute, Schedule

TRIES = 20  # how often every order of the buffers is mended
ENOUGH = 1.02  # of the peak: a block that is not looked for any further


@dataclass(frozen=True)
class Range:
    """The operations between which a buffer holds something: from the first write to the last use."""

    start: int
    stop: int


@dataclass(frozen=True)
class Arena:
    """One block of memory for all buffers of a schedule.

    Attributes
    ----------
    size : int
        Bytes.
    offsets : mapping of str to int
        Where the buffers that are no views lie.
    aliases : mapping of str to str
        The buffers that lie in another one's memory, as their operation allows.
    peak : int
        The largest sum of the bytes of buffers that live at once.
    at : int
        The operation at which it is reached.
    ranges : mapping of str to Range
        When the memory of every buffer that has some of its own is used.
    sizes : mapping of str to int
        Its bytes, rounded up to the alignment.
    """

    schedule: Schedule = field(repr=False)
    size: int
    offsets: Mapping[str, int] = field(repr=False)
    aliases: Mapping[str, str] = field(repr=False)
    peak: int
    at: int
    ranges: Mapping[str, Range] = field(repr=False)
    sizes: Mapping[str, int] = field(repr=False)

    @cached_property
    def living(self) -> tuple[Buffer, ...]:
        """The buffers at the peak."""
        buffers = self.schedule.buffers
        return tuple(buffers[name] for name, one in self.ranges.items() if one.start <= self.at <= one.stop)

    def address(self, name: str) -> int:
        """The offset of a buffer that is no view."""
        return self.offsets[self.aliases.get(name, name)]


def plan_arena(schedule: Schedule) -> Arena:
    """Give every buffer of a schedule its place.

    Largest first, each at the lowest offset that no other has while it lives (greedy by size, as in TensorFlow Lite:
    Pisarchyk and Lee 2020, arXiv 2001.03288), or by the order of time; whichever block is smaller.
    """
    ranges, roots = live_ranges(schedule)
    aliases = _in_place(schedule, ranges, roots)
    sizes = {name: _bytes(schedule, name) for name in ranges}
    peak, at = _peak(ranges, sizes)
    offsets, size = _packed(ranges, sizes, peak)
    return Arena(schedule, size, offsets, aliases, peak, at, ranges, sizes)


def live_ranges(schedule: Schedule) -> tuple[dict[str, Range], dict[str, str]]:
    """When the buffers that are no views are used, and in which of them every buffer lies."""
    roots: dict[str, str] = {}
    for name, buffer in schedule.buffers.items():  # a base comes before its views
        roots[name] = name if buffer.base is None else roots[buffer.base]
    start: dict[str, int] = {}
    stop: dict[str, int] = {}
    for number, operation in enumerate(schedule.operations):
        for name in (*operation.reads, *operation.writes):
            root = roots[name]
            start.setdefault(root, number)
            stop[root] = number
    for outside in (*schedule.outputs.values(), schedule.seed):  # read by whoever runs the schedule
        if outside is not None:
            stop[roots[outside]] = len(schedule.operations)
    return {name: Range(first, stop[name]) for name, first in start.items()}, roots


def _bytes(schedule: Schedule, name: str) -> int:
    size, unit = schedule.buffers[name].bytes(schedule.policy.itemsize), schedule.policy.alignment
    return -(-size // unit) * unit


def _in_place(schedule: Schedule, ranges: dict[str, Range], roots: dict[str, str]) -> dict[str, str]:
    """Let outputs take the memory of inputs that are read for the last time, once, where their operation allows it.

    ``ranges`` are those of the memory afterwards.
    """
    aliases: dict[str, str] = {}
    for number, operation in enumerate(schedule.operations):
        if not isinstance(operation, Compute) or operation.task.in_place is None:
            continue
        names = (*operation.task.reads, *(w for w in operation.task.writes if w not in operation.task.reads))
        read, written = (operation.arrays[names.index(name)] for name in operation.task.in_place)
        owner = aliases.get(roots[read], roots[read])
        uses = sum(aliases.get(roots[name], roots[name]) == owner for name in operation.reads)
        if written not in ranges or not _whole(schedule, read) or ranges[owner].stop != number or uses > 1:
            continue
        if schedule.buffers[written].bytes(4) == schedule.buffers[owner].bytes(4) and ranges[written].start == number:
            aliases[written] = owner
            ranges[owner] = Range(ranges[owner].start, ranges.pop(written).stop)
    return aliases


def _whole(schedule: Schedule, name: str) -> bool:
    """Whether a buffer is all of the memory in which it lies."""
    buffer = schedule.buffers[name]
    while buffer.base is not None:
        if buffer.region is not None:
            return False
        buffer = schedule.buffers[buffer.base]
    return True


def _peak(ranges: Mapping[str, Range], sizes: Mapping[str, int]) -> tuple[int, int]:
    """The most bytes that live at once, and when."""
    changes: dict[int, int] = {}
    for name, one in ranges.items():
        changes[one.start] = changes.get(one.start, 0) + sizes[name]
        changes[one.stop + 1] = changes.get(one.stop + 1, 0) - sizes[name]
    most = at = total = 0
    for number in sorted(changes):
        total += changes[number]
        if total > most:
            most, at = total, number
    return most, at


def _packed(ranges: Mapping[str, Range], sizes: Mapping[str, int], least: int) -> tuple[dict[str, int], int]:
    """Offsets and the size of the block: the best of several orders, the first that is nearly as small as can be.

    If none is, each is mended: the buffer that ends highest is placed before all others, again and again.
    """
    orders = (
        lambda name: (-sizes[name], ranges[name].start),
        lambda name: (ranges[name].start, -sizes[name]),
        lambda name: (ranges[name].start - ranges[name].stop, -sizes[name]),
    )
    tried = [sorted((name for name in ranges if sizes[name]), key=order) for order in orders]
    best: tuple[dict[str, int], int] = {}, sum(sizes.values()) + 1  # no order needs as much
    for number in range(len(tried) * TRIES):
        names = tried[number % len(tried)]
        offsets, size = made = _placed(names, ranges, sizes)
        if size < best[1]:
            best = made
        if best[1] <= ENOUGH * least:
            break
        highest = max(names, key=lambda name: offsets[name] + sizes[name])
        names.remove(highest)
        names.insert(0, highest)
    offsets, size = best
    return {**dict.fromkeys(ranges, 0), **offsets}, size


def _placed(names: Sequence[str], ranges: Mapping[str, Range], sizes: Mapping[str, int]) -> tuple[dict[str, int], int]:
    """Every buffer at the best-fitting gap between those that live with it, in this order."""
    placed: list[tuple[int, int, int, int]] = []  # offset, end, first and last operation; by offset
    offsets, most = {}, 0
    for name in names:
        one, size = ranges[name], sizes[name]
        end, best, waste = 0, None, None
        for low, high, start, stop in placed:
            if start > one.stop or stop < one.start:
                continue
            gap = low - end
            if gap >= size and (waste is None or gap < waste):
                best, waste = end, gap
                if not waste:
                    break
            if high > end:
                end = high
        offset = end if best is None else best
        bisect.insort(placed, (offset, offset + size, one.start, one.stop))
        offsets[name] = offset
        most = max(most, offset + size)
    return offsets, most
