"""How the pictures look: one style, bars of the paper beside ours; matplotlib is loaded when one is drawn."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from gridnn.errors import UserError

# Okabe and Ito's colours, which the colour-blind can tell apart, in the order of use.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")
OURS, PAPER = COLOURS[0], "#444444"
STYLE = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "hatch.linewidth": 0.6,
    "figure.titlesize": 13,
    "figure.titleweight": "bold",
}
DPI = 150


class Bars(NamedTuple):
    """Stacked bars over ``labels``: ``parts`` are the heights by name, from the bottom up; ``paper``'s stand beside."""

    labels: Sequence[str]
    parts: Mapping[str, Sequence[float]]
    paper: Mapping[str, Sequence[float]] | None = None


def save(draw: Callable[[Any], None], path: str, title: str, size: tuple[float, float], note: str = "") -> None:
    """Draw a figure of ``size`` inches in the house's style and write it as PNG, with ``note`` below it.

    `UserError` if matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError(f"pictures need matplotlib ({error}): pip install 'gridnn[plot]'") from error
    lines = textwrap.wrap(note, int(14 * size[0]))
    below = 0.18 * len(lines) + 0.1 if lines else 0.0  # inches
    with rc_context(STYLE):
        figure = Figure(figsize=(size[0], size[1] + below), layout="constrained")
        figure.get_layout_engine().set(h_pad=0.09, w_pad=0.07)
        above, under = figure.subfigures(2, 1, height_ratios=(size[1], below or 0.01))
        above.suptitle(title)
        draw(above)
        under.text(0.01, 0.9, "\n".join(lines), fontsize=8, color="#666666", va="top")
        figure.savefig(path, dpi=DPI)


def stacked(axes: Any, bars: Bars, colours: Sequence[str] = COLOURS) -> None:
    """Draw stacked bars, ours in full colours; those of the paper stand to their left, pale and hatched."""
    width = 0.38 if bars.paper else 0.7
    shift = width / 2 + 0.01 if bars.paper else 0.0
    for parts, offset, style in (
        (bars.paper or {}, -shift, {"alpha": 0.45, "hatch": "////", "edgecolor": "white"}),
        (bars.parts, shift, {"edgecolor": "white", "linewidth": 0.4}),
    ):
        bottoms = [0.0] * len(bars.labels)
        for (name, heights), colour in zip(parts.items(), colours, strict=False):
            label = f"{name} (paper)" if style.get("hatch") else name
            places = [place + offset for place in range(len(bars.labels))]
            axes.bar(places, heights, width, bottoms, color=colour, label=label, **style)
            bottoms = [low + height for low, height in zip(bottoms, heights, strict=True)]
    name_bars(axes, bars.labels)


def grouped(axes: Any, labels: Sequence[str], series: Mapping[str, Sequence[float]], paper: str = "paper") -> None:
    """Draw bars side by side, a colour per series; None leaves a gap, and ``paper`` names the grey, hatched one."""
    width = 0.8 / len(series)
    for number, (name, heights) in enumerate(series.items()):
        known = [(place, height) for place, height in enumerate(heights) if height is not None]
        places = [place + (number - (len(series) - 1) / 2) * width for place, _ in known]
        style = {"color": "#bbbbbb", "hatch": "////"} if name == paper else {"color": COLOURS[number % len(COLOURS)]}
        axes.bar(places, [height for _, height in known], width, label=name, edgecolor="white", **style)
    name_bars(axes, labels)


def name_bars(axes: Any, labels: Sequence[str]) -> None:
    """Write the labels under bars at 0, 1, 2, ...; many or long ones are turned."""
    crowded = sum(len(label) for label in labels) > 45
    axes.set_xticks(range(len(labels)), labels, rotation=45 if crowded else 0, ha="right" if crowded else "center")
    axes.set_xlim(-0.6, len(labels) - 0.4)


def legend(figure: Any, axes: Any, columns: int = 4) -> None:
    """One legend below all panels of a figure, made of those of ``axes``."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(columns, max(1, len(labels))))
