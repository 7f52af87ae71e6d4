"""Tables 3 and 5 of Jia, Lin, Qi, Aiken 2018: the time of the search, and the optimum of VGG-16."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gridnn.layout.split import Split
from gridnn.planning.search.eliminate import eliminate
from gridnn.planning.search.exhaustive import search
from gridnn.planning.search.graph import CostGraph, Solution
from gridnn.plots.style import grouped, legend
from gridnn.reproduce.optcnn_cases import DEPTH_FIRST, SEARCH, case
from gridnn.reproduce.optcnn_cost import OptCNN, Reading
from gridnn.reproduce.report import Claim, Experiment

PATIENCE = 30.0  # seconds of a depth-first search
GROUPS = {"n": "sample", "h": "height", "w": "width", "co": "channel"}
LAST = ("conv11", "conv12", "conv13", "pool5")
LAYERS = {
    "first four groups of convolutions": (*(f"conv{i}" for i in range(1, 11)), *(f"pool{i}" for i in range(1, 5))),
    "last three convolutions and their pooling": LAST,
    "FC1 and FC2": ("fc1", "fc2"),
    "FC3": ("fc3",),
    "softmax": ("loss",),
}


def table3() -> Experiment:
    """Search times on 4 GPUs, and depth-first search as the check."""
    rows, claims = [], []
    for name in SEARCH:
        graph = case(name, 4).model.graph
        found = eliminate(graph)
        plain, bounded = search(graph, PATIENCE, ahead=False), search(graph, PATIENCE)
        rows.append(
            {
                "network": name,
                "layers": len(graph.names),
                "configurations": max(graph.sizes),
                "eliminated_s": found.seconds,
                "paper_s": SEARCH[name],
                "depth_first_s": plain.seconds,
                "depth_first_finished": plain.is_optimal,
                "bounded_s": bounded.seconds,
                "bounded_finished": bounded.is_optimal,
                "paper_depth_first": DEPTH_FIRST[name],
                "cost_s": found.value,
            }
        )
        text = f"{name}: search by elimination for 4 GPUs, at most"
        paper, ours = f"{SEARCH[name]} s", f"{found.seconds:.4f} s"
        why = "with the costs given; on another computer"
        claims.append(Claim(text, paper, ours, found.seconds <= SEARCH[name], why))
        claims.append(_confirmed(name, found, plain, bounded))

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        series = {
            "paper": [row["paper_s"] for row in rows],
            "elimination": [row["eliminated_s"] for row in rows],
            "depth first": [row["depth_first_s"] for row in rows],
            "depth first, bound ahead": [row["bounded_s"] for row in rows],
        }
        grouped(axes, list(SEARCH), series)
        axes.set_yscale("log")
        axes.set_ylabel(f"seconds (depth first stops at {PATIENCE:.0f})")
        legend(figure, axes)

    return Experiment("optcnn-table3", "OptCNN, table 3: seconds of the search, 4 GPUs", rows, claims, draw)


def _confirmed(name: str, found: Solution, plain: Solution, bounded: Solution) -> Claim:
    """Whether the depth-first searches that finished found nothing cheaper, and one of them finished."""
    runs = {"depth first": plain, "depth first with a bound ahead": bounded}
    done = {kind: run for kind, run in runs.items() if run.is_optimal}
    same = all(math.isclose(run.value, found.value, rel_tol=1e-9) for run in done.values())
    told = ", ".join(f"{kind} {run.seconds:.3g} s" for kind, run in done.items()) or f"none in {PATIENCE:.0f} s"
    paper = f"{'not finished' if '>' in DEPTH_FIRST[name] else 'yes'}, {DEPTH_FIRST[name]}"
    why = "cheapest configuration first, and cut off at the best cost so far"
    text = f"{name}: depth-first search finds the same optimum"
    return Claim(text, paper, f"{'yes' if same else 'no'}, {told}", bool(done) and same, why)


def table5() -> Experiment:
    """The optimum of VGG-16 on the 4 GPUs of a node, batch 128."""
    model = case("VGG-16", 4).model
    splits, best = _optimum(model)
    duplex, _ = _optimum(case("VGG-16", 4, Reading(duplex=True)).model)
    degrees = [{axis: split.parts(axis) for axis in GROUPS} for split in splits.values()]
    rows = [
        {"layer": name, **parts, "paper": _paper5(name), "duplex": str(duplex[name])}
        for name, parts in zip(splits, degrees, strict=True)
    ]
    claims = []
    for text, names in LAYERS.items():
        ours, other = (" / ".join(sorted({str(found[name]) for name in names})) for found in (splits, duplex))
        want = _paper5(names[0])
        why = f"where links carry in and out at once {other}"
        if ours != want:
            why = f"{_costs_more(model, names, want, best)}; {why}"
        claims.append(Claim(text, want, ours, ours == want, why))

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        table = np.array([[parts[axis] for parts in degrees] for axis in GROUPS])
        axes.imshow(np.log2(table), cmap="Blues", vmin=0, vmax=3, aspect="auto")
        for (y, x), parts in np.ndenumerate(table):
            axes.text(x, y, str(parts), ha="center", va="center")
        axes.set_yticks(range(len(GROUPS)), GROUPS.values())
        axes.set_xticks(range(len(rows)), [f"{row['layer']}  [{row['paper']}]" for row in rows], rotation=90)
        axes.set_xlabel("layer  [the paper's configuration]")
        axes.grid(False)

    title = "OptCNN, table 5: parts of every layer of VGG-16, 4 GPUs, batch 128"
    return Experiment("optcnn-table5", title, rows, claims, draw)


def _paper5(name: str) -> str:
    """The configuration of a layer in the paper's table 5."""
    if name in LAST:
        return "h=2,w=2"
    return {"fc1": "co=4", "fc2": "co=4", "fc3": "co=2", "loss": "1"}.get(name, "n=4")


def _optimum(model: OptCNN) -> tuple[dict[str, Split], float]:
    """The cheapest configuration of every layer, and what all of them cost."""
    found = eliminate(model.graph)
    return model.chosen(found.choice), found.value


def _costs_more(model: OptCNN, names: Sequence[str], want: str, best: float) -> str:
    """What the configuration ``want`` of these layers costs more, beside their computing time."""
    graph, costs, computing = model.graph, list(model.graph.costs), 0.0
    for place, (name, splits) in enumerate(model.splits.items()):
        if name in names:
            allowed = np.array([str(split) == want for split in splits])
            costs[place] = np.where(allowed, costs[place], np.inf)
            computing += float(model.computing[place][allowed][0])
    more = eliminate(CostGraph(graph.names, costs, graph.edges)).value - best
    return f"the paper's costs {1e3 * more:.3f} ms more here, where these layers compute for {1e3 * computing:.3f} ms"
