"""The figures of Gholami, Azad, Jin, Keutzer, Buluc 2018 (arXiv 1712.04432): claims and pictures.

The bars are in `gridnn.reproduce.gholami_bars`; what agrees and what does not is told in docs/gholami.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gridnn.cost.machines import load_machine
from gridnn.plots.style import COLOURS, OURS, PAPER, Bars, legend, stacked
from gridnn.reproduce.gholami_bars import (
    BEYOND_BATCH,
    DOMAIN_DRAWN,
    DOMAIN_PRINTED,
    FIGURE_4,
    GRID,
    IMPLIED,
    LARGE,
    PURE_BATCH,
    STRONG,
    WEAK,
    Bar,
    alexnet_with_loss,
    drawn,
    overlapped,
    panels,
)
from gridnn.reproduce.gholami_claims import best, heights, oracle, speedups, winners
from gridnn.reproduce.gholami_cost import sizes
from gridnn.reproduce.gholami_exact import exact, simulated
from gridnn.reproduce.report import Experiment, agrees

Panels = Sequence[Sequence[Bar]]
PARTS = ("compute", "activations and halos", "sums of gradients")


def figure4() -> Experiment:
    """Compute seconds by local batch: the table of Fig 4 beside what the bars of Figs 6-10 imply."""
    bars = [one for one in drawn() if one.figure.startswith("7")]
    claims = []
    for ranks in (8, 32, 128):
        heights = [one.compute for one in bars if one.ranks == ranks]
        mean, local = ranks * sum(heights) / len(heights), 2048 // ranks
        text = f"compute of an epoch on one KNL, {local} images at a time"
        why = f"the bars of Fig 7, P={ranks}, times P; Fig 4 is not what the bars were drawn with"
        claims.append(agrees(f"{text}: Fig 4 beside the drawn bars", FIGURE_4[local], mean, 0.05, "s", why))
        why = "what is used here for Figs 6-10"
        claims.append(agrees(f"{text}: drawn bars beside the table used", mean, IMPLIED[local], 0.01, "s", why))
    rows = [
        {"figure": "4", "local_batch": local, "reading": reading, "seconds": seconds}
        for reading, table in (("Fig 4", FIGURE_4), ("bars of Figs 6-10", IMPLIED))
        for local, seconds in table.items()
    ]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        axes.loglog(FIGURE_4.keys(), FIGURE_4.values(), "o--", color=PAPER, label="printed in Fig 4")
        axes.loglog(IMPLIED.keys(), IMPLIED.values(), "s-", color=OURS, label="implied by the bars of Figs 6-10")
        axes.set_xticks(list(FIGURE_4), [str(local) for local in FIGURE_4])
        axes.set_yticks((2e3, 5e3, 1e4, 2e4, 3e4), ("2,000", "5,000", "10,000", "20,000", "30,000"))
        axes.minorticks_off()
        axes.set(xlabel="images at a time on one KNL", ylabel="seconds of an epoch (1.2 M images)")
        axes.legend()

    title = "Gholami et al., Fig 4: AlexNet's computation on one KNL in two readings"
    return Experiment("gholami-4", title, rows, claims, draw, (8, 5))


def figure6() -> Experiment:
    """One grid on all layers: (8) as printed, (9) as printed, and what the bars follow."""
    layers, known = sizes(alexnet_with_loss()), _by_grid("6")
    readings = {
        "(9), as drawn": list(panels("6", layers, DOMAIN_DRAWN, STRONG)),
        "(9), as printed": list(panels("6", layers, DOMAIN_PRINTED, STRONG)),
        "(8), as printed": list(panels("6", layers, GRID, STRONG)),
    }
    fitted, *_, printed = readings.values()
    claims = [
        heights("the bars of Fig 6 follow (9), convolutions divided by domain", fitted, known, 0.04, _FITTED),
        heights("the bars of Fig 6 follow (8), as the text says", printed, known, 0.04, _NOT_8),
        *winners("6", fitted, known, "(9), as drawn"),
        *winners("6", printed, {}, "(8), as printed: " + _NOT_8),
    ]
    title = "Gholami et al., Fig 6: AlexNet, B=2048, the same grid on all layers"
    return _bars("gholami-6", title, readings, claims, known, most=1.25)


_FITTED = "with k/2 not rounded, the second sum twice, and (6) with d=4096"
_NOT_8 = "(8) sends the convolutions' activations three times; the bars' halo does not depend on Pr"


def figure7() -> Experiment:
    """Convolutions batch parallel, fully connected layers on the grid."""
    layers, known = sizes(alexnet_with_loss()), _by_grid("7")
    made = list(panels("7", layers, PURE_BATCH, STRONG))
    claims = [
        heights("the bars of Fig 7", made, known, 0.04, "1/beta = 6 GiB/s, (6) with d=4096"),
        *winners("7", made, known),
        *oracle("7", layers, made),
    ]
    title = "Gholami et al., Fig 7: AlexNet, B=2048, convolutions batch parallel, fully connected layers on Pr x Pc"
    return _bars("gholami-7", title, {"": made}, claims, known)


def figure8() -> Experiment:
    """Fig 7 with the sums of gradients behind the computation."""
    network, machine = alexnet_with_loss(), load_machine("cori-knl")
    made = list(panels("8", sizes(network), PURE_BATCH, STRONG))
    shares = {"behind all computation": 1.0, "behind the backward part": 2 / 3}
    readings = {name: [[overlapped(one, share) for one in panel] for panel in made] for name, share in shares.items()}
    readings["event simulation"] = [[simulated(network, one, machine) for one in panel] for panel in made]
    whole, backward, events = readings.values()
    claims = [
        *winners("8", whole, {}, "max(0, T_batch - T_compute)"),
        *winners("8", backward, {}, "max(0, T_batch - 2/3 T_compute), as the text says; the bars hide more"),
        *winners("8", events, {}, _EVENTS),
    ]
    title = "Gholami et al., Fig 8: Fig 7 with the sums of gradients overlapped"
    note = f"event simulation: {machine.note()}; its computation is made as fast as that of the bars"
    return _bars("gholami-8", title, readings, claims, {}, note=note)


_EVENTS = "gridnn's schedule and words, computing as long: a sum starts when its gradient is there, so none hides all"


def figure9() -> Experiment:
    """Weak scaling, four images a rank, layers as in Fig 7."""
    layers = sizes(alexnet_with_loss())
    made = list(panels("9", layers, PURE_BATCH, WEAK))
    claims = [*winners("9", made, {}), *oracle("9", layers, made)]
    title = "Gholami et al., Fig 9: AlexNet, weak scaling, B/P = 4, layers as in Fig 7"
    return _bars("gholami-9", title, {"": made}, claims, {})


def figure10() -> Experiment:
    """Beyond P = B: convolutions in P/B parts of an image."""
    layers = sizes(alexnet_with_loss())
    made = list(panels("10", layers, BEYOND_BATCH, LARGE))
    claims = [*winners("10", made, {}, "compute of one image at a time, divided by P"), *oracle("10", layers, made)]
    title = "Gholami et al., Fig 10: AlexNet, B=512, convolutions in P/B parts of an image"
    return _bars("gholami-10", title, {"": made}, claims, {})


def _by_grid(figure: str) -> dict[tuple[str, str], Bar]:
    """The bars of a figure as the paper draws them, by panel and grid."""
    return {(one.figure, one.grid): one for one in drawn() if one.figure.startswith(figure)}


def _bars(
    name: str,
    title: str,
    readings: Mapping[str, Panels],
    claims: Sequence,
    known: Mapping,
    most: float = math.inf,
    note: str = "",
) -> Experiment:
    """A figure whose panels are stacked bars, those of the first reading, and lines: the totals of the others.

    A panel ends at ``most`` times the highest bar.
    """
    rows = [
        {**one.as_row(), **({"reading": reading} if reading else {})}
        for reading, made in readings.items()
        for panel in made
        for one in panel
    ]

    def draw(figure: Any) -> None:
        for axes, shown, *lines in zip(figure.subplots(2, 2).flat, *readings.values(), strict=True):
            _stack(axes, shown, known)
            for line, reading, style in zip(lines, list(readings)[1:], ("D--", "s:"), strict=False):
                totals = [one.total for one in line]
                axes.plot(range(len(line)), totals, style, color=PAPER, ms=4, lw=0.8, label=f"total, {reading}")
            highest = max(one.total for panel in (shown, *lines) for one in panel)
            axes.set_ylim(0, min(1.12 * highest, most * max(one.total for one in shown)))
        legend(figure, figure.axes[0], 6)

    return Experiment(name, title, rows, claims, draw, (12, 8.5), note)


def _stack(axes: Any, panel: Sequence[Bar], known: Mapping) -> None:
    """One panel: the bars, the paper's beside them, and what the best one gains, in all (in communication)."""
    stacked(axes, Bars([one.grid for one in panel], _parts(panel), _parts(_drawn(panel, known))))
    winner, (total, communication) = best(panel), speedups(panel)
    gain = f"{winner.grid} is {total:.1f}x"
    if winner.exposed is None:  # of hidden communication no speed-up is told
        gain += f" ({communication:.1f}x)"
    axes.get_xticklabels()[list(panel).index(winner)].set(color=COLOURS[5], weight="bold")
    axes.set_ylim(0, 1.12 * max(one.total for one in panel))
    axes.set_title(f"P = {panel[0].ranks:,}, B = {panel[0].batch:,}: {gain}")
    axes.set(xlabel="Pr x Pc", ylabel="seconds of an epoch")


def _drawn(panel: Sequence[Bar], known: Mapping) -> list[Bar]:
    """The paper's bars of a panel, those that were not read off without height; empty if none was."""
    empty = Bar("", 1, 1, 1, 0.0, 0.0, 0.0)
    found = [known.get((one.figure, one.grid), empty) for one in panel]
    return found if any(one is not empty for one in found) else []


def _parts(panel: Sequence[Bar]) -> dict[str, list[float]]:
    heights = zip(*((one.compute, one.model, one.communication - one.model) for one in panel), strict=True)
    return dict(zip(PARTS, map(list, heights), strict=False))


EXPERIMENTS: Mapping[str, Callable[[], Experiment]] = {
    "4": figure4,
    "6": figure6,
    "7": figure7,
    "8": figure8,
    "9": figure9,
    "10": figure10,
    "exact": exact,
}
