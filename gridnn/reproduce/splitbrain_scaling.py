"""SplitBrain's throughput over ranks and groups, predicted (arXiv 2112.15317: nearly linear)."""

from __future__ import annotations

from typing import Any

from gridnn.cost.count import predict
from gridnn.cost.machine import Machine
from gridnn.cost.machines import load_machine
from gridnn.cost.price import price
from gridnn.network import Network
from gridnn.plots.style import COLOURS, PAPER, legend
from gridnn.reproduce.report import Claim, Experiment
from gridnn.reproduce.splitbrain_vgg import CASES, LOCAL, program, vgg, words

RANKS = (1, 2, 4, 8, 16, 32, 64)
GROUPS = (1, 2, 4, 8)
MACHINES = ("generic-cpu", "p100-cluster")  # slow and fast computation
LINEAR = 0.8  # the share of the throughput of N single ranks that is called nearly linear here


def scaling(*machines: Machine) -> Experiment:
    """Predicted throughput of VGG-11 on CIFAR-10 over ranks, for every K: the batch grows with the ranks."""
    machines = machines or tuple(load_machine(name) for name in MACHINES)
    net = vgg(CASES[0])
    rows = [
        _row(net, machine, ranks, group)
        for machine in machines
        for group in GROUPS
        for ranks in RANKS
        if ranks >= group
    ]
    claims = [_linear(machine, rows, group) for machine in machines for group in GROUPS[1:]]
    off = max(abs(row["words"] / row["words_closed"] - 1) for row in rows if row["words"])
    why = "modulo, shard and averaging; ours are the program's transfers without the loss, uneven parts included"
    claims.append(Claim("words of a rank: closed form", "0 % off", f"at most {off:.2%} off", off < 0.005, why))

    def draw(figure: Any) -> None:
        panels = figure.subplots(1, len(machines), squeeze=False)[0]
        for axes, machine in zip(panels, machines, strict=True):
            _panel(axes, _named(machine), [row for row in rows if row["machine"] == machine.name])
        panels[0].set_ylabel("samples a second, predicted")
        legend(figure, panels[0], 5)

    title = f"SplitBrain: {CASES[0]}, {LOCAL} samples a rank"
    return Experiment("splitbrain-scaling", title, rows, claims, draw, (10, 5.5))


def _named(machine: Machine) -> str:
    return f"{machine.name} (estimated constants)" if machine.estimates else machine.name


def _panel(axes: Any, name: str, rows: list[dict[str, Any]]) -> None:
    one = rows[0]["samples_per_second"]
    axes.plot(RANKS, [one * ranks for ranks in RANKS], ":", color=PAPER, label="linear")
    for group, colour in zip(GROUPS, COLOURS, strict=False):
        mine = [row for row in rows if row["K"] == group]
        points = [row["N"] for row in mine], [row["samples_per_second"] for row in mine]
        axes.plot(*points, "o-", color=colour, label=f"K = {group}" + (", data parallel" if group == 1 else ""))
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(RANKS, [str(ranks) for ranks in RANKS])
    axes.set(xlabel="N, ranks", title=name)


def _row(net: Network, machine: Machine, ranks: int, group: int) -> dict[str, Any]:
    one = program(net, ranks, group)
    priced, closed = price([one], machine), words(net, ranks, group)
    alone = price([program(net, 1, 1)], machine).seconds
    moved = sum(tally.words for key, tally in predict(one, 0).rows.items() if key.layer != "loss")
    return {
        "machine": machine.name,
        "estimates": " ".join(machine.estimates),
        "N": ranks,
        "K": group,
        "batch": one.batch,
        "seconds": priced.seconds,
        "compute_seconds": priced.compute,
        "communication_seconds": priced.communication,
        "samples_per_second": one.batch / priced.seconds,
        "efficiency": alone / priced.seconds,
        **{f"{name}_words": count for name, count in closed.items()},
        "words_closed": sum(closed.values()),
        "words": moved,
    }


def _linear(machine: Machine, rows: list[dict[str, Any]], group: int) -> Claim:
    mine = [row for row in rows if row["machine"] == machine.name]
    share = {row["N"]: row["efficiency"] for row in mine if row["K"] == group}
    data = {row["N"]: row["efficiency"] for row in mine if row["K"] == 1}
    most = max((ranks for ranks, value in share.items() if value >= LINEAR), default=None)
    ours = ", ".join(f"{100 * value:.0f} % (N={ranks})" for ranks, value in share.items())
    why = f"at least {100 * LINEAR:.0f} % of N single ranks " + (f"up to N = {most}" if most else "nowhere")
    why += f"; data parallel {100 * data[RANKS[-1]]:.0f} % (N={RANKS[-1]}); the machine of the paper is not known here"
    text = f"throughput over ranks, K = {group}, on {_named(machine)}"
    return Claim(text, "nearly linear", ours, min(share.values()) >= LINEAR, why)
