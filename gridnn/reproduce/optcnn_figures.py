"""Figures 7 and 8 of Jia, Lin, Qi, Aiken 2018: speed-ups, and the bytes of a step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gridnn.planning.search.eliminate import eliminate
from gridnn.plots.style import grouped, legend
from gridnn.reproduce.optcnn_cases import LOCAL, MOVED, NETWORKS, OTHERS, RANKS, SPEEDUPS, Case, case, chosen
from gridnn.reproduce.optcnn_cost import OptCNN, Reading
from gridnn.reproduce.report import Claim, Experiment, agrees

GIB = 2.0**30
DEFAULT = "a spread server"
READINGS = {DEFAULT: Reading(), "one server": Reading(server="one"), "links in and out at once": Reading(duplex=True)}


def fig7() -> Experiment:
    """Speed-ups over one GPU; on 16 in every reading of what the paper leaves open."""
    rows: list[dict] = []
    for name in NETWORKS:
        for reading, value in READINGS.items():
            for ranks in RANKS if reading == DEFAULT else RANKS[-1:]:
                one = case(name, ranks, value)
                for strategy, choice in _choices(one):
                    rows.append(_row(name, ranks, strategy, reading=reading, speedup=one.speedup(choice)))
    claims = [claim for name in NETWORKS for claim in _claims7(name, rows)]

    def draw(figure: Any) -> None:
        shown = [row for row in rows if row["reading"] == DEFAULT]
        _panels(figure, shown, "speedup", "speed-up over one GPU", {n: {16: s[0]} for n, s in SPEEDUPS.items()})

    title = "OptCNN, figure 7: speed-up over one GPU (bytes over bandwidth, no overlap)"
    return Experiment("optcnn-fig7", title, rows, claims, draw, (14.0, 5.0))


def _claims7(name: str, rows: Sequence[dict]) -> Iterator[Claim]:
    """What the paper says of 16 GPUs, in the first reading; the others are told beside."""
    shown = [row for row in rows if (row["network"], row["ranks"]) == (name, RANKS[-1])]
    at = {(row["reading"], row["strategy"]): row["speedup"] for row in shown}
    best = {reading: at[reading, "layer-wise"] for reading in READINGS}
    others = {reading: max(at[reading, strategy] for strategy in OTHERS) for reading in READINGS}
    text = f"{name}, {RANKS[-1]} GPUs, speed-up"
    ours = f"{best[DEFAULT]:.2f} > {others[DEFAULT]:.2f}"
    yield Claim(f"{text}: layer-wise above all others", "yes", ours, best[DEFAULT] > others[DEFAULT])
    for what, paper, found in zip(("layer-wise", "best other"), SPEEDUPS[name], (best, others), strict=True):
        beside = ", ".join(f"{value:.2f} with {reading}" for reading, value in found.items() if reading != DEFAULT)
        yield agrees(f"{text}: {what}", paper, found[DEFAULT], 0.1, why=f"nothing overlaps in eq (1); {beside}")


def fig8() -> Experiment:
    """Bytes that a step moves."""
    rows: list[dict] = []
    for name in NETWORKS:
        for ranks in RANKS:
            one = case(name, ranks)
            for strategy, choice in _choices(one):
                rows.append(_row(name, ranks, strategy, GiB=one.model.size(choice) / GIB))
            if name == "AlexNet":
                for strategy, copies in (("OWT, FC1 only", ranks), ("FC on 2, FC1 only", 2)):
                    rows.append(_row(name, ranks, strategy, GiB=first_only(one.model, copies) / GIB))
    at = {(row["network"], row["strategy"], row["ranks"]): row["GiB"] for row in rows}
    claims = [*_claims8(at)]

    def draw(figure: Any) -> None:
        shown = [row for row in rows if "only" not in row["strategy"] and row["strategy"] != "model"]
        paper = {n: dict(zip(RANKS, MOVED[n, "layer-wise"], strict=True)) for n in NETWORKS}
        for axes in _panels(figure, shown, "GiB", "GiB in a step", paper):
            axes.set_yscale("log")

    return Experiment("optcnn-fig8", "OptCNN, figure 8: GiB moved in a step", rows, claims, draw, (14.0, 5.0))


def _claims8(at: Mapping[tuple[str, str, int], float]) -> Iterator[Claim]:
    readings = {
        ("AlexNet", "data"): ("data", 0.01, "GPUs x 2 x 4 x |W| bytes"),
        ("AlexNet", "OWT"): ("OWT", 0.05, "with what all fully connected layers gather"),
        ("VGG-16", "OWT"): ("OWT", 0.05, "with what all fully connected layers gather"),
        ("AlexNet", "layer-wise"): ("layer-wise", 0.05, "the optimum of our costs, other than theirs"),
        ("VGG-16", "layer-wise"): ("layer-wise", 0.05, "the optimum of our costs, other than theirs"),
        ("Inception-v3", "layer-wise"): ("layer-wise", 0.05, "the optimum of our costs, other than theirs"),
    }
    only = (
        "a formula fitted to these numbers, no outcome of the search: sums of the convolutions' gradients, and the "
        "input of FC1 whole to each GPU that has a part of it and back"
    )
    further = (
        ("AlexNet", "OWT", "OWT, FC1 only", f"{only}: nothing between the fully connected layers"),
        ("AlexNet", "layer-wise", "FC on 2, FC1 only", f"{only}, which are two, whatever the number of GPUs"),
    )
    for (name, strategy), (ours, within, why) in readings.items():
        yield _moved(at, name, strategy, ours, within, why)
    for name, strategy, ours, why in further:
        yield _moved(at, name, strategy, ours, 0.01, why)


def _moved(at: Mapping, name: str, strategy: str, reading: str, within: float, why: str) -> Claim:
    """The claim about all four numbers of GPUs: it holds if the worst of them does."""
    paper = MOVED[name, strategy]
    ours = [at[name, reading, ranks] for ranks in RANKS]
    worst = max((abs(b / a - 1) for a, b in zip(paper, ours, strict=True)))
    texts = (" ".join(f"{value:.3g}" for value in values) + " GiB" for values in (paper, ours))
    label = strategy if reading == strategy else f"{strategy}, read as {reading}"
    return Claim(
        f"{name}, {label}, 2 4 8 16 GPUs",
        *texts,
        worst <= within,
        f"{why}; at most {worst:.1%} apart, {within:.0%} asked",
    )


def first_only(model: OptCNN, copies: int) -> float:
    """The bytes of eq (1)'s convolutions divided over the batch, and of FC1's input to ``copies`` GPUs and back."""
    total = 0.0
    for name, moved, i in zip(model.groups, model.sums, chosen(model, OTHERS["OWT"]), strict=True):
        total += float(moved.size[i])
        if name == "fc1":
            total += 2 * model.itemsize * copies * math.prod(model.groups[name].leader.shapes.inputs[0])
    return total


def _choices(one: Case) -> Iterator[tuple[str, tuple[int, ...]]]:
    for strategy, rule in OTHERS.items():
        yield strategy, chosen(one.model, rule)
    yield "layer-wise", eliminate(one.model.graph).choice


def _row(name: str, ranks: int, strategy: str, **values: Any) -> dict[str, Any]:
    return {"network": name, "ranks": ranks, "batch": LOCAL * ranks, "strategy": strategy, **values}


def _panels(figure: Any, rows: Sequence[dict], key: str, label: str, paper: Mapping[str, Mapping[int, float]]) -> list:
    """A panel a network: the strategies side by side, and what the paper has for layer-wise."""
    panels = list(figure.subplots(1, len(NETWORKS)))
    strategies = list(dict.fromkeys(row["strategy"] for row in rows))
    for axes, name in zip(panels, NETWORKS, strict=True):
        at = {(row["strategy"], row["ranks"]): row[key] for row in rows if row["network"] == name}
        series = {strategy: [at[strategy, ranks] for ranks in RANKS] for strategy in strategies}
        series["paper"] = [paper[name].get(ranks) for ranks in RANKS]
        grouped(axes, [f"{ranks} GPUs" for ranks in RANKS], series)
        axes.set_title(name)
    panels[0].set_ylabel(label)
    legend(figure, panels[0])
    return panels
