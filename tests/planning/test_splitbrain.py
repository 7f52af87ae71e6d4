"""SplitBrain: microbatches hold every sample once, give the serial numbers and the predicted words, in less memory."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import narrow
import numpy as np
import pytest
from backends import backend_name
from passes import Passes
from running import LENET, MLP, folder, job_of, same, trained
from strict import StrictBackend

from gridnn import layers as L
from gridnn.comm.grid import Grid
from gridnn.cost.count import predict
from gridnn.cost.machine import Compute, Level, Machine
from gridnn.errors import UserError
from gridnn.kernels import get_backend
from gridnn.layout.gridshape import GridShape
from gridnn.layout.partition import Even
from gridnn.network import Network
from gridnn.planning.plan import load_plan
from gridnn.planning.rules import make_plan
from gridnn.planning.splitbrain import group_grid, stack_start
from gridnn.program.microbatches import Microbatch
from gridnn.program.program import Program
from gridnn.reproduce import splitbrain as reproduced
from gridnn.reproduce.report import publish
from gridnn.train.audit import audit
from gridnn.train.config import RunConfig

SPLITBRAIN = {"strategy": "splitbrain", "epochs": 9, "clip": None, "steps": 4}
RUNS = {
    "mlp": MLP.replaced(**SPLITBRAIN),
    "lenet": LENET.replaced(**SPLITBRAIN),
    "alexnet": RunConfig.of(
        backend=backend_name(),
        model=f"{narrow.__file__}:alexnet",
        dataset="synthetic",
        shape="16x16x3",
        dtype="float64",
        samples=22,
        batch=13,  # a full batch and a short one
        steps=2,
        dropout=0.3,
        strategy="splitbrain",
    ),
}


def small(classes: int = 16) -> Network:
    net = Network((8, 8, 2))
    net.add("conv", L.Conv2d(8, 3, padding=1))
    net.add("pool", L.MaxPool2d(2))
    net.add("flatten", L.Flatten())
    net.add("fc1", L.Linear(32))
    net.add("relu", L.ReLU())
    net.add("fc2", L.Linear(classes))
    net.add("loss", L.SoftmaxCrossEntropy())
    return net


def divisors(ranks: int) -> list[int]:
    return [k for k in range(1, ranks + 1) if ranks % k == 0]


# -- integers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch", "hands", "microbatches"), [(24, 6, 3), (13, 4, 2), (13, 6, 4), (3, 4, 4), (7, 1, 3)])
def test_every_sample_is_in_one_microbatch_and_every_part_holds_what_is_contributed(batch, hands, microbatches):
    whole, seen = Even(batch, hands), []
    for microbatch in (Microbatch.of(whole, microbatches, microbatch) for microbatch in range(microbatches)):
        for parts in divisors(hands):
            partition, ends = microbatch.over(parts), []
            for part in range(parts):
                samples = [i for interval in microbatch.samples(parts, part) for i in range(*interval)]
                start, stop = partition.interval(part)
                first, last = microbatch.block(parts, part)
                assert len(samples) == stop - start and all(first <= i < last for i in samples)
                ends += [start, stop]
            assert ends == sorted(ends) and ends[0] == 0 and ends[-1] == partition.size == microbatch.size
            assert microbatch.coarsen(hands // parts) == partition
        assert [microbatch.extent(source_part) for source_part in range(hands)] == [
            stop - start for start, stop in map(microbatch.given, range(hands))
        ]
        seen += [i for interval in microbatch.samples(1, 0) for i in range(*interval)]
    assert sorted(seen) == list(range(batch))


def test_words_are_those_of_the_paper():
    """Of one round: modulo b d (K-1)/K each way, shard (K-1)/K b d_j each way; K microbatches a step.

    Averaging: 2 (N-1)/N |W_conv| + 2 (N/K - 1)/(N/K) |W_fc|/K.
    """
    ranks, group, local = 8, 4, 8
    net, grid = small(), GridShape(group, ranks // group)
    program = Program(net, make_plan("splitbrain", net, grid, ranks * local), ranks * local)
    assert {str(program.layers[i].split) for i in range(3)} == {f"n={ranks}"}
    assert {str(step.split) for step in program.layers[3:]} == {"n=2,co=4"}
    assert [program.repeats(place) for place in range(7)] == [1, 1, 1, 4, 4, 4, 4]
    d, d1 = 4 * 4 * 8, 32
    conv, fc = 3 * 3 * 2 * 8 + 8, (d * d1 + d1) + (d1 * 16 + 16)
    for index in range(ranks):
        rows = predict(program, index).rows
        words = {(key.layer, key.phase): tally.words for key, tally in rows.items() if key.layer != "loss"}
        assert (
            words.pop(("fc1", "forward")) == words.pop(("fc1", "backward")) == group * local * d * (group - 1) // group
        )
        assert (
            words.pop(("fc2", "forward")) == words.pop(("fc2", "backward")) == group * (group - 1) * local * d1 // group
        )
        groups = ranks // group
        averaging = 2 * (ranks - 1) * conv // ranks + 2 * (groups - 1) * (fc // group) // groups
        assert sum(words.values()) == averaging and {phase for _, phase in words} == {"update"}
        dimensions = {(key.layer, key.phase): key.dimension for key in rows if key.layer != "loss"}
        assert dimensions == {
            ("fc1", "forward"): "column",
            ("fc1", "backward"): "column",
            ("fc2", "forward"): "column",
            ("fc2", "backward"): "column",
            ("conv", "update"): "world",
            ("fc1", "update"): "row",
            ("fc2", "update"): "row",
        }


def test_a_round_holds_a_part_of_the_batch():
    net, grid = small(), GridShape(4, 2)
    whole, parts = Program(net, make_plan("splitbrain", net, grid, 61), 61), 0
    for piece in whole.sections[1:]:
        parts += piece.layers[0].shapes.output[0]
        assert [step.name for step in piece.layers] == ["fc1", "relu", "fc2", "loss"]
    assert parts == 61 and [step.name for step in whole.sections[0].layers] == ["conv", "pool", "flatten"]
    assert [step.name for step in whole.layers] == [node.name for node in net.nodes]


# -- refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("group", "grid", "message"),
    [
        (4, "auto", r"--group 4: 6 ranks are not a multiple of 4: mpirun -n 8 \.\.\., or --group 3"),
        (2, "3x2", r"--group 2 on 6 ranks is the grid 2 x 6/2 = 2x3, but --grid is 3x2: leave one of them out"),
        (12, "auto", r"--group 12: 6 ranks are not a multiple of 12: mpirun -n 12 \.\.\., or --group 6"),
    ],
)
def test_groups_that_do_not_fit_are_refused(group, grid, message):
    with pytest.raises(UserError, match=message):
        group_grid(group, grid, 6)


def test_group_and_grid_name_the_same_thing():
    assert group_grid(3, "auto", 6) == group_grid(None, "3x2", 6) == group_grid(3, "-1x2", 6) == GridShape(3, 2)
    with pytest.raises(UserError, match=r"--group 2 has no effect with --strategy grid: leave it out, or use --strat"):
        RunConfig.of(group=2, strategy="grid").validate()
    with pytest.raises(UserError, match=r"--group 0: must be a whole number of at least 1"):
        RunConfig.of(group=0, strategy="splitbrain").validate()


def test_networks_without_a_stack_are_refused():
    net = Network((8,))
    net.add("fc", L.Linear(4))
    with pytest.raises(UserError, match=r"here these read the samples themselves: put a Flatten\(\) before,"):
        stack_start(net)
    net = Network((8, 8, 2))
    net.add("conv", L.Conv2d(8, 3, padding=1))
    with pytest.raises(
        UserError, match=r"strategy 'splitbrain' on grid 2x2: microbatches are for fully connected layers"
    ):
        make_plan("splitbrain", net, GridShape(2, 2), 8)
    net = Network((8, 8, 2))
    net.add("global", L.GlobalAvgPool())
    net.add("fc", L.Linear(4))
    net.add("norm", L.BatchNorm())
    with pytest.raises(UserError, match=r"layer 'norm': BatchNorm takes statistics over the samples.*one microbatch"):
        make_plan("splitbrain", net, GridShape(2, 2), 8)


def test_the_stack_begins_where_all_later_layers_read_one_tensor():
    net = Network((8, 8, 4))
    net.add("global", L.GlobalAvgPool())
    net.add("fc1", L.Linear(4))
    net.add("add", L.Add(), "fc1", "global")
    net.add("fc2", L.Linear(4))
    net.add("add2", L.Add(), "fc2", "add")
    assert stack_start(net) == 1  # fc1 and "add" read the same
    net.add("late", L.Concat(), "add2", "add")
    assert stack_start(net) == 1
    net.nodes = (*net.nodes[:1], dataclasses.replace(net.nodes[1], inputs=("input",)), *net.nodes[2:])
    assert stack_start(net) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"microbatches": 0}, r'"microbatches" is 0, but must be a whole number from 1 to 4,096'),
        ({"microbatches": True}, r'"microbatches" is True, but'),
        ({"microbatches": "2"}, r"\"microbatches\" is '2', but"),
    ],
)
def test_wrong_rounds_in_a_plan_file_are_refused(tmp_path, content, message):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({"version": 1, "splits": {}, **content}))
    with pytest.raises(UserError, match=message):
        load_plan(path, small(), GridShape(2, 2), 24)


def test_a_plan_keeps_its_rounds_and_one_that_divides_samples_further_in_the_stack_is_refused(tmp_path):
    path, net, grid = tmp_path / "plan.json", small(), GridShape(2, 2)
    plan = make_plan("splitbrain", net, grid, 24)
    plan.save(path)
    assert load_plan(path, net, grid, 24).as_dict() == plan.as_dict() and plan.microbatches == 2
    path.write_text(json.dumps({"version": 1, "microbatches": 2, "splits": {"conv": "n=2,h=2", "fc1": "n=4"}}))
    with pytest.raises(
        UserError, match=r"layer 'fc1': 2 microbatches: n is divided into 4 parts, but into 2 where the"
    ):
        Program(net, load_plan(path, net, grid, 24), 24)


# -- runs ----------------------------------------------------------------------------------------------------


@pytest.mark.mpi
@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", RUNS)
def test_curve_is_that_of_the_serial_run_and_words_are_predicted(comm, name):
    """Every group size K that divides P; samples, targets and dropout masks come in microbatches."""
    from mpi4py import MPI

    reference = trained(RUNS[name].replaced(strategy="batch"), MPI.COMM_SELF)
    for group in divisors(comm.size)[1:] or [1]:
        config = RUNS[name].replaced(group=group)
        same(trained(config, comm), reference, f"{name} K={group}")
        assert_audited(config.replaced(steps=2), comm)


def assert_audited(config, comm):
    result = audit(config, job_of(comm))
    wrong = [row for row in result.rows if not row.equal]
    assert not wrong and (comm.size == 1 or result.rows), wrong


VARIANTS = {
    "accumulated": {"accumulate": 2},
    "recomputed": {"recompute": True},
    "replicas": {"replicas": True, "classes": 3, "grid": "-1x1"},
    "paper's backward": {"gather_backward": "all-reduce"},
    "rows contiguous": {"order": "row"},
}


@pytest.mark.mpi
@pytest.mark.parametrize("variant", VARIANTS)
def test_rounds_compose(comm, variant):
    from mpi4py import MPI

    config = RUNS["lenet"].replaced(steps=3, **VARIANTS[variant])
    plain = config.replaced(strategy="batch", replicas=False, grid="1x1", recompute=False)
    group = {} if "grid" in VARIANTS[variant] else {"group": max(k for k in (1, 2, 3) if comm.size % k == 0)}
    config = config.replaced(**group)
    same(trained(config, comm), trained(plain, MPI.COMM_SELF), variant)
    assert_audited(config, comm)


@pytest.mark.mpi
def test_a_checkpoint_of_a_run_in_rounds_goes_on_without_them(comm):
    from mpi4py import MPI

    config = RUNS["mlp"].replaced(group=comm.size, keep=9)
    reference = trained(config.replaced(strategy="batch", group=None), MPI.COMM_SELF)
    with folder(comm) as path:
        config = config.replaced(checkpoint=str(path))
        first = trained(config.replaced(steps=2), comm)
        second = trained(config.replaced(strategy="batch", group=None, resume=True), comm)
    same(first.join(second), reference)


@pytest.mark.mpi
def test_rounds_leave_everything_on_the_device(comm, monkeypatch):
    config = RUNS["mlp"].replaced(backend="numpy", group=comm.size, kernels="reference", steps=2)
    plain = trained(config, comm)
    monkeypatch.setattr("gridnn.train.session.get_backend", lambda *names, **options: StrictBackend())
    assert trained(config, comm).losses == plain.losses


# Of any plan: more microbatches than ranks, divided samples and space before the stack, ci, replicas and n=2 in it.
PLANS = {
    1: (5, {}),
    2: (3, {"conv1": "h=2", "fc1": "ci=2"}),
    3: (2, {"conv1": "n=3", "fc1": "co=3", "fc2": "n=3"}),
    4: (3, {"conv1": "n=2,h=2", "fc1": "n=2,ci=2", "fc2": "co=4", "fc3": "n=2"}),
    6: (4, {"conv1": "n=6", "fc1": "n=3,co=2", "fc2": "co=2,n=3", "fc3": "n=2,ci=3"}),
}


@pytest.mark.mpi
def test_other_plans_run_in_rounds_too(comm):
    from mpi4py import MPI

    if comm.size not in PLANS:
        pytest.skip("on 1, 2, 3, 4 and 6 ranks")
    microbatches, splits = PLANS[comm.size]
    config = RUNS["lenet"].replaced(strategy="grid", grid="1x-1", steps=3)
    reference = trained(config.replaced(strategy="batch"), MPI.COMM_SELF)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "plan.json"
        path.write_text(json.dumps({"version": 1, "microbatches": microbatches, "splits": splits}))
        config = config.replaced(plan=str(path))
        same(trained(config, comm), reference)
        assert_audited(config, comm)


class Runs(Passes):
    """A network on the ranks with one fixed batch, as one group."""

    def __init__(self, comm, network: Network, batch: int, **changes):
        grid = Grid(comm, comm.size, 1, backend=get_backend("numpy"))
        plan = dataclasses.replace(make_plan("splitbrain", network, grid.shape, batch), **changes)
        super().__init__(Program(network, plan, batch), grid, "float64", 5)
        rng = np.random.default_rng(1)
        self.x, self.labels = rng.normal(size=(batch, *network.shapes["input"])), rng.integers(0, 8, batch)

    def again(self, number: int) -> np.ndarray:
        return self.step(self.x, self.labels, step=number)

    def first_non_finite(self) -> str | None:
        return self.run.first_non_finite(self.fill(self.x, self.labels))


@pytest.mark.mpi
def test_the_stack_works_in_the_memory_of_one_batch(comm):
    """The activations of the fully connected layers are those of a K-th of the group's samples; the same gradients."""
    if comm.size == 1:
        pytest.skip("needs a group")
    net = Network((2, 2, 8))
    net.add("flatten", L.Flatten())
    for i in range(4):
        net.add(f"fc{i}", L.Linear(192))
        net.add(f"drop{i}", L.Dropout(0.2))
    net.add("fc4", L.Linear(8))
    net.add("loss", L.SoftmaxCrossEntropy())
    at_once, microbatches = (Runs(comm, net, 384 * comm.size, microbatches=k) for k in (1, comm.size))
    for number in range(2):
        np.testing.assert_allclose(at_once.again(number), microbatches.again(number), rtol=1e-12)
        np.testing.assert_allclose(
            at_once.parameters.gradients, microbatches.parameters.gradients, rtol=1e-10, atol=1e-12
        )
    sizes = [runs.memory.size for runs in (microbatches, at_once)]
    assert sizes[0] < sizes[1] * (1 / comm.size + 0.12), sizes


@pytest.mark.mpi
def test_a_stack_that_is_not_finite_is_named(comm):
    runs = Runs(comm, small(), 4 * comm.size)
    runs.again(1)
    assert runs.first_non_finite() is None
    for entry in runs.parameters.entries:
        if entry.key == "fc2.weight":
            runs.parameters.value(entry)[...] = np.nan
    runs.again(2)
    assert runs.first_non_finite() == "fc2"
    for entry in runs.parameters.entries:
        if entry.key == "conv.bias":
            runs.parameters.value(entry)[...] = np.inf
    with np.errstate(invalid="ignore"):
        runs.again(3)
        assert runs.first_non_finite() == "conv"


# -- the experiments ----------------------------------------------------------------------------------------------


def test_what_the_abstract_claims():
    made = reproduced.EXPERIMENTS["memory"]()
    found = {(row["network"], row["K"]): row for row in made.rows}
    assert found["VGG-16, 224 x 224", 4]["saved_parameters"] == pytest.approx(0.670, abs=5e-4)
    assert found["VGG-16, 224 x 224", 4]["fully_connected"] == 123_642_856
    for row in made.rows:
        assert row["saved_held"] == pytest.approx(row["saved_parameters"], abs=2e-4)  # uneven parts
        assert row["stack_at_once"] == row["K"] * row["stack_in_rounds"]
        if row["K"] >= 16:  # in smaller groups the gradients that are to be added take more than the microbatches save
            assert row["step_bytes_in_rounds"] < row["step_bytes_at_once"]
    assert [claim.holds for claim in made.claims] == [True, True, False, True]


def test_throughput_is_nearly_linear_where_links_are_fast_only():
    """The closed form of the words is what the program moves; slow links spoil it."""
    compute = Compute({"gemm": ((1e6, 5e10),), "conv": ((1e6, 5e10),)}, 1e10)
    fast, slow = (Machine(f"{beta}", (Level("network", None, 1e-6, beta),), compute) for beta in (2e-10, 1e-7))
    made = reproduced.scaling(fast, slow)
    for row in made.rows:
        assert row["words"] == pytest.approx(row["words_closed"], rel=2e-3)
    assert [claim.holds for claim in made.claims] == [True] * 3 + [False] * 3 + [True]


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="pictures need matplotlib")
def test_the_picture_is_drawn(tmp_path):
    files = publish(reproduced.memory(), tmp_path)
    assert files[2].endswith("splitbrain-memory.png") and Path(files[2]).stat().st_size > 30_000
