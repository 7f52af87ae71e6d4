"""SoyBean's cuts: the table, one cut against brute force, k cuts against gridnn's own words, and plans that run."""

from __future__ import annotations

import dataclasses
import functools
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from running import folder, job_of, same, trained

from gridnn import layers as L
from gridnn.cost.count import predict
from gridnn.errors import UserError
from gridnn.layout.gridshape import GridShape
from gridnn.layout.split import REPLICAS
from gridnn.models import MODELS
from gridnn.network import Network
from gridnn.planning.rules import make_plan
from gridnn.planning.search.tiling import cut_graph, cut_layers, plan_tiling, prime_factors, tile
from gridnn.program.program import Program
from gridnn.reproduce import soybean_cuts as C
from gridnn.train import setup
from gridnn.train.audit import audit
from gridnn.train.config import RunConfig
from gridnn.train.setup import prepare_run

R, COL, REPLICA, SUMS = C.ROWS, C.COLUMNS, C.REPLICA, C.SUMS


def chain(*widths: int) -> Network:
    """Fully connected layers without biases."""
    net = Network(widths[:1])
    for number, width in enumerate(widths[1:], 1):
        net.add(f"fc{number}", L.Linear(width, bias=False))
    return net


def words(network: Network, plan, batch: int) -> int:
    """What all ranks of a plan receive in one step, by the program that would run."""
    program = Program(network, plan, batch)
    return sum(sum(predict(program, i).words_by_dimension().values()) for i in range(plan.grid.size))


# -- the table ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "target", "share"),
    [
        (R, R, 0),
        (COL, COL, 0),
        (REPLICA, REPLICA, 0),
        (REPLICA, R, 0),
        (REPLICA, COL, 0),
        (R, COL, 1 / 2),
        (COL, R, 1 / 2),
        (R, REPLICA, 1),
        (COL, REPLICA, 1),
        (SUMS, R, 1),
        (SUMS, COL, 1),
        (SUMS, REPLICA, 2),
    ],
)
def test_conversions_are_those_of_the_paper(source, target, share):
    assert C.conversion(source, target, 600) == 600 * share


@pytest.mark.parametrize("parts", [2, 3, 5])
def test_conversions_are_what_the_transfers_between_layers_move(parts):
    """Two layers of gridnn, each divided one way: the words of its program are those of the table."""
    net = chain(30, 60, 90)
    axes = ("n", "co", "ci")
    for first, second in itertools.product(axes, axes):
        layers, edges = cut_layers(net, 120)
        graph, choices = cut_graph(layers, edges, parts)
        expected = graph.total([own.index(axis) for own, axis in zip(choices.values(), (first, second), strict=True)])
        divided = zip(layers.items(), (first, second), strict=True)
        layers = {name: layer.cut(axis, parts) for (name, layer), axis in divided}
        plan = dataclasses.replace(
            make_plan("batch", net, GridShape(parts, 1), 120),
            splits={name: layer.split for name, layer in layers.items()},
        )
        assert words(net, plan, 120) == expected, (first, second)


# -- one cut ------------------------------------------------------------------------------------------------------


def brute_force(levels, axes=C.AXES) -> float:
    """The least cost over all tilings of all tensors and all forms of all products, written from the definition."""
    best = float("inf")
    for borders in itertools.product(C.STATES, repeat=len(levels) + 1):
        total = C.conversion(*borders[-1], levels[-1].products[0][2].size)
        for number, level in enumerate(levels):
            (x, dx), (y, dy) = borders[number], borders[number + 1]
            least = float("inf")
            for w in C.HELD:
                held = {"x": x, "dx": dx, "y": y, "dy": dy, "w": w}
                cost = 0.0
                for place, (names, operands) in enumerate(zip(C.PRODUCTS, level.products, strict=True)):
                    if place == C.BACKWARD and number == 0:
                        continue
                    cost += min(_form(names, operands, C.FORMS[place][axis], held) for axis in axes)
                least = min(least, cost)
            total += least
        best = min(best, total)
    return best


def _form(names, operands, form, held) -> float:
    inputs = [C.conversion(held[name], t, o.size) for name, t, o in zip(names[:2], form[:2], operands[:2], strict=True)]
    return sum(inputs) + C.conversion(form[2], held[names[2]], operands[2].size)


@settings(max_examples=6)
@given(sizes=st.lists(st.integers(1, 20), min_size=3, max_size=3), batch=st.integers(1, 40))
def test_one_cut_is_the_best_of_all_tilings(sizes, batch):
    levels = C.levels_of(chain(*sizes), batch)
    cut = C.one_cut(levels)
    assert cut.cost == pytest.approx(brute_force(levels))
    assert cut.cost <= C.one_cut(levels, tied=True).cost
    assert C.one_cut(levels, axes=("n",)).cost == pytest.approx(brute_force(levels, ("n",)))


def test_the_cut_of_a_network_is_the_best_of_all_choices():
    net = Network((6, 6, 4))
    net.add("conv1", L.Conv2d(4, 3, padding=1))
    net.add("conv2", L.Conv2d(4, 1), "conv1")
    net.add("add", L.Add(), "conv1", "conv2")
    net.add("flatten", L.Flatten())
    net.add("fc", L.Linear(50))
    graph, choices = cut_graph(*cut_layers(net, 8), 2)
    assert all(set(own) <= {"n", "h", "w", "co", "ci"} and REPLICAS not in own for own in choices.values())
    best = min(graph.total(choice) for choice in itertools.product(*(range(len(own)) for own in choices.values())))
    assert tile(net, 2, 8).cost == pytest.approx(best)


# -- k cuts -------------------------------------------------------------------------------------------------------

EXAMPLE = chain(*[300] * 6)


@pytest.mark.parametrize(
    ("strategy", "grid", "fixed", "megabytes"),
    [
        ("batch", GridShape(1, 16), ("n",) * 4, 54.0),
        ("model", GridShape(16, 1), ("co",) * 4, 57.6),
        ("grid", GridShape(4, 4), ("n", "n", "co", "co"), 22.32),
    ],
)
def test_k_cuts_of_named_strategies_are_what_gridnn_moves(strategy, grid, fixed, megabytes):
    counted = C.k_cuts(C.levels_of(EXAMPLE, 400), 4, fixed=fixed).cost
    assert 4 * counted / 1e6 == pytest.approx(megabytes)
    plan = make_plan(strategy, EXAMPLE, grid, 400)
    assert words(EXAMPLE, plan, 400) == pytest.approx(counted, abs=1e-6)


def test_k_cuts_find_less_than_the_named_strategies():
    levels = C.levels_of(EXAMPLE, 400)
    free, tied = C.k_cuts(levels, 4), C.k_cuts(levels, 4, tied=True)
    assert free.cost <= tied.cost < C.k_cuts(levels, 4, fixed=("n", "n", "co", "co")).cost
    assert free.cost == sum(2**i * cut.cost for i, cut in enumerate(free.cuts))
    costs = [2**i * cut.cost for i, cut in enumerate(tied.cuts)]
    assert costs == sorted(costs)  # the first cut, which crosses the slowest links, is the cheapest


def test_halves_of_tensors_count_less():
    levels = C.levels_of(EXAMPLE, 400)
    assert C.k_cuts(levels, 4, fixed=("co",) * 4, halves="tensors").cost < C.k_cuts(levels, 4, fixed=("co",) * 4).cost


def test_odd_sizes():
    odd = chain(7, 5, 3)
    plan = plan_tiling(odd, 6, 11)
    assert all(split.ranks == 6 for split in plan.splits.values())
    Program(odd, plan, 11)


def test_a_chain_is_wanted_by_the_paper():
    net = Network((4, 4, 2))
    net.add("conv1", L.Conv2d(2, 3, padding=1))
    net.add("conv2", L.Conv2d(2, 3, padding=1), "conv1")
    net.add("add", L.Add(), "conv1", "conv2")
    with pytest.raises(UserError, match="layer 'conv1': the paper's levels are a chain"):
        C.levels_of(net, 4)


# -- plans --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "ranks"), [("alexnet", 8), ("resnet18", 6), ("inception-v3", 4), ("cosmoflow", 4)])
def test_plans_fit_and_move_about_what_the_cuts_say(model, ranks):
    """Within a tenth: the table knows of earlier cuts how many parts they made, and not always which rank has which."""
    known = MODELS[model]
    net = known.build(known.input_shape, known.outputs)
    net.add("loss", L.MeanSquaredError() if model == "cosmoflow" else L.SoftmaxCrossEntropy())
    plan, tiled = plan_tiling(net, ranks, 64), tile(net, ranks, 64)
    moved = words(net, plan, 64)
    assert moved == pytest.approx(tiled.cost, rel=0.1)
    assert moved < words(net, make_plan("batch", net, GridShape(1, ranks), 64), 64)


def test_one_cut_into_a_prime_is_what_the_plan_moves():
    net = MODELS["lenet"].build((28, 28, 1), 10)
    plan, tiled = plan_tiling(net, 2, 32), tile(net, 2, 32)
    assert tiled.cuts == ((2, tiled.cost),)
    assert words(net, plan, 32) == tiled.cost


@settings(max_examples=30)
@given(
    sizes=st.lists(st.integers(1, 12), min_size=2, max_size=6),
    batch=st.integers(1, 12),
    ranks=st.sampled_from((2, 3)),
)
def test_one_cut_of_any_chain_is_what_the_plan_moves_and_the_least_of_all_splits(sizes, batch, ranks):
    net = chain(*(6 * size for size in sizes))
    moved = words(net, plan_tiling(net, ranks, 6 * batch), 6 * batch)
    assert moved == tile(net, ranks, 6 * batch).cost
    for strategy, grid in (
        ("batch", GridShape(1, ranks)),
        ("model", GridShape(ranks, 1)),
        ("channel", GridShape(ranks, 1)),
    ):
        assert moved <= words(net, make_plan(strategy, net, grid, 6 * batch), 6 * batch)


def test_only_what_is_allowed_is_divided():
    known = MODELS["vgg16"]
    net = known.build(known.input_shape, known.outputs)
    for splits in (tile(net, 8, 16, ("n", "co", "ci")).splits, tile(net, 8, 16, ("h", "w", "co")).splits):
        assert splits["conv1"].ranks == 8
    assert not {"n", "ci"} & {axis for axis, _ in splits["conv1"].factors}
    assert tile(net, 1, 16).cost == 0


def test_what_cannot_be_divided_is_repeated():
    net = chain(1, 1)
    assert str(tile(net, 3, 1).splits["fc1"]) == "replicas=3"


def test_prime_factors():
    assert [prime_factors(n) for n in (1, 2, 12, 97, 1024)] == [[], [2], [3, 2, 2], [97], [2] * 10]


# -- the paper's experiments ------------------------------------------------------------------------------------------


def test_the_example_is_the_papers_to_the_digit():
    from gridnn.reproduce.soybean import EXPERIMENTS, example

    assert list(EXPERIMENTS) == ["example", "conversions", "speedup"]
    made = example()
    counted = {row["plan"]: row["megabytes"] for row in made.rows if row["count"] == "2 A n for every tensor"}
    assert counted == pytest.approx({"data": 57.6, "model": 76.8, "hybrid": 33.6})
    moved = {row["plan"]: row["megabytes"] for row in made.rows if row["count"] == "gridnn's words"}
    assert moved == pytest.approx({"data": 54.0, "model": 57.6, "hybrid": 22.32, "tiling": 19.68})
    assert [claim.holds for claim in made.claims if "gridnn's words" not in claim.text] == [True] * 4


def test_the_transfers_move_what_the_table_says():
    from gridnn.reproduce.soybean import conversions

    made = conversions()
    assert len(made.claims) == 12 and all(claim.holds for claim in made.claims)
    assert all(row["paper"] == row["cuts"] == row["gridnn"] for row in made.rows)


def test_tiling_is_faster_than_data_parallelism_for_small_batches(monkeypatch):
    from gridnn.reproduce import soybean_speedup

    monkeypatch.setattr(soybean_speedup, "NETWORKS", ("alexnet",))
    monkeypatch.setattr(soybean_speedup, "BATCHES", (32, 512))
    made = soybean_speedup.speedup()
    gains = {(r["links"], r["batch"]): r["speedup_alone"] for r in made.rows if r["plan"] == "tiling"}
    for links in soybean_speedup.LINKS:
        assert gains[links, 32] > 1.5 and gains[links, 32] > gains[links, 512] >= 1
    assert gains["one bus", 512] > gains["a link a card", 512]
    assert [
        claim.holds for claim in made.claims if "link a card: tiling over data parallelism, movements not" in claim.text
    ] == [True]


# -- runs ---------------------------------------------------------------------------------------------------------

BASE = RunConfig.of(dataset="synthetic", dtype="float64", batch=12, samples=31, steps=2, lr=0.02, epochs=3)
RUNS = {
    "mlp": BASE.replaced(model="mlp", shape="5x5x3", widths="64,48,40", batch=13),
    "lenet": BASE.replaced(model="lenet", shape="27x12x2"),
    "residual": BASE.replaced(model="residual", shape="12x9x3", batch=6),
}


def residual(shape, classes, **options) -> Network:
    """What ResNet and AlexNet have, in small: norms, a shortcut with a stride, groups, pools, twice fully connected."""
    net = Network(shape)
    net.add("conv1", L.Conv2d(8, 3, padding=1, bias=False))
    net.add("bn1", L.BatchNorm())
    net.add("relu1", L.ReLU())
    net.add("pool", L.MaxPool2d(3, 2, 1))
    net.add("conv2", L.Conv2d(12, 3, stride=2, padding=1))
    net.add("down", L.Conv2d(12, 1, stride=2), "pool")
    net.add("add", L.Add(), "conv2", "down")
    net.add("conv3", L.Conv2d(12, 3, padding=1, groups=2))
    net.add("flatten", L.Flatten())
    net.add("fc1", L.Linear(150))
    net.add("relu2", L.ReLU())
    net.add("fc2", L.Linear(classes))
    return net


@pytest.fixture(autouse=True)
def _own_model(monkeypatch):
    known = setup.get_model
    own = {"residual": residual}
    monkeypatch.setattr(
        setup,
        "get_model",
        lambda name, *args, **options: own.get(name, functools.partial(known, name))(*args, **options),
    )


@functools.cache
def serial(name: str):
    """The run on one rank, made by every rank for itself."""
    from mpi4py import MPI

    return trained(RUNS[name].replaced(grid="1x1"), MPI.COMM_SELF)


@pytest.mark.mpi
@pytest.mark.parametrize("name", RUNS)
def test_plans_run_give_the_serial_losses_and_the_predicted_words(comm, name):
    config = RUNS[name]
    plan = plan_tiling(prepare_run(config.replaced(grid="1x1"), 1).network, comm.size, config.train.batch)
    with folder(comm) as path:
        if comm.rank == 0:
            plan.save(path / "tiling.json")
        comm.Barrier()
        planned = config.replaced(plan=str(path / "tiling.json"), grid=str(plan.grid))
        same(trained(planned, comm), serial(name), f"{name} {plan.as_dict()}")
        wrong = [row for row in audit(planned, job_of(comm)).rows if not row.equal]
    assert not wrong
