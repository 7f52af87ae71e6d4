"""Every movement, measured through gridnn's own communicators, with all groups of a dimension active at once."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from gridnn.calibrate.fit import Point
from gridnn.comm.communicator import Communicator
from gridnn.comm.grid import Grid
from gridnn.comm.ledger import Where
from gridnn.cost.machine import MOVEMENTS, Machine
from gridnn.layout.partition import Even
from gridnn.program.program import BUCKET_WORDS

SIZES = tuple(4**power for power in range(1, 14))  # bytes of the whole array: 4 B to 64 MB
DTYPE, ITEMSIZE = "float32", 4
SWEEPS = 3  # of which the best is kept: what else runs on a node comes and goes, and only slows
BATCHES = 5  # of calls, of which the median is kept
BATCH = 0.005  # seconds that a batch of calls takes at least
MOST_CALLS = 200
Call = Callable[[], None]


def measure_links(
    grid: Grid, machine: Machine, local: int, seconds: float, largest: float = SIZES[-1], told: Callable = print
) -> list[Point]:
    """The points of every movement on columns, rows, all ranks and, of several nodes, the ``local`` ranks of a node.

    All ranks of the grid call it together; neighbours in the job are on the same node. The levels of the ``machine``
    say which one joins a group and how many groups share a link. It takes about ``seconds`` altogether. The largest
    array has ``largest`` bytes; large ones that would take too long are left out too. ``told`` is told, in a line, what
    is next.
    """
    groups = list(_groups(grid, local))
    series = [(*group, kind) for group in groups for kind in MOVEMENTS]
    ends, found = time.perf_counter() + seconds, {}
    for sweep in range(SWEEPS):
        if not series or (sweep and not _agreed(grid, time.perf_counter() < ends)):
            break
        for place, (dimension, group, kind) in enumerate(series):
            left = len(series) * (SWEEPS - sweep) - place
            share = (ends - time.perf_counter()) / left
            if not sweep:
                count = grid.shape.size // group.size
                told(f"{kind} on {dimension}: {group.size} ranks a group, {count} group{'s' * (count > 1)} at once")
            for point in _series(grid, machine, dimension, group, kind, share, largest):
                known = found.setdefault(point[:-1], point)
                found[point[:-1]] = min(known, point)
    return list(found.values())


def measure_overlap(grid: Grid, sweeps: int = 9) -> float:
    """How much of a started sum of gradients goes on while the processor multiplies, from 0 to 1.

    A sum and products that take about as long are timed alone, and the products between the start and the end of the
    sum; what the pair takes less than both is what was hidden.
    """
    if grid.shape.size == 1:
        return 1.0
    backend, where = grid.backend, Where("calibration", "update")
    whole, side = backend.zeros((BUCKET_WORDS,), DTYPE), 256
    a, b, out = (backend.zeros((side, side), DTYPE) for _ in range(3))

    def start() -> Any:
        return grid.all.start_all_reduce(whole, [(where, BUCKET_WORDS)])

    def work(times: int) -> None:
        for _ in range(times):
            backend.kernels.matmul(a, b, out)

    def timed(call: Call) -> float:
        grid.all.gather_values(None)
        started = time.perf_counter()
        call()
        return max(grid.all.gather_values(time.perf_counter() - started))

    def both() -> None:
        pending = start()
        work(times)
        pending.wait()

    moved = statistics.median(timed(lambda: start().wait()) for _ in range(sweeps))
    times = max(1, round(moved / (statistics.median(timed(lambda: work(20)) for _ in range(sweeps)) / 20)))
    hidden = []
    for _ in range(sweeps):
        alone = timed(lambda: start().wait()), timed(lambda: work(times))
        hidden.append((sum(alone) - timed(both)) / min(alone))
    grid.ledger.clear()
    return min(1.0, max(0.0, statistics.median(hidden)))


def _groups(grid: Grid, local: int) -> Iterator[tuple[str, Communicator]]:
    """The communicators to measure, each by the name of its dimension; those that are the same, once."""
    ranks, shape = grid.shape.size, grid.shape
    if shape.rows > 1 and shape.cols > 1:
        yield "column", grid.col
        yield "row", grid.row
    if ranks > 1:
        yield "world", grid.all
    if 1 < local < ranks:
        mine = shape.rank(grid.r, grid.c) // local * local
        yield "node", grid.group(sorted(map(shape.index, range(mine, mine + local))))


def _series(
    grid: Grid, machine: Machine, dimension: str, group: Communicator, kind: str, share: float, largest: float
) -> list[Point]:
    """All sizes of one movement on one dimension, until ``share`` seconds are spent."""
    found, ends = [], time.perf_counter() + share
    for size in SIZES:
        elements = max(size // ITEMSIZE, 1)
        if size > largest or not _agreed(grid, _worth_while(found, ends)):
            break
        call = _call(grid.backend, group, kind, elements)
        counted = _counted(grid, call)
        at = _level_of(grid, machine, group, kind)
        level = machine.levels[at.level].name
        found.append(Point(kind, dimension, level, at.contention, *counted, median_seconds(grid, call)))
    grid.ledger.clear()
    return found


def _worth_while(found: Sequence[Point], ends: float) -> bool:
    """Whether a size more fits into the time: calls of four times the size take at most four times as long."""
    if len(found) < 3:
        return True
    return time.perf_counter() + (BATCHES + 2) * max(BATCH, 4 * found[-1].seconds) < ends


def _agreed(grid: Grid, value: Any) -> Any:
    """What the first rank says, on all ranks: clocks differ."""
    return grid.all.gather_values(value)[0]


def _counted(grid: Grid, call: Call) -> tuple[float, float]:
    """Bytes and messages of a call by the busiest rank, as the ledger counts them."""
    grid.ledger.clear()
    call()
    moved = [tally for _, tally in grid.ledger.steps()]
    told = grid.all.gather_values((sum(tally.bytes for tally in moved), sum(tally.messages for tally in moved)))
    return tuple(map(float, max(told)))


def median_seconds(grid: Grid, call: Call, batches: int = BATCHES, batch: float = BATCH) -> float:
    """Median seconds of a call by the slowest rank, all of them calling; calls follow each other as in a step.

    There are ``batches`` of calls, of which each takes about ``batch`` seconds at least.
    """
    started = time.perf_counter()
    call()
    once = max(grid.all.gather_values(time.perf_counter() - started))
    calls = min(MOST_CALLS, max(1, math.ceil(batch / max(once, 1e-7))))
    times = []
    for _ in range(batches):
        grid.all.gather_values(None)  # all start together
        started = time.perf_counter()
        for _ in range(calls):
            call()
        times.append((time.perf_counter() - started) / calls)
    return statistics.median(max(one) for one in zip(*grid.all.gather_values(times), strict=True))


def _level_of(grid: Grid, machine: Machine, group: Communicator, kind: str):
    """The level and contention of the critical group; of messages to neighbours, of the farthest pair."""
    if kind != "neighbours":
        mine = machine.level_of(group.members, grid.shape)
    else:
        pairs = [tuple(sorted((group.members[group.rank], group.members[peer]))) for peer in _beside(group)]
        mine = max(machine.level_of(pair, grid.shape) for pair in pairs)
    return max(grid.all.gather_values(mine))


def _beside(group: Communicator) -> list[int]:
    """The neighbours of a member: those of a halo."""
    return [peer for peer in (group.rank - 1, group.rank + 1) if 0 <= peer < group.size]


def _call(backend: Any, group: Communicator, kind: str, elements: int) -> Call:
    """One call of a movement of ``elements``: all that a collective is about, or what a rank sends to neighbours."""
    where = Where("calibration", "update")
    parts = [Even(elements, group.size).extent(place) for place in range(group.size)]
    own = parts[group.rank]

    def array(size: int) -> Any:
        return backend.zeros((size,), DTYPE)

    if kind == "all-gather":
        part, whole = array(own), array(elements)
        return lambda: group.start_all_gather(part, whole, parts, where, at_once=True).wait()
    if kind == "reduce-scatter":
        part, whole = array(own), array(elements)
        return lambda: group.start_reduce_scatter(whole, part, parts, where, at_once=True).wait()
    if kind == "all-reduce":
        whole = array(elements)
        return lambda: group.all_reduce(whole, where)
    if kind == "started all-reduce":
        whole = array(elements)
        return lambda: group.start_all_reduce(whole, [(where, elements)]).wait()
    if kind == "all-to-all":
        given, taken = array(elements), array(own * group.size)
        return lambda: group.start_all_to_all(given, parts, taken, [own] * group.size, where, at_once=True).wait()
    half = max(1, elements // 2)
    strips = [(peer, array(half), array(half)) for peer in _beside(group)]
    gives, takes = [(peer, out) for peer, out, _ in strips], [(peer, buffer) for peer, _, buffer in strips]
    return lambda: group.start_exchange(gives, takes, where).wait()
