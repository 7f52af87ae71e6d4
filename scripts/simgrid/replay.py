"""A third opinion on a plan's communication: SimGrid's SMPI replays it with contention, beside the closed form.

    python scripts/simgrid/replay.py --model vgg16 --batch 1024 --grid 8x32 --strategy integrated --machine cori-knl

needs Debian's libsimgrid-dev (smpicc, smpirun). The skeleton is the movements of one step in their order, each waited
for, without computation: all-gathers, reduce-scatters and sums on communicators split as the plan says, and messages
to neighbours. The sums of norms and of the loss, a few words each, are left out. The platform is the machine's
outermost level: one link a node, and inside a node the innermost one's.
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
from gridnn.cost.operations import price_operations
from gridnn.layers import SoftmaxCrossEntropy
from gridnn.layout.gridshape import GridShape
from gridnn.layout.layout import box_size
from gridnn.models import MODELS, get_model
from gridnn.planning.rules import RULES, make_plan
from gridnn.program.build import build
from gridnn.program.program import Program
from gridnn.program.schedule import Begin, GroupSum, Movement, Schedule, StageMovement

HERE = Path(__file__).resolve().parent
WORDS = {"all-gather": "gather", "reduce-scatter": "scatter", "all-to-all": "swap"}
WORDS |= dict.fromkeys(("all-reduce", "started all-reduce"), "sum")
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


def skeleton(schedule: Schedule, machine: Machine) -> Iterator[Line]:
    """The transfers and the sums of gradients of a schedule; ranks at a border send what inner ones do."""
    for priced in price_operations(schedule, machine):
        if isinstance(priced.operation, Begin):
            movement = priced.operation.movement
            if isinstance(movement, StageMovement) or movement.purpose == "gradients":
                yield from _lines(movement, schedule)
                yield Line("", priced.alone)


def _lines(movement: Movement, schedule: Schedule) -> Iterator[Line]:
    rank = schedule.rank
    if movement.kind == "neighbours":
        for piece in movement.stage.receives(rank) if movement.adjoint else movement.stage.sends(rank):
            if piece.peer != rank:
                yield Line(f"send {BYTES * box_size(piece.box)} {piece.peer - rank}", 0.0)
        return
    if isinstance(movement, GroupSum):
        size = sum(gradient.size for gradient in schedule.program.buckets(rank)[movement.number].gradients)
    else:
        source, target = (box_size(layout.box(rank)) for layout in (movement.stage.source, movement.stage.target))
        size = source if movement.kind == "all-to-all" else max(source, target)
    yield Line(f"{WORDS[movement.kind]} {BYTES * size} {_pairs(movement.members)}", 0.0)


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
    plan = make_plan(options.strategy, network, GridShape(rows, cols), options.batch, replicas=True)
    lines = list(skeleton(build(Program(network, plan, options.batch), 0), machine))
    print(f"SimGrid: {simulate(lines, machine, rows * cols)}")
    print(f"closed form: {sum(line.seconds for line in lines):.9f} seconds")


if __name__ == "__main__":
    main()
