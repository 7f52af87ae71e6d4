"""Prices: the integers of the prediction, the seconds of the machine, and the time line of a step."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from launch import HELPERS, ROOT, clean_environment, run
from random_networks import random_case

from gridnn import layers as L
from gridnn.cost.count import count, predict
from gridnn.cost.critical_ranks import critical_ranks, sample
from gridnn.cost.machine import Compute, Level, Machine, Range
from gridnn.cost.memory import peak
from gridnn.cost.movements import Movement
from gridnn.cost.operations import price_operations
from gridnn.cost.price import Price, price
from gridnn.cost.rows import rows as operation_rows
from gridnn.cost.timeline import COMPUTE, timeline
from gridnn.cost.work import local_flops, seconds, work
from gridnn.layers.base import Shapes
from gridnn.layout.gridshape import GridShape
from gridnn.layout.layout import box_shape
from gridnn.layout.split import Split
from gridnn.network import Network
from gridnn.planning.plan import Plan
from gridnn.planning.propagate import propagate
from gridnn.planning.rules import make_plan
from gridnn.program.build import build
from gridnn.program.program import Program, pass_programs, pass_sizes
from gridnn.program.schedule import Begin, End, Fill
from gridnn.program.schedule import Compute as Call

DOCS = ROOT / "docs"
RATES = {"gemm": ((1e5, 1e9), (1e9, 2e10)), "conv": ((1e5, 1e9), (1e9, 1e10))}
SUMS = (Range(0, 4e-6, 0.0), Range(4096, 3e-6, 3e-9))
LEVELS = (Level("node", 4, 1e-6, 1e-9), Level("network", None, 5e-6, 4e-9, 4, {"all-reduce": SUMS}))
MACHINE = Machine("test", LEVELS, Compute(RATES, 5e9, 3e-6))


def cnn(height: int = 24) -> Network:
    """Convolutions with branches, batch norm, pooling, and two fully connected layers, all of odd sizes."""
    net = Network((height, 15, 3))
    net.add("conv1", L.Conv2d(12, 5, padding=2))
    net.add("norm1", L.BatchNorm())
    net.add("relu1", L.ReLU())
    net.add("pool1", L.MaxPool2d(3, 2, padding=1))
    net.add("conv2", L.Conv2d(10, 3, padding=1))
    net.add("skip", L.Conv2d(10, 1), "pool1")
    net.add("add", L.Add(), "conv2", "skip")
    net.add("conv3", L.Conv2d(9, 3, padding=1, bias=False))
    net.add("flatten", L.Flatten())
    net.add("fc1", L.Linear(33))
    net.add("relu2", L.ReLU())
    net.add("drop", L.Dropout(0.5))
    net.add("fc2", L.Linear(13))
    net.add("loss", L.SoftmaxCrossEntropy())
    return net


def planned(strategy: str, rows: int, cols: int, batch: int = 26, **options) -> Program:
    net = cnn()
    return Program(net, make_plan(strategy, net, GridShape(rows, cols), batch, **options), batch)


PLANS = [
    ("batch", 1, 6, {}),
    ("model", 3, 1, {}),
    ("grid", 3, 2, {}),
    ("grid", 2, 4, {"gather_backward": "all-reduce"}),
    ("domain", 2, 3, {}),
    ("domain", 4, 4, {"domain": (2, 2), "halo": "stepwise"}),
    ("domain", 4, 4, {"domain": (2, 2), "recompute": True}),
    ("integrated", 4, 2, {}),
    ("channel", 3, 4, {"recompute": True}),
    ("splitbrain", 2, 2, {}),
    ("splitbrain", 3, 2, {"recompute": True}),
    ("batch", 1, 1, {}),
]


def moved_by(program: Program, index: int) -> list[Movement]:
    """All that one rank moves in a pass."""
    operations = price_operations(build(program, index), MACHINE)
    return [movement for priced in operations for _, movement in priced.movements]


def integers(made: Price) -> dict:
    return {
        (layer.name, *movement[:3]): (movement.words, movement.messages)
        for layer in made.layers
        for movement in layer.movements
        if movement.words or movement.messages
    }


@pytest.mark.parametrize(("strategy", "rows", "cols", "options"), PLANS)
def test_words_and_messages_are_those_of_the_prediction(strategy, rows, cols, options):
    program = planned(strategy, rows, cols, **options)
    made = price([program], MACHINE)
    ledger = predict(program, made.index)
    assert integers(made) == {tuple(key): value for key, value in ledger.integers().items()}
    assert made.words() == ledger.words_by_dimension()


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 6, 12])
def test_random_plans_are_priced_as_they_are_predicted(ranks):
    rng = random.Random(ranks)
    for _ in range(8):
        case = random_case(rng, ranks)
        made = price([case.program], MACHINE)
        predicted = predict(case.program, made.index).integers()
        assert integers(made) == {tuple(key): value for key, value in predicted.items()}, case
        assert max(made.compute, made.communication) * (1 - 1e-9) <= made.seconds <= made.serial * (1 + 1e-9), case
        assert timeline(made.passes, overlap=0).seconds == pytest.approx(made.serial), case


@pytest.mark.parametrize("strategy", ["grid", "domain", "splitbrain"])
def test_passes_of_a_batch_add_up(strategy):
    net, batch = cnn(), 29
    plan = make_plan(strategy, net, GridShape(2, 2), batch)
    programs = pass_programs(net, plan, pass_sizes(batch, 3))
    made = price(programs, MACHINE)
    assert made.batch == batch and len(programs) == 3
    ends = [{"first": True, "last": False}, {"first": False, "last": False}, {"first": False, "last": True}]
    ledger = count(build(program, made.index, **end) for program, end in zip(programs, ends, strict=True))
    assert integers(made) == {tuple(key): value for key, value in ledger.integers().items()}
    assert sum(layer.seconds for layer in made.layers) == pytest.approx(made.serial)
    alone = price(programs[:1], MACHINE)
    assert 2 * alone.compute < made.compute < 3.2 * alone.compute


# -- the time line ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("strategy", "rows", "cols", "options"), PLANS)
def test_the_step_is_between_its_longest_resource_and_their_sum(strategy, rows, cols, options):
    program = planned(strategy, rows, cols, **options)
    made = price([program], MACHINE)
    slack = 1 + 1e-9
    assert max(made.compute, made.communication) <= made.seconds * slack
    assert made.seconds <= made.serial * slack
    assert sum(layer.seconds for layer in made.layers) == pytest.approx(made.serial)
    assert sum(layer.compute for layer in made.layers) == pytest.approx(made.compute)
    one_by_one = timeline(made.passes, overlap=0)
    assert one_by_one.seconds == pytest.approx(made.serial)
    for before, after in itertools.pairwise(one_by_one.events):
        assert before.stop <= after.start + 1e-12


@pytest.mark.parametrize(("strategy", "rows", "cols", "options"), PLANS)
def test_the_processor_does_one_thing_at_a_time(strategy, rows, cols, options):
    made = price([planned(strategy, rows, cols, **options)], MACHINE)
    worked = [event for event in made.timeline.events if event.resource == COMPUTE]
    assert sum(event.stop - event.start for event in worked) == pytest.approx(made.compute)
    for before, after in itertools.pairwise(worked):
        assert before.stop <= after.start + 1e-12
    assert max(event.stop for event in made.timeline.events) == made.seconds
    updates = [event.start for event in worked if event.phase == "update"]
    sums = [event.stop for event in made.timeline.events if event.phase == "update" and event.resource != COMPUTE]
    assert not sums or max(sums) <= min(updates) + 1e-12


@pytest.mark.parametrize(("strategy", "rows", "cols", "options"), PLANS)
def test_rows_and_the_critical_path_add_up(strategy, rows, cols, options):
    """What is printed of every operation is the step: words, seconds of the processor, and when it waits."""
    made = price([planned(strategy, rows, cols, **options)] * 2, MACHINE)
    shown = [row for _, listed in operation_rows(made) for row in listed]
    assert [row.number for row in shown] == list(range(sum(map(len, made.passes))))
    assert sum(row.words for row in shown) == sum(made.words().values())
    assert sum(row.computing for row in shown) == pytest.approx(made.compute)
    assert sum(row.moving for row in shown) == pytest.approx(made.communication)
    assert sum(row.waiting for row in shown) == pytest.approx(made.timeline.exposed)
    for before, after in itertools.pairwise(shown):
        assert before.start <= after.start + 1e-12
    line = made.timeline
    assert sum(event.seconds for event in line.critical_path) == pytest.approx(made.seconds)
    for before, after in itertools.pairwise(line.critical_path):
        assert before.stop == pytest.approx(after.start)
    assert sum(line.computed().values()) == pytest.approx(line.compute)
    assert sum(line.waited_for().values()) == pytest.approx(line.exposed)
    assert sum(line.hidden_movements().values()) >= line.hidden * (1 - 1e-9)


def three_layers() -> Program:
    net = Network((1024,))
    for name in ("fc1", "fc2", "fc3"):
        net.add(name, L.Linear(1024, bias=False))
    net.add("loss", L.MeanSquaredError())
    return Program(net, make_plan("batch", net, GridShape(1, 2), 2), 2)


def by_hand() -> Machine:
    """A second for a product of 1024 x 1024, 0.75 seconds a message, nothing else."""
    rate = 2.0 * 1024 * 1024
    return Machine("hand", (Level("network", None, 0.75, 0.0),), Compute({"gemm": ((1.0, rate),)}, 1e30))


def test_what_is_hidden_is_named():
    """The sums of `test_three_layers_by_hand`."""
    made = price([three_layers()], by_hand())
    assert made.timeline.waited_for() == pytest.approx(
        {
            "all-reduce of loss forward (row)": 1.5,
            "all-reduce of fc2 update (row)": 1.0,
            "all-reduce of fc1 update (row)": 1.0,
        }
    )
    assert made.timeline.hidden_movements() == pytest.approx(
        {"all-reduce of fc3 update (row)": 1.5, "all-reduce of fc2 update (row)": 1.0}
    )


@pytest.mark.parametrize(("device", "fuses"), [("cpu", False), ("gpu", True)])
def test_a_machine_is_priced_by_the_policy_of_its_device(device, fuses):
    machine = dataclasses.replace(MACHINE, device=device)
    program = planned("integrated", 2, 2)
    made = price([program], machine)
    policy = made.schedules[0].policy
    assert policy == machine.policy(4) and policy.fuses == fuses
    assert made.memory.total == peak(program, made.index, policy=policy).total


def test_three_layers_by_hand():
    """Layers of 1024 x 1024 on two ranks: a second for every product, a second and a half for every sum.

    Forward ends at 3. Backward of fc3 ends at 5, its sum at 6.5; of fc2 at 7; of fc1, which has one product, at 8. The
    sum of fc2 has half a second to go then: it shares the network with that of fc1 until 9, which ends at 10. The sum
    of the loss comes last.
    """
    program, machine = three_layers(), by_hand()
    made = price([program], machine)
    assert made.seconds == pytest.approx(11.5)
    assert (made.compute, made.communication) == (pytest.approx(8), pytest.approx(6))
    spans = {(e.layer, e.phase, e.resource): (e.start, e.stop) for e in made.timeline.events}
    assert spans["fc3", "update", "row"] == pytest.approx((5, 6.5))
    assert spans["fc2", "update", "row"] == pytest.approx((7, 9))
    assert spans["fc1", "update", "row"] == pytest.approx((8, 10))
    assert spans["loss", "forward", "row"] == pytest.approx((10, 11.5))
    assert price([program], machine, overlap=0).seconds == pytest.approx(14)
    # at half the speed behind work, 1.5 of the 4.5 seconds of the sums are done when backward ends, at 8
    half = dataclasses.replace(machine, overlap=0.5)
    assert price([program], half).seconds == price([program], machine, overlap=0.5).seconds == pytest.approx(12.5)


@pytest.mark.parametrize("beta", [1e-10, 1e-7, 1e-5])
def test_halos_run_behind_the_interior_and_behind_the_gradient_of_the_weights(beta):
    net = Network((32, 16, 4))
    net.add("conv1", L.Conv2d(8, 3, padding=1))
    net.add("conv2", L.Conv2d(8, 3, padding=1))
    machine = Machine("slow", (Level("network", None, 1e-6, beta),), Compute(RATES, 1e15))
    program = Program(net, make_plan("domain", net, GridShape(2, 1), 4), 4)
    operations = price_operations(build(program, 0), machine)
    ahead = [one for one in operations if one.operation.layer == "conv2" and one.operation.phase == "forward"]
    ahead = [one for one in ahead if not isinstance(one.operation, Fill)]
    assert [type(one.operation) for one in ahead] == [Begin, Call, End, Call]
    (((_, halo),), inside, rest) = ahead[0].movements, ahead[1].seconds, ahead[3].seconds
    assert (halo.words, halo.messages, inside / (inside + rest)) == (4 * 16 * 8, 1, pytest.approx(15 / 16))
    events = [e for e in timeline([operations]).events if e.layer == "conv2" and e.stop - e.start > 1e-9]
    forward = [e for e in events if e.phase == "forward"]  # but for copies, by memory that takes no time
    spent = max(e.stop for e in forward) - min(e.start for e in forward)
    assert spent == pytest.approx(max(inside, halo.seconds) + rest, rel=1e-6)
    (back,) = (e for e in events if e.phase == "backward" and e.resource != COMPUTE)
    weights = max((e for e in events if e.phase == "backward" and e.resource == COMPUTE), key=lambda e: e.start)
    assert weights.start == pytest.approx(back.start, rel=1e-6)
    assert back.stop - back.start == pytest.approx(halo.seconds)


def test_the_order_of_the_ranks_says_what_stays_in_a_node():
    """Four rows and columns on nodes of four: one order has the columns in a node, the other one the rows."""
    spent = {}
    for order in ("column", "row"):
        net, grid = cnn(), GridShape(4, 4, order)
        program = Program(net, make_plan("grid", net, grid, 26, replicas=True), 26)
        for movement in moved_by(program, 5):
            key = (order, movement.dimension)
            spent[key] = spent.get(key, 0.0) + movement.seconds
    assert 3 * spent["column", "column"] < spent["row", "column"]
    assert 3 * spent["row", "row"] < spent["column", "row"]


# -- work -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["n=2,co=3", "n=3,ci=2", "h=2,co=3", "ci=6"])
def test_the_work_of_all_ranks_is_that_of_the_network(text):
    net = cnn()
    chosen = {"conv2": Split.parse(text)}
    program = Program(net, Plan("file", GridShape(6, 1), propagate(net, chosen, 6, 12)), 12)
    step = next(step for step in program.layers if step.name == "conv2")
    total = sum(
        local_flops(step.node.layer, step.shapes, Shapes((box_shape(step.edges[0].layout.box(i)),), box_shape(box)))
        for i, box in ((i, step.output.box(i)) for i in range(6))
    )
    assert total == pytest.approx(step.node.layer.flops(step.shapes))


def test_grouped_convolutions_have_the_flops_of_their_groups():
    layer, shapes = L.Conv2d(8, 3, padding=1, groups=2), Shapes(((2, 6, 6, 4),), (2, 6, 6, 8))
    half = Shapes(((2, 6, 6, 2),), (2, 6, 6, 4))
    assert local_flops(layer, shapes, half) == layer.flops(shapes) / 2


def test_a_product_is_repeated_twice_backwards():
    layer, shapes = L.Linear(20), Shapes(((6, 10),), (6, 20))
    done = work(layer, shapes, shapes, 220)
    flops = 2 * 6 * 10 * 20
    assert [call.flops for call in done.forward + done.backward if call.kind == "gemm"] == [flops] * 3
    assert done.forward[0].size == 4 * (60 + 120 + 220)
    assert [call.kind for call in work(layer, shapes, shapes, 220, needs_gradient=False).inputs] == []
    assert work(layer, shapes, Shapes(((0, 10),), (0, 20)), 0) == ((), (), ())
    compute = Compute({"gemm": ((1.0, flops),)}, 1e30, overhead=0.5)
    assert seconds(compute, done.forward[:1]) == pytest.approx(1.5)


# -- which rank ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("strategy", "rows", "cols", "options"), PLANS[:-1])
def test_no_rank_is_much_slower_than_the_priced_one(strategy, rows, cols, options):
    program = planned(strategy, rows, cols, **options)
    made = price([program], MACHINE)
    every = [timeline([price_operations(build(program, index), MACHINE)]).seconds for index in range(program.ranks)]
    assert made.seconds >= 0.97 * max(every)
    assert made.index in sample(program)


def test_few_ranks_are_looked_at():
    assert critical_ranks(planned("batch", 1, 26), Machine("m", LEVELS[1:], MACHINE.compute)) == [0]
    assert len(critical_ranks(planned("domain", 4, 4, domain=(2, 2)), MACHINE)) <= 4
    assert len(sample(planned("domain", 4, 4))) == 16


# -- more costs more ----------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400), st.integers(0, 400), st.sampled_from(["grid", "domain", "channel", "integrated"]))
def test_communication_does_not_get_cheaper_as_tensors_grow(channels, more, strategy):
    machine = Machine("m", (LEVELS[0], Level("network", None, 5e-6, 4e-9, 4)), MACHINE.compute)

    def cost(width: int) -> float:
        net = Network((16, 4, 3))
        net.add("conv1", L.Conv2d(4 * width, 3, padding=1))
        net.add("conv2", L.Conv2d(4, 3, padding=1))
        net.add("loss", L.SoftmaxCrossEntropy())
        program = Program(net, make_plan(strategy, net, GridShape(4, 2), 8), 8)
        return price([program], machine).communication

    assert cost(channels) <= cost(channels + more) * (1 + 1e-12)


# -- large machines -----------------------------------------------------------------------------------------------

LARGE = """
import re
from gridnn.layout.gridshape import GridShape
from gridnn.layers import SoftmaxCrossEntropy
from gridnn.models import get_model
from gridnn.planning.rules import make_plan
from gridnn.program.program import Program
from gridnn.cost.price import price
from test_cost import MACHINE
net = get_model("resnet50", (224, 224, 3), 1000)
net.add("loss", SoftmaxCrossEntropy())
plan = make_plan("{strategy}", net, GridShape({rows}, {cols}), 65536, replicas=True{domain})
made = price([Program(net, plan, 65536)], MACHINE)
peak = re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())  # since exec, unlike ru_maxrss
print(int(peak[1]) / 1024, made.seconds)
"""


@pytest.mark.parametrize(
    ("strategy", "rows", "cols", "domain"), [("batch", 1, 65536, ""), ("domain", 16, 4096, ", domain=(4, 4)")]
)
def test_resnet_on_65536_ranks_needs_no_table_of_the_ranks(strategy, rows, cols, domain):
    code = LARGE.format(strategy=strategy, rows=rows, cols=cols, domain=domain)
    env = clean_environment(PYTHONPATH=f"{ROOT}:{HELPERS}:{Path(__file__).parent}")
    done = run([sys.executable, "-c", code], 60, env)
    assert done.returncode == 0, done.stderr
    megabytes, step = map(float, done.stdout.split())
    assert megabytes < 500 and math.isfinite(step)


def test_the_example_of_the_manual_prints_what_it_says():
    code, printed = re.search(r"```python\n(.*?)```\n\n```\n(.*?)```", (DOCS / "cost.md").read_text(), re.S).groups()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == (printed, "")


def test_a_price_is_plain_data():
    made = price([planned("domain", 2, 3)], MACHINE)
    data = json.loads(json.dumps(made.as_dict()))
    assert data["seconds"] == made.seconds and data["words"] == made.words()
    by_name = {layer["name"]: layer for layer in data["layers"]}
    assert by_name["conv1"]["bound"] > 0 and by_name["relu1"]["bound"] is None
    assert sum(m["words"] for m in by_name["fc1"]["movements"]) == by_name["fc1"]["ratio"] * by_name["fc1"]["bound"]
    assert data["memory_bytes"] == made.memory.total > 0


def test_a_movement_takes_what_the_machine_says():
    every = moved_by(planned("grid", 2, 4), 3)
    moved = {kind: [m for m in every if m.kind == kind] for kind in ("all-gather", "all-reduce")}
    for movement in moved["all-gather"]:  # columns are two neighbours in a node
        assert movement.seconds == pytest.approx(1e-6 * movement.messages + 4e-9 * movement.words)
    (norm,) = {m for m in moved["all-reduce"] if m.phase == "backward"}  # rows lie across the two nodes: 8-byte words
    assert norm.words == 2 * (12 - 3) and norm.seconds == pytest.approx(4e-6 * norm.messages)
    sums = [m for m in moved["all-reduce"] if m.phase == "update"]  # two rows of a node share its link with two others
    started = 5e-6 * sum(m.messages for m in sums) + 4 * 4e-9 * 2 * sum(m.words for m in sums)
    assert sum(m.seconds for m in sums) == pytest.approx(started)
