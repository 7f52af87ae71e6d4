"""A third opinion on a plan's communication: SimGrid's SMPI replays it with contention, beside the closed form.

    python scripts/simgrid/replay.py --model vgg16 --batch 1024 --grid 8x32 --strategy integrated --machine cori-knl

needs Debian's libsimgrid-dev (smpicc, smpirun). The skeleton is the movements of one step in their order, each waited
for, without computation: all-gathers, reduce-scatters and sums on communicators split as the plan says, and messages
to neighbours. The platform is the machine's outermost level: one link a node, and inside a node the innermost one's.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from gridnn.cost.machine import Machine
from gridnn.cost.machines import load_machine
from gridnn.cost.movements import Movements
from gridnn.layers import SoftmaxCrossEntropy
from gridnn.layout.gridshape import GridShape
from gridnn.layout.layout import box_size
from gridnn.layout.stage import ADJOINTS, Stage
from gridnn.models import MODELS, get_model
from gridnn.plan.rules import RULES, make_plan
from gridnn.program.program import Program

HERE = Path(__file__).resolve().parent
WORDS = {"all-gather": "gather", "reduce-scatter": "scatter", "all-reduce": "sum", "all-to-all": "swap"}
BYTES = 4
OPTIONS = {
    "smpi/coll-selector": "ompi",
    "smpi/bw-factor": "0:1",  # the defaults are a fit to Gigabit Ethernet
    "smpi/lat-factor": "0:1",
    "smpi/simulate-computation": "no",
}


class Line(NamedTuple):
    """One movement of the skeleton, and its seconds by the closed form."""

    text: str
    seconds: float


def skeleton(program: Program, machine: Machine, index: int) -> Iterator[Line]:
    """The movements of rank ``index`` in one step, in their order; ranks at a border send what inner ones do."""
    priced = Movements(machine, program.plan.grid, index, BYTES)
    reads = list(_transfers(program))
    for transfer, _ in reads:
        for stage in transfer.stages:
            yield from _lines(stage, stage.kind, index)
        yield from _seconds(priced.transfer(transfer, "forward"))
    for transfer, needs_gradient in reversed(reads):
        if needs_gradient:
            for stage in reversed(transfer.stages):
                kind = "all-reduce" if transfer.full_sum and stage.kind == "all-gather" else stage.kind
                yield from _lines(stage, ADJOINTS.get(kind, kind), index)
            yield from _seconds(priced.transfer(transfer, "backward"))
    for group in program.buckets(index):
        if len(group.members) > 1:
            size = BYTES * sum(gradient.size for gradient in group.gradients)
            seconds = sum(share.seconds for _, share in priced.bucket(group))
            yield Line(f"sum {size} {_pairs(group.members)}", seconds)


def _transfers(program: Program) -> Iterator[tuple]:
    seen = set()
    for step in program.steps:
        for i, edge in enumerate(step.edges):
            if edge.transfer and edge.transfer.stages and step.reading(i) not in seen:
                seen.add(step.reading(i))
                yield edge.transfer, edge.needs_gradient


def _lines(stage: Stage, kind: str, index: int) -> Iterator[Line]:
    source, target = box_size(stage.source.box(index)), box_size(stage.target.box(index))
    if kind == "neighbours":
        for piece in stage.sends(index):
            if piece.peer != index:
                yield Line(f"send {BYTES * box_size(piece.box)} {piece.peer - index}", 0.0)
    elif kind in WORDS:
        size = source if kind == "all-to-all" else max(source, target)
        yield Line(f"{WORDS[kind]} {BYTES * size} {_pairs(stage.members(index))}", 0.0)


def _seconds(calls: tuple) -> Iterator[Line]:
    yield Line("", sum(movement.seconds for call in calls for movement in call))


def _pairs(members) -> str:
    return " ".join(f"{size} {stride}" for size, stride in members.strides)


def platform(machine: Machine, nodes: int, per_node: int) -> str:
    """The machine as a cluster: a node's links as one, full-duplex, the backplane without limit."""
    outer, inner = machine.levels[-1], machine.levels[0]
    links = max(1, per_node // outer.shared)
    return (
        "<?xml version='1.0'?>\n<!DOCTYPE platform SYSTEM \"https://simgrid.org/simgrid.dtd\">\n"
        f'<platform version="4.1"><cluster id="c" prefix="n" suffix="" radical="0-{nodes - 1}" speed="1Tf" '
        f'bw="{links / outer.beta:.0f}Bps" lat="{outer.alpha:.9f}s" loopback_bw="{1 / inner.beta:.0f}Bps" '
        f'loopback_lat="{inner.alpha:.9f}s"/></platform>\n'
    )


def simulate(lines: list[Line], machine: Machine, ranks: int) -> str:
    """What SimGrid says: the output of the skeleton under smpirun."""
    per_node = machine.levels[-2].ranks if len(machine.levels) > 1 else 1
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        nodes = -(-ranks // per_node)
        (at / "platform.xml").write_text(platform(machine, nodes, per_node))
        (at / "hosts").write_text("".join(f"n{rank // per_node}\n" for rank in range(ranks)))
        (at / "step").write_text("".join(f"{line.text}\n" for line in lines if line.text))
        subprocess.run(["smpicc", "-O2", "-o", at / "replay", HERE / "replay.c"], check=True)
        command = ["smpirun", "-np", str(ranks), "-platform", at / "platform.xml", "-hostfile", at / "hosts"]
        command += [f"--cfg={name}:{value}" for name, value in OPTIONS.items()]
        command += ["--log=root.thres:error", at / "replay", at / "step"]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr or done.stdout)
    return done.stdout.strip()


def main() -> None:
    """Print SimGrid's seconds beside the closed form's."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="alexnet", choices=list(MODELS))
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--grid", default="8x32")
    parser.add_argument("--strategy", default="integrated", choices=list(RULES))
    parser.add_argument("--machine", default="cori-knl")
    options = parser.parse_args()
    rows, cols = map(int, options.grid.split("x"))
    known = MODELS[options.model]
    network = get_model(options.model, known.input_shape, known.outputs)
    network.add("loss", SoftmaxCrossEntropy())
    machine = load_machine(options.machine)
    plan = make_plan(options.strategy, network, GridShape(rows, cols), options.batch, copies=True)
    lines = list(skeleton(Program(network, plan, options.batch), machine, 0))
    print(f"SimGrid: {simulate(lines, machine, rows * cols)}")
    print(f"closed form: {sum(line.seconds for line in lines):.9f} seconds")


if __name__ == "__main__":
    main()
