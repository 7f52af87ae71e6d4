"""Machine files: JSON with a version, read strictly; and the machines that come with gridnn."""

from __future__ import annotations

import json
import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

from gridnn import records
from gridnn.cost.constants import Reader
from gridnn.cost.machine import MOVEMENTS, WORK, Compute, Level, Machine, Range, most_growth
from gridnn.errors import UserError, unknown, writing

VERSION = 1
DEVICES = ("cpu", "gpu")
MADE_BY = "mpirun -n P gridnn calibrate -o FILE makes a machine file"


def shipped() -> dict[str, Path]:
    """The machines that come with gridnn: their files by name."""
    return {path.stem: path for path in sorted((Path(__file__).parent / "shipped").glob("*.json"))}


def load_machine(name: str | Path) -> Machine:
    """The machine of a file (anything that ends in .json, or has a directory), or one of those `shipped`.

    Raises
    ------
    UserError
        If there is no such machine or file, or a constant is missing, unknown, or not what it can be; the text names
        the file, the constant by its path, its value and the remedy.
    """
    text, known = str(name), shipped()
    path = known.get(text)
    if path is None:
        path = Path(text)
        if path.suffix != ".json" and len(path.parts) < 2 and not path.is_file():
            raise UserError(f"{unknown('machine', text, known)}, or a FILE.json; {MADE_BY}")
    return machine_of(_content(path), str(path))


def save_machine(machine: Machine, path: str | Path) -> None:
    """Write ``machine`` to ``path``; reading it gives an equal one.

    Raises
    ------
    UserError
        If the file cannot be written.
    """
    with writing("machine file", path):
        Path(path).write_text(text_of(machine), encoding="utf-8")


def text_of(machine: Machine) -> str:
    """What is in the file of a machine: lists of numbers, such as ranges and raw points, have a line each."""
    text = json.dumps(content_of(machine), indent=1, allow_nan=False)
    row = re.compile(r"\[\n([^][{}]*?)\n *\]")
    return (
        row.sub(lambda found: f"[{', '.join(map(str.strip, found[1].splitlines())).replace(',,', ',')}]", text) + "\n"
    )


def fingerprint(machine: Machine) -> str:
    """Twelve hexadecimal digits of what prices depend on: the constants, not their names, sources or raw points."""
    content = content_of(machine)
    for name in ("name", "version", "estimates", "provenance"):
        del content[name]
    if machine.device == DEVICES[0]:  # files from before there were others keep their fingerprint
        del content["device"]
    return records.fingerprint(content)[:12]


def content_of(machine: Machine) -> dict[str, Any]:
    """The JSON object of a machine."""
    return {
        "version": VERSION,
        "name": machine.name,
        "levels": [_level_content(level) for level in machine.levels],
        "compute": {
            "rates": {kind: [list(map(float, point)) for point in points] for kind, points in _sorted(machine)},
            "memory": float(machine.compute.memory),
            "overhead": float(machine.compute.overhead),
        },
        "memory": None if machine.memory is None else float(machine.memory),
        "overlap": float(machine.overlap),
        "device": machine.device,
        "estimates": list(machine.estimates),
        "provenance": dict(machine.provenance),
    }


def machine_of(content: Any, source: str) -> Machine:
    """The machine of a JSON object that was read from ``source``; raises like `load_machine`."""
    read = Reader(source)
    optional = ("memory", "overlap", "device", "estimates", "provenance")
    read.fields(content, "", ("version", "name", "levels", "compute"), optional)
    if content["version"] != VERSION or content["version"] is True:
        raise read.wrong("version", content["version"], f"this gridnn reads version {VERSION}; {MADE_BY}")
    memory, name = content.get("memory"), read.text(content["name"], "name")
    levels, compute = _levels(content["levels"], read), _compute(content["compute"], read)
    estimates = read.texts(content.get("estimates", []), "estimates")
    for path in estimates:
        _find(path, levels, compute, read)
    provenance = content.get("provenance", {})
    if not isinstance(provenance, dict):
        raise read.wrong("provenance", provenance, "an object: sources by constant")
    memory = None if memory is None else read.number(memory, "memory", above=0)
    overlap = read.number(content.get("overlap", 1.0), "overlap")
    if overlap > 1:
        raise read.wrong("overlap", overlap, "a share of a movement's speed, at most 1")
    device = content.get("device", DEVICES[0])
    if device not in DEVICES:
        raise read.wrong("device", device, f"one of {', '.join(DEVICES)}: what a rank computes on")
    return Machine(name, levels, compute, memory, estimates, provenance, overlap, device)


def _content(path: Path) -> Any:
    try:
        return records.read_json("machine file", path)
    except UserError as error:
        raise UserError(f"{error}; {MADE_BY}, or use one of {', '.join(shipped())}") from error


def _sorted(machine: Machine) -> list[tuple[str, tuple[tuple[float, float], ...]]]:
    return sorted(machine.compute.rates.items())


def _level_content(level: Level) -> dict[str, Any]:
    movements: dict[str, Any] = {
        kind: [[float(number) for number in one] for one in level.movements[kind]]
        for kind in MOVEMENTS
        if kind in level.movements
    }
    return {
        "name": level.name,
        "ranks": level.ranks,
        "alpha": float(level.alpha),
        "beta": float(level.beta),
        "shared": level.shared,
        "movements": movements,
    }


def _levels(content: Any, read: Reader) -> tuple[Level, ...]:
    found: list[Level] = []
    for number, one in enumerate(read.items(content, "levels")):
        name = one.get("name", str(number)) if isinstance(one, dict) else str(number)
        found.append(_level(one, f"levels.{name}", found[-1] if found else None, read))
        if (found[-1].ranks is None) != (number == len(content) - 1):
            remedy = "null for the outermost level, which joins all ranks, and a number for every other"
            raise read.wrong(f"levels.{name}.ranks", found[-1].ranks, remedy)
    names = [level.name for level in found]
    if len(set(names)) < len(names):
        raise read.wrong("levels", ", ".join(names), "a name of its own for every level")
    return tuple(found)


def _level(content: Any, path: str, below: Level | None, read: Reader) -> Level:
    read.fields(content, path, ("name", "ranks", "alpha", "beta"), ("shared", "movements"))
    ranks, inner = content["ranks"], below.ranks or 1 if below else 1
    if ranks is not None:
        ranks = read.whole(ranks, f"{path}.ranks")
        if ranks % inner or (below and ranks == inner):
            raise read.wrong(f"{path}.ranks", ranks, f"a multiple of the {inner} ranks of the level below")
    shared = read.whole(content.get("shared", 1), f"{path}.shared")
    if below and shared > inner:
        raise read.wrong(f"{path}.shared", shared, f"at most the {inner} ranks of the level below share a link")
    movements = content.get("movements", {})
    read.fields(movements, f"{path}.movements", (), MOVEMENTS)
    return Level(
        read.text(content["name"], f"{path}.name"),
        ranks,
        read.number(content["alpha"], f"{path}.alpha"),
        read.number(content["beta"], f"{path}.beta"),
        shared,
        {kind: _ranges(ranges, f"{path}.movements.{kind}", read) for kind, ranges in movements.items()},
    )


def _ranges(content: Any, path: str, read: Reader) -> tuple[Range, ...]:
    rows = (read.row(one, f"{path}.{i}", 3) for i, one in enumerate(read.items(content, path)))
    found = tuple(Range(start, alpha, beta) for start, alpha, beta in rows)
    starts = [one.start for one in found]
    if starts[0] or any(b <= a for a, b in pairwise(starts)):
        raise read.wrong(path, starts, "ranges [start, alpha, beta] whose starts ascend from 0")
    for before, after in pairwise(found):
        end, start = (one.alpha + one.beta * after.start for one in (before, after))
        if start < end and not math.isclose(start, end, rel_tol=1e-6):
            remedy = f"at {after.start:g} bytes the seconds fall from {end:g} to {start:g}: they may only grow"
            raise read.wrong(path, list(after), remedy)
    return found


def _compute(content: Any, read: Reader) -> Compute:
    read.fields(content, "compute", ("rates", "memory"), ("overhead",))
    kinds = tuple(kind for kind in WORK if kind != "memory")
    read.fields(content["rates"], "compute.rates", kinds, ())
    rates = {kind: _rates(content["rates"][kind], f"compute.rates.{kind}", read) for kind in kinds}
    memory = read.number(content["memory"], "compute.memory", above=0)
    return Compute(rates, memory, read.number(content.get("overhead", 0.0), "compute.overhead"))


def _rates(content: Any, path: str, read: Reader) -> tuple[tuple[float, float], ...]:
    rows = (read.row(one, f"{path}.{i}", 2, above=0) for i, one in enumerate(read.items(content, path)))
    points = tuple((flops, rate) for flops, rate in rows)
    for (low, slow), (high, fast) in pairwise(points):
        if high <= low:
            raise read.wrong(path, [at for at, _ in points], "points [flops, flops per second] whose flops ascend")
        if fast > slow * most_growth(low, high) * (1 + 1e-9):
            remedy = f"between {low:g} and {high:g} flops the rate grows so fast that more work would take less time"
            raise read.wrong(path, [[low, slow], [high, fast]], remedy)
    return points


def _find(path: str, levels: tuple[Level, ...], compute: Compute, read: Reader) -> None:
    """Refuse an estimate of a constant that the file does not have."""
    known = [f"levels.{level.name}.{key}" for level in levels for key in ("alpha", "beta", "shared", "movements")]
    known += [f"levels.{level.name}" for level in levels] + ["compute", "compute.rates", "compute.overhead"]
    known += ["compute.memory", "memory", *(f"compute.rates.{kind}" for kind in compute.rates)]
    if path not in known:
        raise read.wrong("estimates", path, str(unknown("constant", path, known)))
