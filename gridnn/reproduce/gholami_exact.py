"""Fig 7 of Gholami et al. 2018 once more, with the words that gridnn's own transfers move on the same grids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gridnn.comm.ledger import Ledger
from gridnn.cost.count import predict
from gridnn.cost.machine import Machine
from gridnn.cost.price import price
from gridnn.cost.timeline import COMPUTE
from gridnn.layout.gridshape import GridShape
from gridnn.network import Network
from gridnn.planning.rules import make_plan
from gridnn.plots.style import COLOURS, PAPER, legend, name_bars
from gridnn.program.program import Program
from gridnn.reproduce.gholami_bars import IMAGES, PURE_BATCH, STRONG, Bar, alexnet_with_loss, panels, step
from gridnn.reproduce.gholami_cost import Term, sizes
from gridnn.reproduce.report import Claim, Experiment, agrees

BACKWARD = ("reduce-scatter", "all-reduce")


def program(network: Network, one: Bar, backward: str = "reduce-scatter") -> Program:
    """What would run on the grid of a bar, convolutions batch parallel; ``backward`` is that of the gathers."""
    grid = GridShape(one.rows, one.ranks // one.rows)
    plan = make_plan("integrated", network, grid, one.batch, gather_backward=backward)
    return Program(network, plan, one.batch)


def simulated(network: Network, one: Bar, machine: Machine) -> Bar:
    """The bar by the event simulation: exact words, gradients summed behind what is left of the backward pass.

    The machine is made so slow or fast that a rank computes as long as in the bar.
    """
    made, steps = program(network, one), IMAGES / one.batch
    rate = price([made], machine).compute * steps / one.compute
    line = price([made], machine.scaled(compute=rate)).timeline
    waiting = (event for event in line.events if event.resource != COMPUTE and event.phase != "update")
    model = sum(event.stop - event.start for event in waiting)
    parts = (part * steps for part in (line.compute, model, max(0.0, line.exposed - model)))
    return Bar(one.figure, one.batch, one.ranks, one.rows, *parts)


def words(moved: Ledger, phases: Sequence[str], layers: Sequence[str] = ()) -> int:
    """The words of some phases, of ``layers`` or of all."""
    found = moved.integers().items()
    return sum(count for key, (count, _) in found if key.phase in phases and (not layers or key.layer in layers))


def exact() -> Experiment:
    """The words of a rank and step: the paper's closed forms beside gridnn's transfers, both backward forms."""
    network = alexnet_with_loss()
    layers = sizes(network)
    made = list(panels("7", layers, PURE_BATCH, STRONG))
    counted = {
        one: [predict(program(network, one, backward), 0) for backward in BACKWARD] for panel in made for one in panel
    }
    rows = [
        _row(one, step(layers, (one.batch, one.ranks, one.rows), PURE_BATCH), *moved) for one, moved in counted.items()
    ]

    def draw(figure: Any) -> None:
        for axes, panel in zip(figure.subplots(2, 2).flat, made, strict=True):
            shown = [row for row in rows if row["P"] == panel[0].ranks]
            for place, (name, key) in enumerate(_SERIES):
                heights = [row[key] / 1e6 for row in shown]
                bottoms = [row[key.replace("model", "batch")] / 1e6 for row in shown]
                places = [number + 0.27 * (place - 1) for number in range(len(shown))]
                colour = PAPER if not place else COLOURS[place - 1]
                axes.bar(places, bottoms, 0.26, color=colour, alpha=0.35, edgecolor="white")
                axes.bar(places, heights, 0.26, bottoms, color=colour, edgecolor="white", label=name)
            name_bars(axes, [one.grid for one in panel])
            axes.set_ylim(0, 1.08 * axes.dataLim.y1)
            axes.set(
                title=f"P = {panel[0].ranks}, B = {panel[0].batch:,}", xlabel="Pr x Pc", ylabel="M words of a rank"
            )
        legend(figure, figure.axes[0])

    title = "Words of a rank and step on the grids of Fig 7 (pale: sums of gradients)"
    return Experiment("gholami-exact", title, rows, _claims(counted, rows), draw, (12, 8.5))


_SERIES = (
    ("closed forms (4), (6), (8)", "paper_model_words"),
    ("gridnn, reduce-scatter", "exact_model_words"),
    ("gridnn, all-reduce", "all_reduce_model_words"),
)


def _row(one: Bar, closed: tuple[Term, Term], better: Ledger, printed: Ledger) -> dict[str, Any]:
    return {
        "figure": one.figure,
        "B": one.batch,
        "P": one.ranks,
        "grid": one.grid,
        "paper_model_words": round(closed[0].words),
        "paper_batch_words": round(closed[1].words),
        "exact_model_words": words(better, ("forward", "backward")),
        "exact_batch_words": words(better, ("update",)),
        "all_reduce_model_words": words(printed, ("forward", "backward")),
        "all_reduce_batch_words": words(printed, ("update",)),
    }


def _claims(counted: dict, rows: list[dict]) -> list[Claim]:
    one = next(one for one in counted if one.ranks == 512 and one.rows == 32)
    better, printed = counted[one]
    gathered = one.batch * one.rows * 4096 * (one.rows - 1) / one.rows / one.ranks
    inner = [words(moved, ("forward", "backward"), ("fc2",)) / gathered for moved in (better, printed)]
    text = f"{one.grid} of P=512, between fc1 and fc2: units of B d (Pr-1)/(Pr Pc) in a step"
    row = next(row for row in rows if row["P"] == 512 and row["grid"] == one.grid)
    sums = [max(abs(1 - row["exact_batch_words"] / row["paper_batch_words"]) for row in rows)]
    return [
        agrees(f"{text}, all-reduce", 3.0, inner[1], 0.001, why="the form of (8): --gather-backward all-reduce"),
        Claim(
            f"{text}, reduce-scatter",
            "3",
            f"{inner[0]:g}",
            inner[0] == 3,
            "the adjoint of an all-gather is a reduce-scatter: better than the paper's, and the default",
        ),
        Claim(
            f"{one.grid} of P=512: no more words of activations than (6) and (8) count",
            f"{row['paper_model_words']:,}",
            f"{row['exact_model_words']:,}",
            row["exact_model_words"] <= row["paper_model_words"],
            "2 units a layer, and the logits stay divided; but the flattened 9,216 outputs are gathered and their "
            "gradients scattered, where the figures draw 4,096 once",
        ),
        Claim(
            "sums of gradients: words by (4) and (8), worst of all grids",
            "within 1 %",
            f"{sums[0]:.2%}",
            sums[0] < 0.01,
            "gridnn sums the biases too",
        ),
    ]
