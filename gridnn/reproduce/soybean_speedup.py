"""SoyBean's headline (arXiv 1805.04170), tiling 1.5 to 4 times faster than data parallelism, priced on its machine."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from gridnn.cost.count import predict
from gridnn.cost.machine import Machine
from gridnn.cost.machines import load_machine
from gridnn.cost.price import Price, price
from gridnn.layers import SoftmaxCrossEntropy
from gridnn.layout.gridshape import GridShape
from gridnn.models import MODELS
from gridnn.network import Network
from gridnn.planning.plan import Plan
from gridnn.planning.rules import make_plan
from gridnn.planning.search.tiling import plan_tiling
from gridnn.plots.style import grouped, legend
from gridnn.program.program import Program
from gridnn.reproduce.report import Claim, Experiment

MATRICES = ("n", "co", "ci")  # what the paper divides
MACHINE, CARDS = "p2.8xlarge", 8
NETWORKS = ("alexnet", "vgg16")
BATCHES = (32, 64, 128, 256, 512, 1024)
CLAIMED = (1.5, 4.0)
LINKS = {"one bus": CARDS, "a link a card": 1}  # how many cards share the 21 GB/s
SPEEDUPS = {"speedup_overlapped": "overlapped", "speedup_alone": "not overlapped"}


class Point(NamedTuple):
    """One network, batch and plan on the machine, movements behind the computation where they can be, and alone."""

    network: str
    batch: int
    links: str
    plan: str
    overlapped: Price
    alone: Price
    words: int


def speedup() -> Experiment:
    """Tiling over data parallelism for AlexNet and VGG-16 on 8 cards."""
    machine = load_machine(MACHINE)
    points = list(_points(machine))
    data = {point[:3]: point for point in points if point.plan == "data"}
    rows = [_row(point, data[point[:3]]) for point in points]
    claims = [
        _claim(rows, (name, links), key, machine.estimated())
        for links in LINKS
        for name in NETWORKS
        for key in SPEEDUPS
    ]

    def draw(figure: Any) -> None:
        panels = [(name, links) for links in LINKS for name in NETWORKS]
        for axes, which in zip(figure.subplots(len(LINKS), len(NETWORKS), sharey=True).flat, panels, strict=True):
            series = {
                f"tiling, {how}": list(_gains(rows, which, "tiling", key).values()) for key, how in SPEEDUPS.items()
            }
            series["tiling with space, overlapped"] = list(_gains(rows, which, "space", "speedup_overlapped").values())
            grouped(axes, [str(batch) for batch in BATCHES], series)
            axes.axhspan(*CLAIMED, color="#eeeeee", zorder=0, label="paper: 1.5 to 4")
            axes.axhline(1, color="#444444", linewidth=0.8)
            axes.set(title=", ".join(which), xlabel="B, images a step", ylabel="speed-up")
            axes.label_outer()
        legend(figure, figure.axes[0])

    title = f"SoyBean: tiling over data parallelism on {CARDS} cards of {MACHINE}, priced"
    return Experiment("soybean-speedup", title, rows, claims, draw, (10, 8))


def _claim(rows: list[dict[str, Any]], which: tuple[str, str], key: str, estimated: str) -> Claim:
    gains = _gains(rows, which, "tiling", key)
    inside = [str(batch) for batch, gain in gains.items() if CLAIMED[0] <= gain <= CLAIMED[1]]
    ours = ", ".join(f"{gain:.2f} (B={batch})" for batch, gain in gains.items())
    where = f"at B = {', '.join(inside)}" if inside else "at no batch"
    text = f"{which[0]}, {which[1]}: tiling over data parallelism, movements {SPEEDUPS[key]}"
    why = f"inside {where}; a price, not a measurement"
    return Claim(text, "1.5 to 4 times", ours, bool(inside), f"{why}; {estimated}" if estimated else why)


def _gains(rows: list[dict[str, Any]], which: tuple[str, str], plan: str, key: str) -> dict[int, float]:
    """The speed-ups of a plan by batch, for a network and a reading of the links."""
    return {row["batch"]: row[key] for row in rows if (row["network"], row["links"], row["plan"]) == (*which, plan)}


def _points(machine: Machine) -> Iterator[Point]:
    (level,) = machine.levels
    readings = {name: replace(machine, levels=(replace(level, shared=count),)) for name, count in LINKS.items()}
    for name, batch in itertools.product(NETWORKS, BATCHES):
        known = MODELS[name]
        network = known.build(known.input_shape, known.outputs)
        network.add("loss", SoftmaxCrossEntropy())
        plans = {
            "data": make_plan("batch", network, GridShape(1, CARDS), batch),
            "tiling": plan_tiling(network, CARDS, batch, machine, axes=MATRICES),
            "space": plan_tiling(network, CARDS, batch, machine),
        }
        for kind, plan in plans.items():
            programs, words = [Program(network, plan, batch)], words_of(network, plan, batch)
            for links, read in readings.items():
                priced = (price(programs, read, overlap=overlap) for overlap in (True, False))
                yield Point(name, batch, links, kind, *priced, words)


def _row(point: Point, data: Point) -> dict[str, Any]:
    return {
        "network": point.network,
        "batch": point.batch,
        "links": point.links,
        "plan": point.plan,
        "grid": str(point.alone.plan.grid),
        "compute_s": point.alone.compute,
        "communication_s": point.alone.communication,
        "overlapped_s": point.overlapped.seconds,
        "alone_s": point.alone.seconds,
        "words": point.words,
        "speedup_overlapped": data.overlapped.seconds / point.overlapped.seconds,
        "speedup_alone": data.alone.seconds / point.alone.seconds,
    }


def words_of(network: Network, plan: Plan, batch: int) -> int:
    """The words of all ranks in one step, as gridnn's ledger counts them."""
    program = Program(network, plan, batch)
    return sum(sum(predict(program, index).words_by_dimension().values()) for index in range(plan.grid.size))
