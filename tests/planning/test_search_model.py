"""The cost model of the search: its words are those of the transfers that run, its seconds those of the machine."""

from __future__ import annotations

import math
import random
import time

import numpy as np
import pytest

from gridnn import layers as L
from gridnn.cost.count import predict
from gridnn.cost.machine import Compute, Level, Machine, Range
from gridnn.cost.price import price
from gridnn.layers import SoftmaxCrossEntropy
from gridnn.layout.gridshape import GridShape
from gridnn.layout.group import Group
from gridnn.layout.split import REPLICAS, Split
from gridnn.models import get_model
from gridnn.network import Network
from gridnn.planning.plan import Plan
from gridnn.planning.propagate import propagate
from gridnn.planning.rules import make_plan
from gridnn.planning.search.cost_model import SECONDS, CostModel, plan_costs, sum_terms, total_seconds
from gridnn.planning.search.eliminate import eliminate
from gridnn.planning.search.groups import group_layers
from gridnn.planning.search.space import FEW, Space, configurations, divisors
from gridnn.planning.search.timing import levels_of, movement_seconds
from gridnn.program.program import Program

RATES = {"gemm": ((1e5, 1e9), (1e9, 2e10)), "conv": ((1e5, 1e9), (1e9, 1e10))}
SUMS = (Range(0, 4e-6, 0.0), Range(4096, 3e-6, 3e-9))
LEVELS = (Level("node", 4, 1e-6, 1e-9), Level("network", None, 5e-6, 4e-9, 4, {"all-reduce": SUMS}))
MACHINE = Machine("test", LEVELS, Compute(RATES, 5e9, 3e-6))
FREE = Compute({"gemm": ((1.0, 1e30),), "conv": ((1.0, 1e30),)}, 1e30)
MESSAGES = Machine("messages", (Level("all", None, 1.0, 0.0),), FREE)  # a second a message, all else for nothing


def mlp(*widths: int) -> Network:
    net = Network((64,))
    for number, width in enumerate(widths or (128, 64, 256, 32)):
        net.add(f"fc{number}", L.Linear(width))
        net.add(f"relu{number}", L.ReLU())
    net.add("loss", L.SoftmaxCrossEntropy())
    return net


def chain() -> Network:
    """Convolutions, pooling, norms and fully connected layers, one after the other."""
    net = Network((16, 16, 4))
    net.add("conv1", L.Conv2d(16, 5, padding=2))
    net.add("relu1", L.ReLU())
    net.add("pool1", L.MaxPool2d(2))
    net.add("conv2", L.Conv2d(32, 3, padding=1, groups=2))
    net.add("norm2", L.LocalResponseNorm(3))
    net.add("conv3", L.Conv2d(16, 3, 2, padding=1))
    net.add("norm3", L.BatchNorm())
    net.add("flatten", L.Flatten())
    net.add("fc1", L.Linear(64))
    net.add("relu4", L.ReLU())
    net.add("fc2", L.Linear(16))
    net.add("loss", L.SoftmaxCrossEntropy())
    return net


def branches() -> Network:
    """Two blocks of a residual network, a concat, and a mean over space."""
    net = Network((16, 16, 8))
    net.add("stem", L.Conv2d(16, 3, padding=1))
    net.add("relu", L.ReLU())
    for number, stride in enumerate((1, 2)):
        before = net.output
        net.add(f"first{number}", L.Conv2d(32, 3, stride, padding=1), before)
        net.add(f"norm{number}", L.BatchNorm())
        net.add(f"second{number}", L.Conv2d(16, 3, padding=1))
        net.add(f"skip{number}", L.Conv2d(16, 1, stride), before)
        net.add(f"add{number}", L.Add(), f"second{number}", f"skip{number}")
        net.add(f"after{number}", L.ReLU())
    net.add("left", L.Conv2d(16, 3, padding=1), "after1")
    net.add("both", L.Concat(), "left", "after1")
    net.add("mean", L.GlobalAvgPool())
    net.add("fc", L.Linear(16))
    net.add("loss", L.SoftmaxCrossEntropy())
    return net


def random_plans(network: Network, ranks: int, batch: int, count: int, seed: int = 0, at_most=None) -> list[Plan]:
    """Plans with any configuration of every layer."""
    rng, model = random.Random(seed), CostModel(network, ranks, batch, MACHINE, at_most=at_most)
    plans = []
    for _ in range(count):
        chosen = {name: rng.choice(model.space[name].splits) for name in model.names}
        plans.append(Plan("random", GridShape(1, ranks), propagate(network, chosen, ranks, batch, replicas=True)))
    return plans


def counted(program: Program) -> tuple[float, float, float]:
    """Mean words and messages beside the update over all ranks, and mean words of the update.

    Every reader of a tensor counts, though layers that read one alike share a transfer: the model knows pairs only.
    """
    words = messages = update = 0.0
    for index in range(program.ranks):
        for key, (moved, sent) in predict(program, index).integers().items():
            if key.phase == "update":
                update += moved
            else:
                words, messages = words + moved, messages + sent
        seen = set()
        for step in program.layers:
            for i, edge in enumerate(step.edges):
                if step.reading(i) in seen:
                    for backward in (False, True)[: 1 + edge.needs_gradient]:
                        for count in edge.transfer.counts(index, program.rows, backward):
                            words, messages = words + count.words, messages + count.messages
                seen.add(step.reading(i))
    return words / program.ranks, messages / program.ranks, update / program.ranks


@pytest.mark.parametrize(
    ("network", "ranks", "batch", "tolerance"),
    [
        (mlp(), 8, 16, 1e-12),
        (mlp(), 16, 32, 1e-12),
        (mlp(), 27, 54, 0.03),  # 3 does not divide the widths
        (mlp(54, 108, 162), 9, 18, 0.01),  # nor the input
        (chain(), 8, 16, 5e-3),  # halos where mesh axes cross
        (branches(), 8, 16, 5e-3),
        (chain(), 6, 12, 0.1),  # axes of 2 and 3 parts cross
        (branches(), 12, 24, 0.1),
    ],
)
def test_words_are_those_of_the_transfers_that_run(network, ranks, batch, tolerance):
    plans = random_plans(network, ranks, batch, 8)
    terms = plan_costs(network, plans, batch, MACHINE)
    words, update = sum_terms(terms, ["words"]), sum_terms(terms, ["gradient words"])
    every = [counted(Program(network, plan, batch)) for plan in plans]
    for place, (plan, (moved, _, summed)) in enumerate(zip(plans, every, strict=True)):
        assert words[place] == pytest.approx(moved, rel=tolerance), plan.splits
        assert update[place] == pytest.approx(summed, rel=max(tolerance, 1e-6)), plan.splits
    assert words.mean() == pytest.approx(np.mean([moved for moved, *_ in every]), rel=min(tolerance, 0.03))


@pytest.mark.parametrize(("network", "tolerance"), [(mlp(), 1e-9), (chain(), 0.1), (branches(), 0.1)])
def test_messages_are_those_of_the_transfers_that_run(network, tolerance):
    plans = random_plans(network, 8, 16, 8, seed=1)
    messages = sum_terms(plan_costs(network, plans, 16, MESSAGES), ["latency"])
    for place, plan in enumerate(plans):
        _, sent, _ = counted(Program(network, plan, 16))
        assert messages[place] == pytest.approx(sent, rel=tolerance), plan.splits


def test_the_paper_s_sum_of_gathered_gradients_moves_more():
    network, plan = mlp(), None
    plan = make_plan("model", network, GridShape(8, 1), 16)
    ours, theirs = (
        sum_terms(plan_costs(network, [plan], 16, MACHINE, full_sum=full), ["words"])[0] for full in (False, True)
    )
    gathered = sum(7 / 8 * 16 * width for width in (128, 64, 256))  # the loss is divided, and gathers nothing
    assert theirs - ours == pytest.approx(gathered)


@pytest.mark.parametrize(("ranks", "at_most"), [(8, None), (6, FEW)])
def test_pairs_and_single_plans_cost_the_same(ranks, at_most):
    network, batch = branches(), 12
    model = CostModel(network, ranks, batch, MACHINE, at_most=at_most)
    rng = random.Random(3)
    choices = [[rng.randrange(len(model.space[name])) for name in model.names] for _ in range(5)]
    plans = [
        Plan("x", GridShape(1, ranks), propagate(network, model.splits(choice), ranks, batch, replicas=True))
        for choice in choices
    ]
    totals = [model.graph.total(choice) for choice in choices]
    np.testing.assert_allclose(total_seconds(network, plans, batch, MACHINE), totals, rtol=1e-9)
    terms = model.edge_costs(next(e for e in model.grouped.edges if (e.source, e.target) == ("stem", "first0")))
    assert terms["words"].shape == (len(model.space["stem"]), len(model.space["first0"]))
    assert set(SECONDS) <= set(model.node_costs("stem")) and (terms["latency"] >= 0).all()


@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize("strategy", ["batch", "grid", "domain", "channel"])
def test_seconds_are_about_those_of_the_price_without_overlap(strategy, itemsize):
    plan = make_plan(strategy, chain(), GridShape(2, 4), 16)
    serial = price([Program(chain(), plan, 16)], MACHINE, itemsize=itemsize).serial
    assert total_seconds(chain(), [plan], 16, MACHINE, itemsize=itemsize)[0] == pytest.approx(serial, rel=0.15)


def test_sixteen_bits_move_half_the_bytes_but_those_that_are_summed():
    plan, moved = make_plan("grid", chain(), GridShape(2, 4), 16), {}
    fast = Machine("bytes", (Level("all", None, 0.0, 1.0),), FREE)  # a second a byte
    for itemsize in (2, 4):
        priced = price([Program(chain(), plan, 16)], fast, itemsize=itemsize)
        moved[itemsize] = {}
        for layer in priced.layers:
            for one in layer.movements:
                key = (one.kind, one.words)
                moved[itemsize][key] = moved[itemsize].get(key, 0) + one.seconds
    assert moved[2].keys() == moved[4].keys() and {"all-gather", "reduce-scatter"} <= {kind for kind, _ in moved[2]}
    for (kind, words), seconds in moved[4].items():
        assert moved[2][kind, words] == pytest.approx(seconds / 2 if kind in ("all-gather", "neighbours") else seconds)


def test_layers_without_weights_follow_and_the_others_choose():
    grouped = group_layers(branches(), 16)
    assert list(grouped.groups)[:4] == ["stem", "first0", "second0", "skip0"]
    assert grouped.names["first0"] == ("first0", "norm0") and grouped.names["both"] == ("both", "mean")
    assert {edge.target for edge in grouped.edges if edge.source == "add1"} == {"left", "both"}


def test_configurations_of_any_number_of_ranks():
    may = {axis: frozenset(divisors(12)) for axis in ("n", "co", "ci")} | {"h": frozenset({1, 2})}
    few, every = configurations(12, may), configurations(12, may, None)
    assert len(set(few)) == len(few) and set(few) < set(every)
    assert all(split.ranks == 12 and len(split.factors) <= FEW for split in few)
    assert Split.of(n=3, h=2, co=2) in every and Split.of(n=3, co=2, ci=2) in every
    assert Split((("n", 3), ("ci", 2), ("co", 2))) in every
    assert Split.of(co=4, replicas=3) in few and Split(((REPLICAS, 12),)) in few
    assert not any(split.parts("h") > 2 for split in every)
    assert configurations(1, may) == (Split(()),)
    assert all(
        "".join(axis for axis, _ in split.factors).endswith(REPLICAS) for split in every if split.parts(REPLICAS) > 1
    )


def test_no_axis_is_divided_into_more_parts_than_the_layer_or_its_followers_have():
    model = CostModel(chain(), 32, 8, MACHINE, at_most=None)
    assert max(split.parts("n") for split in model.space["fc1"].splits) == 8
    assert max(split.parts("h") for split in model.space["conv1"].splits) == 8  # the pool after it has 8 rows
    assert max(split.parts("co") * split.parts("ci") for split in model.space["conv3"].splits) == 16
    assert {split.parts("ci") for split in model.space["conv2"].splits} == {1}  # it has groups
    assert max(split.parts("co") for split in model.space["loss"].splits) == 16


def test_levels_and_contention_are_those_of_the_machine():
    shape = GridShape(1, 64)
    machine = Machine("m", (Level("chip", 2, 1e-7, 1e-11), *LEVELS), MACHINE.compute)
    groups = [((size, stride),) for size in (2, 4, 8) for stride in (1, 2, 4, 8)] + [
        ((2, 32), (2, 1)),
        ((2, 8), (4, 2)),
    ]
    for strides in groups:
        arrays = tuple((np.array([size]), np.array([stride])) for size, stride in strides)
        level, contention = levels_of(machine, arrays, 64)
        known = machine.level_of(Group(0, strides), shape)
        assert (level[0], contention[0]) == (known.level, pytest.approx(known.contention)), strides
        for kind, size in (("all-reduce", 100.0), ("all-reduce", 5000.0), ("all-gather", 5000.0)):
            ours = movement_seconds(machine, kind, np.array([size]), np.array([3]), arrays, 64)
            assert (ours.latency + ours.bandwidth)[0] == pytest.approx(machine.seconds(kind, size, 3, known))


def test_more_passes_move_activations_again_and_gradients_once():
    network, plan = mlp(), make_plan("grid", mlp(), GridShape(2, 4), 16)
    one, two = (plan_costs(network, [plan], 16, MACHINE, passes=passes) for passes in (1, 2))
    assert sum_terms(two, ["gradient words"]) == sum_terms(one, ["gradient words"])
    assert sum_terms(two, ["words"])[0] == pytest.approx(2 * sum_terms(one, ["words"])[0], rel=0.01)


def test_resnet50_on_1024_ranks_is_planned_in_a_second():
    """At most two axes a layer, 1 s of a core: measured 0.45 s; the limit leaves room for a busy machine."""
    network = get_model("resnet50", (224, 224, 3), 1000)
    network.add("loss", SoftmaxCrossEntropy())
    start = time.process_time()
    found = eliminate(CostModel(network, 1024, 1024, MACHINE).graph)
    assert time.process_time() - start < 3
    assert math.isfinite(found.value) and found.is_optimal


def test_mesh_axes_say_where_an_axis_lies():
    axes = Space([Split.of(n=4, co=2, replicas=3), Split.of(h=2, n=12)]).mesh_axes
    assert axes["n"].start.tolist() == [1, 2] and axes["n"].parts.tolist() == [4, 12]
    assert axes["co"].start.tolist() == [4, 1] and axes["co"].stop.tolist() == [8, 1]
