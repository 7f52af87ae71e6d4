"""A machine from what was measured on the ranks at hand."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from gridnn.calibrate.fit import Point, Residual, fit_ranges, fit_rates, residuals
from gridnn.calibrate.rates import Timed, computing, stream_rate
from gridnn.cost.machine import MOVEMENTS, WORK, Compute, Level, Machine, Range
from gridnn.cost.machines import load_machine
from gridnn.errors import UserError

DOUBTED = 0.4  # the median relative error above which a fit is no more than an estimate
REACHED = 2**20  # bytes that must have been measured, if the memory allows
ASSUMED = "generic-cpu"  # whose links a machine gets that was calibrated on one rank


class Place(NamedTuple):
    """Where a rank of the job runs."""

    node: str
    local_rank: int
    local_size: int


def levels_of(places: Sequence[Place], links: int = 1) -> tuple[Level, ...]:
    """The levels that a job sees, without constants: ranks of a node, and nodes with ``links`` network links.

    ``places`` are those of all ranks, in their order. `UserError` if the nodes have different numbers of ranks,
    neighbours in the job are not on the same node, or ``links`` do not divide the ranks of a node.
    """
    local = places[0].local_size
    sizes = sorted({place.local_size for place in places})
    if len(sizes) > 1:
        raise UserError(f"the nodes have {sizes[0]} to {sizes[-1]} ranks: start as many ranks on every node")
    for rank, place in enumerate(places):
        if place.local_rank != rank % local or place.node != places[rank - place.local_rank].node:
            raise UserError(
                f"rank {rank} is rank {place.local_rank} of node {place.node}, not {rank % local}: neighbouring ranks "
                "belong on one node: mpirun --map-by core, or srun --distribution=block"
            )
    if links < 1 or local % links:
        raise UserError(f"--links {links}: the {local} ranks of a node do not share {links} links evenly")
    if len(places) == local:
        return (Level("node", None, 0.0, 0.0),)
    network = Level("network", None, 0.0, 0.0, local // links)
    return (network,) if local == 1 else (Level("node", local, 0.0, 0.0), network)


def fitted(levels: Sequence[Level], points: Sequence[Point]) -> tuple[Level, ...]:
    """``levels`` with the constants that fit the points of each; one without points stays as it is."""
    made = []
    for level in levels:
        groups = {kind: [p for p in points if (p.kind, p.level) == (kind, level.name)] for kind in MOVEMENTS}
        ranges = {kind: fit_ranges(group) for kind, group in groups.items() if group}
        if ranges:
            alpha, beta = _typical(ranges)
            level = replace(level, alpha=alpha, beta=beta, movements=ranges)
        made.append(level)
    return tuple(made)


def _typical(ranges: Mapping[str, tuple[Range, ...]]) -> tuple[float, float]:
    """A level's own alpha and beta: the latency of its smallest messages and the bandwidth of its largest."""
    chosen = ranges.get("neighbours") or next(iter(ranges.values()))
    return chosen[0].alpha, chosen[-1].beta


def compute_of(timed: Sequence[Timed], overhead: float) -> Compute:
    """The compute rates of what was timed."""
    memory = stream_rate(timed)
    kinds = [kind for kind in WORK if kind != "memory"]
    return Compute({kind: fit_rates(computing(timed, kind, memory, overhead)) for kind in kinds}, memory, overhead)


def assemble(
    name: str,
    levels: Sequence[Level],
    points: Sequence[Point],
    compute: Compute,
    memory: float,
    overlap: float,
    device: str,
    facts: Mapping,
) -> tuple[Machine, list[Residual]]:
    """The machine, its raw points and residuals in its provenance; without points its links are assumed.

    ``device`` is "cpu" or "gpu"; ``facts`` are the rest of its provenance: host, date, MPI, ...
    """
    if not points:
        assumed = load_machine(ASSUMED)
        why = f"one rank has no links: those of {assumed.name} are assumed"
        estimates = tuple(f"levels.{level.name}" for level in assumed.levels)
        return Machine(name, assumed.levels, compute, memory, estimates, {"links": why, **facts}, device=device), []
    made = fitted(levels, points)
    errors = residuals(points, made)
    kept = {"residuals": as_listed(errors), "points": as_listed(points)}
    return Machine(name, made, compute, memory, (), {**facts, **kept}, overlap, device), errors


def doubted(
    machine: Machine, points: Sequence[Point], errors: Sequence[Residual], largest: float
) -> tuple[Machine, list[str]]:
    """The machine with those levels as estimates whose fit is poor or stops short of ``largest`` bytes, and why."""
    poor, reasons = dict.fromkeys(machine.estimates), []
    for one in errors:
        if one.median > DOUBTED:
            poor[f"levels.{one.level}"] = None
            reasons.append(f"{one.kind} along the {one.dimension} is {one.median:.0%} off its fit: was the node busy?")
    reached: dict[tuple[str, str], float] = {}
    for point in points:
        key = point.kind, point.level
        reached[key] = max(reached.get(key, 0.0), point.size)
    for (kind, level), size in reached.items():
        if size < min(REACHED, largest / 4):
            poor[f"levels.{level}"] = None
            reasons.append(f"{kind} was measured up to {size:,.0f} bytes only: give it more --seconds")
    return replace(machine, estimates=tuple(poor)), reasons


def as_listed(rows: Sequence[NamedTuple]) -> dict[str, Any]:
    """Rows as they stand in a file: the names of the columns, and a list a row."""
    numbers = [[float(f"{v:.4g}") if isinstance(v, float) else v for v in row] for row in rows]
    return {"columns": list(rows[0]._fields) if rows else [], "rows": numbers}


def cpu() -> str:
    """The name of this node's processor, as far as the system says it."""
    try:
        found = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def node_memory() -> float | None:
    """The bytes of this node's memory that this job may use; None where the system does not say."""
    try:
        total = re.search(r"^MemTotal:\s*(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        return None
    known = [1024 * int(total[1])] if total else []
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            known.append(int(Path(limit).read_text()))
        except (OSError, ValueError):
            continue
    return float(min(known)) if known else None
