"""Pictures of plans: the seconds of every grid, the splits of a network, the predicted timeline of a step."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from gridnn.cost.price import Price
from gridnn.errors import writing
from gridnn.layout.counts import DIMENSIONS
from gridnn.layout.split import AXES, REPLICAS, Split
from gridnn.planning.search.baselines import Baseline
from gridnn.planning.search.request import PricedPlan
from gridnn.plots.style import COLOURS, Bars, save, stacked
from gridnn.units import duration, time_unit

FACTORS = dict(zip((*AXES, REPLICAS), (*COLOURS[:6], "#dddddd"), strict=True))
OTHER = "#555555"  # an axis that a layer names for itself
PHASES = {"forward": COLOURS[0], "recompute": COLOURS[4], "backward": COLOURS[1], "update": COLOURS[2]}
NAMES = 60  # layers that a picture can name
LAYERS = 14.0  # layers an inch of the picture of splits
TALLEST = 4  # times the fastest plan, where bars of plans are cut


def save_pictures(folder: str, model: str, made: PricedPlan, rows: Sequence[Baseline], *, swept: bool) -> None:
    """Write the pictures of a plan: its splits, its time line, the plans beside it; of a sweep the map of all grids."""
    with writing("--pictures", folder):
        os.makedirs(folder, exist_ok=True)
        request, splits, events = made.request, made.plan.splits, made.price.timeline.events
        ranks, machine = request.ranks, request.machine
        title = f"{model}, batch {request.batch:,}, {ranks:,} ranks, {machine.name}"
        note, height = machine.estimated(), max(4.0, len(splits) / LAYERS * 2)

        def path(name: str) -> str:
            return os.path.join(folder, f"{name}.png")

        save(lambda figure: split_map(figure, splits, ranks), path("splits"), f"splits: {title}", (9, height))
        save(lambda figure: timeline(figure, events), path("timeline"), f"one step: {title}", (11, 3.2), note)
        possible = [row for row in rows if row.price]
        if swept:
            seconds = {(row.name, row.grid): row.price.seconds for row in possible[1:]}
            best = min(seconds, key=seconds.__getitem__)
            save(lambda figure: heat_map(figure, seconds, best), path("grids"), title, (11, 4.5), note)
        else:
            save(lambda figure: stacked_plans(figure, possible), path("plans"), title, (9, 4.5), note)


def heat_map(figure: Any, seconds: Mapping[tuple[str, str], float | None], best: tuple[str, str]) -> None:
    """The seconds of a step by strategy (down) and grid (across), as shares of the best; None: cannot be had."""
    from matplotlib.colors import LogNorm

    strategies = list(dict.fromkeys(strategy for strategy, _ in seconds))
    grids = list(dict.fromkeys(grid for _, grid in seconds))
    least = seconds[best]
    rows = [[_share(seconds.get((strategy, grid)), least) for grid in grids] for strategy in strategies]
    axes = figure.add_subplot()
    image = axes.imshow(rows, cmap="viridis_r", norm=LogNorm(1, max(2, _largest(rows))), aspect="auto")
    for y, strategy in enumerate(strategies):
        for x, grid in enumerate(grids):
            if not math.isnan(rows[y][x]):
                shade = "white" if rows[y][x] > math.sqrt(_largest(rows)) else "black"
                weight = "bold" if (strategy, grid) == best else "normal"
                text = duration(seconds[strategy, grid])
                axes.text(x, y, text, ha="center", va="center", fontsize=8, color=shade, fontweight=weight)
    axes.set_xticks(range(len(grids)), grids, rotation=45)
    axes.set_yticks(range(len(strategies)), strategies)
    axes.set_xlabel("grid (Pr x Pc)")
    axes.grid(False)
    bar = figure.colorbar(image, label="step time / that of the best")
    bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    bar.ax.yaxis.set_minor_formatter(lambda value, _: "")


def split_map(figure: Any, splits: Mapping[str, Split], ranks: int) -> None:
    """A bar a layer: the factors of its split, each as long as its logarithm; together they are P."""
    axes = figure.add_subplot()
    shown: set[str] = set()
    for place, split in enumerate(splits.values()):
        left = 0.0
        for axis, parts in split.factors:
            width = math.log(parts) / math.log(max(2, ranks))
            label = None if axis in shown else axis
            axes.barh(
                place, width, left=left, height=0.9, color=FACTORS.get(axis, OTHER), edgecolor="white", label=label
            )
            shown.add(axis)
            if len(splits) <= NAMES:
                axes.text(left + width / 2, place, f"{axis} {parts}", ha="center", va="center_baseline", fontsize=7)
            left += width
    if len(splits) <= NAMES:
        axes.set_yticks(range(len(splits)), list(splits), fontsize=7)
    axes.set_ylim(len(splits) - 0.4, -0.6)
    axes.set_xlim(0, 1)
    axes.set_xticks([])
    axes.set_xlabel(f"into how many parts, on a logarithmic scale: all of it is P = {ranks:,}")
    axes.grid(False)
    figure.legend(loc="outside lower center", ncols=len(shown) or 1)


def timeline(figure: Any, events: Sequence[Any]) -> None:
    """What the priced rank does when: a lane for every resource, a colour for every phase."""
    lanes = list(dict.fromkeys(event.resource for event in events))
    scale, unit = time_unit(max((event.stop for event in events), default=0.0))
    axes, shown = figure.add_subplot(), set()
    for event in events:
        label = None if event.phase in shown else event.phase
        shown.add(event.phase)
        start, width = event.start * scale, (event.stop - event.start) * scale
        axes.barh(
            lanes.index(event.resource), width, left=start, height=0.8, label=label, color=PHASES[event.phase],
            edgecolor="white", linewidth=0.3,
        )  # fmt: skip
    axes.set_yticks(range(len(lanes)), lanes)
    axes.set_ylim(len(lanes) - 0.4, -0.6)
    axes.set_xlabel(f"time in the step ({unit})")
    axes.grid(axis="x")
    figure.legend(loc="outside lower center", ncols=4)


def stacked_plans(figure: Any, rows: Sequence[Baseline]) -> None:
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


def _exposed(found: Price, dimension: str) -> float:
    """The part of the waiting that is due to a dimension: shared by its seconds."""
    total = found.communication
    seconds = sum(m.seconds for layer in found.layers for m in layer.movements if m.dimension == dimension)
    return found.timeline.exposed * seconds / total if total else 0.0


def _share(seconds: float | None, least: float) -> float:
    return math.nan if seconds is None else seconds / least


def _largest(rows: Sequence[Sequence[float]]) -> float:
    return max(value for row in rows for value in row if not math.isnan(value))
