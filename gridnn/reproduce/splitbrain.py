"""SplitBrain, Lai, Kadav, Kruus 2021 (arXiv 2112.15317): the memory that a rank saves.

Only the abstract's numbers are known here; the reading behind them is told in docs/splitbrain.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gridnn.cost.memory import peak
from gridnn.layers import Linear
from gridnn.layout.layout import box_size
from gridnn.plots.style import COLOURS, PAPER, legend
from gridnn.program.program import Program
from gridnn.reproduce.report import Claim, Experiment, agrees
from gridnn.reproduce.splitbrain_scaling import scaling
from gridnn.reproduce.splitbrain_vgg import CASES, LOCAL, Case, program, sizes, vgg

CLAIMED = 0.67  # "up to 67 % memory saved for VGG on CIFAR-10", the abstract
GROUPS = (1, 2, 4, 8, 16, 32)


def working(one: Program) -> int:
    """The inputs and outputs of the fully connected layers on a rank in one round, in words."""
    steps = [step for step in one.layers if isinstance(step.node.layer, Linear)]
    return sum(box_size(step.edges[0].layout.box(0)) + box_size(step.output.box(0)) for step in steps)


def memory() -> Experiment:
    """What a rank saves for every K: parameters, the working memory of the stack, and the whole step."""
    rows = [row for case in CASES for row in _memory_rows(case)]
    found = {(row["network"], row["K"]): row for row in rows}
    wide = "f (1 - 1/K), f = 123.6 M of 138.4 M; CIFAR-10 images scaled up to 224 are one reading of the abstract"
    deep = "f (1 - 1/K) tends to f = 18.9 M of 28.1 M; the other reading"
    claims = [
        _saved("VGG-16 with the layers of 224 x 224, K = 4", found[str(CASES[3]), 4]["saved_parameters"], wide),
        _saved("VGG-11 with 512-4096-4096-10, K large", sizes(vgg(CASES[0])).share, deep),
        _whole_claim(rows),
        _rounds_claim(rows),
    ]

    def draw(figure: Any) -> None:
        left, right = figure.subplots(1, 2)
        for case, colour in zip(CASES, COLOURS, strict=False):
            mine = [row for row in rows if row["network"] == str(case)]
            groups = [row["K"] for row in mine]
            left.plot(groups, [100 * row["saved_parameters"] for row in mine], "o-", color=colour, label=str(case))
            right.plot(groups, [row["stack_in_rounds"] / 1e6 for row in mine], "o-", color=colour)
            right.plot(groups, [row["stack_at_once"] / 1e6 for row in mine], "s--", color=colour)
        left.axhline(100 * CLAIMED, color=PAPER, linewidth=1, linestyle=":", label="67 % (abstract)")
        left.set(xlabel="K, ranks of a group", ylabel="parameters saved, %", title="f (1 - 1/K)")
        right.set(
            xlabel="K, ranks of a group",
            ylabel="million words",
            title="activations of the stack: in rounds, at once (dashed)",
        )
        for axes in (left, right):
            axes.set_xscale("log", base=2)
            axes.set_xticks(GROUPS, [str(group) for group in GROUPS])
        right.set_yscale("log")
        legend(figure, left, 5)

    title = f"SplitBrain: memory of a rank, {LOCAL} samples each"
    return Experiment("splitbrain-memory", title, rows, claims, draw, (11, 5))


def _memory_rows(case: Case) -> Iterator[dict[str, Any]]:
    net = vgg(case)
    counted = sizes(net)
    alone = peak(program(net, GROUPS[-1], 1), 0)
    for group in GROUPS:
        in_rounds, at_once = (program(net, GROUPS[-1], group, rounds) for rounds in (True, False))
        rounds, once = peak(in_rounds, 0), peak(at_once, 0)
        yield {
            "network": str(case),
            "K": group,
            "parameters": counted.all,
            "fully_connected": counted.stack,
            "saved_parameters": counted.saved(group),
            "parameters_held": rounds.weights // 4,
            "saved_held": 1 - rounds.weights / alone.weights,
            "stack_in_rounds": working(in_rounds),
            "stack_at_once": working(at_once),
            "step_bytes_in_rounds": rounds.total,
            "step_bytes_at_once": once.total,
            "saved_step_in_rounds": 1 - rounds.total / alone.total,
            "saved_step_at_once": 1 - once.total / alone.total,
        }


def _saved(what: str, share: float, why: str) -> Claim:
    return agrees(f"parameters saved: {what}", 100 * CLAIMED, 100 * share, 0.01, "%", why)


def _whole_claim(rows: list[dict[str, Any]]) -> Claim:
    """What is left of the saving when everything that a step holds is counted, the most over K."""
    saved: dict[str, float] = {}
    for row in rows:
        saved[row["network"]] = max(saved.get(row["network"], 0.0), row["saved_step_in_rounds"])
    ours = ", ".join(f"{100 * value:.0f} % ({name})" for name, value in saved.items())
    why = (
        "weights, gradients, momentum, activations and buffers of a step together, the most over K; the abstract does "
        "not say what is counted, and the activations of the convolutions are not divided"
    )
    text = f"memory of a step saved, K up to {GROUPS[-1]}"
    return Claim(text, "up to 67 %", ours, max(saved.values()) >= CLAIMED, why)


def _rounds_claim(rows: list[dict[str, Any]]) -> Claim:
    """That the stack works in the memory of one batch, whatever K."""
    ratios = [row["stack_at_once"] / row["stack_in_rounds"] / row["K"] for row in rows]
    ours = f"{min(ratios):.2f} to {max(ratios):.2f} x K times less than at once"
    why = "inputs and outputs of the fully connected layers on a rank, from the layouts of the program"
    text = "the rounds need the working memory of one batch, not of K"
    return Claim(text, "K times less", ours, all(abs(ratio - 1) < 0.01 for ratio in ratios), why)


EXPERIMENTS = {"memory": memory, "scaling": scaling}
