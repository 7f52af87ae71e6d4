"""The picture of a calibration: measured points and fitted lines, a panel a movement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gridnn.calibrate.fit import Point
from gridnn.cost.machine import MOVEMENTS, Machine
from gridnn.plots.style import COLOURS

DIMENSIONS = ("column", "row", "world", "node")
MARKS = dict(zip(DIMENSIONS, zip("os^D", COLOURS, strict=False), strict=True))


def draw(figure: Any, machine: Machine, points: Sequence[Point]) -> None:
    """Draw seconds over bytes, both logarithmic, into a matplotlib figure; lines are what the machine says."""
    levels = {level.name: level for level in machine.levels}
    kinds = [kind for kind in MOVEMENTS if any(point.kind == kind for point in points)]
    panels = figure.subplots(2, 3, sharex=True, sharey=True).flat
    for axes, kind in zip(panels, kinds, strict=False):
        for dimension, (mark, colour) in MARKS.items():
            mine = [p for p in points if (p.kind, p.dimension) == (kind, dimension)]
            if not mine:
                continue
            sizes = [max(1.0, p.size) for p in mine]
            said = [levels[p.level].seconds(kind, p.size, p.messages, p.load) for p in mine]
            axes.plot(sizes, [p.seconds for p in mine], mark, color=colour, label=f"{dimension}, measured", ms=4)
            axes.plot(sizes, said, "-", color=colour, lw=1.2, label=f"{dimension}, fitted")
        axes.set(title=kind, xscale="log", yscale="log")
        axes.grid(True, axis="both")
    for axes in figure.axes[-3:]:
        axes.set_xlabel("bytes moved by the busiest rank")
    for axes in figure.axes[::3]:
        axes.set_ylabel("seconds a call")
    figure.axes[0].legend()
