"""What the planning commands write beside their tables: JSON, CSV, pictures, and what a choice rests on."""

from __future__ import annotations

import json as jsons
import os
from collections.abc import Sequence

from rich.console import Console

from gridnn.cli.console import table
from gridnn.cost.machine import Machine
from gridnn.errors import writing
from gridnn.layout.counts import DIMENSIONS
from gridnn.plan.plan import Plan
from gridnn.plots import plans as pictures
from gridnn.plots.style import Bars, save, stacked
from gridnn.reproduce.report import write_rows
from gridnn.search.model import CostModel
from gridnn.search.optcnn_cost import OptCNN
from gridnn.search.sensitivity import sensitivity, verdict
from gridnn.search.strategies import plan_for
from gridnn.search.verify import verify
from gridnn.train.baselines import Baseline
from gridnn.train.planned import Planned, priced
from gridnn.train.setup import bytes_of

PATIENCE = 60  # seconds in which every choice may be tried
LAYERS = 14.0  # layers an inch of the picture of splits
TALLEST = 4  # times the fastest plan, where bars of plans are cut


def show_sensitivity(made: Planned, out: Console) -> None:
    """Print how the choice moves when alpha, beta or the compute rate is off by 2x."""

    def choose(machine: Machine) -> Plan:
        return plan_for(
            "optimal",
            made.network,
            made.ranks,
            made.batch,
            machine,
            memory=made.config.plan.memory_bytes,
            order=made.config.plan.order,
            accumulate=made.config.train.accumulate,
            axes=made.config.plan.axes,
            **bytes_of(made.config),
            **made.running,
        )

    def seconds(plan: Plan, machine: Machine) -> float:
        return priced(made.config, made.network, plan, made.batch, machine).seconds

    shifts = sensitivity(made.plan, made.machine, choose, seconds)
    rows = table(
        "if the machine were otherwise", ("constant", "times", "best plan then"), ("layers otherwise", "we lose")
    )
    for shift in shifts:
        best = f"{shift.best.strategy} on {shift.best.grid}" if shift.changed else "this one"
        rows.add_row(shift.constant, f"{shift.factor:g}", best, f"{len(shift.changed)}", f"{shift.loss:.1%}")
    out.print(rows)
    out.print(verdict(shifts), markup=False)


def show_verified(made: Planned, out: Console) -> None:
    """Print whether elimination and a depth-first search over all choices find the same optimum."""
    case = made.network, made.ranks, made.smallest, made.machine
    layerwise = made.plan.strategy == "layerwise"
    model = OptCNN(*case) if layerwise else CostModel(*case, at_most=made.at_most, **made.setting)
    found = verify(model.graph, PATIENCE)
    first, second = found.eliminated.value, found.searched.value
    if found.agree is None:
        out.print(f"verify: not every choice was tried in {PATIENCE} s; the best so far takes {second:.6g} s")
        return
    told = "the same optimum" if found.agree else "ANOTHER OPTIMUM"
    out.print(f"verify: {told}: elimination {first:.6g} s, trying every choice {second:.6g} s", markup=False)


def write_csv(path: str, rows: Sequence[Baseline]) -> None:
    """One line a plan: strategy, grid, seconds, words, bytes; empty where it cannot be had."""
    with writing("--csv", path):
        write_rows(path, [_flat(row) for row in rows])


def write_json(path: str, made: Planned, rows: Sequence[Baseline]) -> None:
    """The price layer by layer, and those of the other plans."""
    beside = [{**_flat(row), **({"why": row.why} if row.why else {})} for row in rows[1:]]
    with writing("--json", path), open(path, "w", encoding="utf-8") as file:
        jsons.dump({**made.price.as_dict(), "beside": beside}, file, indent=2)


def _flat(row: Baseline) -> dict:
    found = row.price
    numbers = dict.fromkeys(("seconds", "compute_seconds", "communication_seconds", *map(_words, DIMENSIONS), "bytes"))
    if found is not None:
        numbers |= {"seconds": found.seconds, "compute_seconds": found.compute}
        numbers |= {"communication_seconds": found.communication, "bytes": found.memory.total}
        numbers |= {_words(dimension): count for dimension, count in found.words().items()}
    return {"strategy": row.name, "grid": row.grid, **numbers}


def _words(dimension: str) -> str:
    return f"{dimension}_words"


def draw(folder: str, made: Planned, rows: Sequence[Baseline], swept: bool) -> None:
    """Write the pictures of a plan: its splits, its time line, the plans beside it; of a sweep the map of all grids."""
    with writing("--pictures", folder):
        os.makedirs(folder, exist_ok=True)
        ranks, splits = made.ranks, made.plan.splits
        title = f"{made.config.model.model}, batch {made.batch:,}, {ranks:,} ranks, {made.machine.name}"
        note = made.machine.estimated()
        height = max(4.0, len(splits) / LAYERS * 2)

        def path(name: str) -> str:
            return os.path.join(folder, f"{name}.png")

        save(lambda figure: pictures.split_map(figure, splits, ranks), path("splits"), f"splits: {title}", (9, height))
        events = made.price.timeline.events
        save(lambda figure: pictures.timeline(figure, events), path("timeline"), f"one step: {title}", (11, 3.2), note)
        possible = [row for row in rows if row.price]
        if swept:
            seconds = {(row.name, row.grid): row.price.seconds for row in possible[1:]}
            best = min(seconds, key=seconds.__getitem__)
            save(lambda figure: pictures.heat_map(figure, seconds, best), path("grids"), title, (11, 4.5), note)
        else:
            save(lambda figure: stacked_plans(figure, possible), path("plans"), title, (9, 4.5), note)


def stacked_plans(figure, rows: Sequence[Baseline]) -> None:
    """A bar a plan, the fastest first: computing, and what of communication is not hidden behind it, by dimension."""
    rows = sorted(rows, key=lambda row: row.price.seconds)
    parts: dict[str, list[float]] = {"computing": [row.price.compute for row in rows]}
    for dimension in DIMENSIONS:
        heights = [_exposed(row.price, dimension) for row in rows]
        if any(heights):
            parts[f"waiting for the {dimension}"] = heights
    axes = figure.add_subplot()
    stacked(axes, Bars([f"{row.name}\n{row.grid}" for row in rows], parts))
    fastest, slowest = rows[0].price.seconds, rows[-1].price.seconds
    cut = slowest > TALLEST * fastest
    axes.set_ylim(0, TALLEST * fastest if cut else None)
    axes.set_ylabel(f"seconds a step (cut at {TALLEST} x the fastest)" if cut else "seconds a step")
    figure.legend(loc="outside lower center", ncols=len(parts))


def _exposed(found, dimension: str) -> float:
    """The part of the waiting that is due to a dimension: shared by its seconds."""
    total = found.communication
    seconds = sum(m.seconds for layer in found.layers for m in layer.movements if m.dimension == dimension)
    return found.timeline.exposed * seconds / total if total else 0.0
