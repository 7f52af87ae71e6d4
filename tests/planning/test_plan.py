"""Splits, plans and strategies, as integers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from launch import HELPERS, ROOT

from gridnn import layers as L
from gridnn.cost.count import predict
from gridnn.errors import UserError
from gridnn.layout.gridshape import GridShape
from gridnn.layout.split import Split
from gridnn.network import Network
from gridnn.planning.plan import load_plan, read_plan
from gridnn.planning.rules import RULES, make_plan
from gridnn.program.program import Program
from gridnn.train.resume import changed_options


def small(height: int = 16) -> Network:
    net = Network((height, 12, 3))
    net.add("conv1", L.Conv2d(8, 3, padding=1))
    net.add("relu1", L.ReLU())
    net.add("pool1", L.MaxPool2d(2))
    net.add("conv2", L.Conv2d(8, 3, padding=1))
    net.add("flatten", L.Flatten())
    net.add("fc1", L.Linear(20))
    net.add("relu2", L.ReLU())
    net.add("fc2", L.Linear(10))
    net.add("loss", L.SoftmaxCrossEntropy())
    return net


def splits(strategy, grid, batch=24, **options):
    plan = make_plan(strategy, small(), grid, batch, **options)
    return {name: str(split) for name, split in plan.splits.items()}


def test_strategies_divide_what_they_say():
    grid = GridShape(2, 3)
    assert set(splits("batch", grid).values()) == {"n=6"}
    assert splits("model", grid)["conv1"] == "co=6"
    assert splits("model", grid)["flatten"] == "replicas=6"
    assert splits("grid", grid) | {"flatten": ""} == dict.fromkeys(splits("grid", grid), "n=3,co=2") | {"flatten": ""}
    domain = splits("domain", grid)
    assert [domain[name] for name in ("conv1", "pool1", "flatten", "fc1", "loss")] == ["n=3,h=2"] * 3 + ["n=3,co=2"] * 2
    assert splits("domain", GridShape(4, 1), domain=(2, 2))["conv1"] == "h=2,w=2"
    assert splits("integrated", grid)["conv2"] == "n=6" and splits("integrated", grid)["fc2"] == "n=3,co=2"
    assert splits("integrated", grid, batch=5)["conv2"] == "n=3,h=2"


def test_every_rule_gives_a_program_on_every_grid():
    for strategy in RULES:
        for rows, cols in ((1, 1), (1, 4), (4, 1), (2, 2), (2, 3), (3, 2)):
            net = small()
            plan = make_plan(strategy, net, GridShape(rows, cols), 24)
            program = Program(net, plan, 24)
            assert [step.split.ranks for step in program.layers] == [rows * cols] * len(net.nodes)


def test_words_of_the_1_5d_algorithm_are_those_of_the_paper():
    """Gholami et al. eq (8) with the reduce-scatter: per FC layer 2 B/Pc (Pr-1)/Pr d and 2 (Pc-1)/Pc |W|/Pr a rank."""
    rows, cols, batch, widths = 4, 8, 64, (128, 64, 32)
    net = Network((256,))
    for i, width in enumerate(widths):
        net.add(f"fc{i}", L.Linear(width, bias=False))
    net.add("loss", L.SoftmaxCrossEntropy())
    expected = {
        "reduce-scatter": 2,
        "all-reduce": 3,
    }
    for gather, factor in expected.items():
        plan = make_plan("grid", net, GridShape(rows, cols), batch, gather_backward=gather)
        ledger = predict(Program(net, plan, batch), 0)
        moved = {}
        for key, tally in ledger.rows.items():
            if key.layer.startswith("fc"):
                moved[key.dimension] = moved.get(key.dimension, 0) + tally.words
        gathered = widths[:-1]  # the output of the last layer is not gathered: the loss divides the classes
        assert moved["column"] == factor * sum(batch * d * (rows - 1) // (cols * rows) for d in gathered)
        weights = 256 * 128 + 128 * 64 + 64 * 32
        assert moved["row"] == 2 * weights * (cols - 1) // (cols * rows)


@pytest.mark.parametrize(
    ("strategy", "grid", "batch", "options", "message"),
    [
        ("modle", (2, 2), 24, {}, r"did you mean model"),
        (
            "batch",
            (2, 3),
            5,
            {},
            r"divides n into 6 parts, but there are 5 samples in the batch: use --batch 6 or more \(times",
        ),
        ("grid", (11, 1), 24, {}, r"layer 'conv1': split co=11 divides co into 11 parts, but there are 8 out-channels"),
        ("domain", (9, 1), 24, {}, r"layer 'pool1': split h=9 divides h into 9 parts, but there are 8 places along h"),
        ("domain", (4, 1), 24, {"domain": (3, 1)}, r"3 x 1 = 3 parts, but the columns of grid 4x1 have 4 ranks"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(strategy, grid, batch, options, message):
    with pytest.raises(UserError, match=message):
        make_plan(strategy, small(), GridShape(*grid), batch, **options)


def test_replicas_stand_in_where_a_layer_is_too_small():
    net, grid = small(), GridShape(12, 2)
    with pytest.raises(UserError, match=r"there are 8 out-channels.*or --replicas"):
        make_plan("grid", net, grid, 24)
    splits = make_plan("grid", net, grid, 24, replicas=True).splits
    assert {name: str(splits[name]) for name in ("conv1", "relu1", "fc1", "fc2", "loss")} == {
        "conv1": "n=2,co=6,replicas=2",
        "relu1": "n=2,co=6,replicas=2",
        "fc1": "n=2,co=12",
        "fc2": "n=2,co=6,replicas=2",
        "loss": "n=2,co=6,replicas=2",
    }
    assert str(make_plan("domain", net, GridShape(9, 1), 24, replicas=True).splits["pool1"]) == "h=3,replicas=3"
    assert str(make_plan("batch", net, GridShape(1, 6), 4, replicas=True).splits["conv1"]) == "n=3,replicas=2"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n=4;co=2", "cannot read"),
        ("n", "write axis=parts"),
        ("M=2", "'M' is no name of an axis"),
        ("n=0", "at least one part"),
    ],
)
def test_wrong_splits_are_refused(text, message):
    with pytest.raises(UserError, match=message):
        Split.parse(text)


def test_a_split_reads_what_it_writes():
    for text in ("n=4,co=2", "h=2,w=3,n=2", "1"):
        assert str(Split.parse(text)) == text
    assert str(Split.parse("n=2").over(6)) == "n=2,replicas=3"
    with pytest.raises(UserError, match=r"n=4 has 4 parts, which do not divide 6 ranks"):
        Split.parse("n=4").over(6)


def test_names_of_older_plans_and_checkpoints_are_read(tmp_path):
    assert Split.parse("n=2,copies=3") == Split.parse("n=2,replicas=3")
    (tmp_path / "old.json").write_text('{"version": 1, "rounds": 2, "splits": {}}')
    assert read_plan(tmp_path / "old.json")["microbatches"] == 2
    was, now = {"grid": "2x1", "copies": True}, {"grid": "2x1", "replicas": True}
    assert changed_options("step-00000003.safetensors", was, now) == []


def test_a_plan_file_reads_what_it_writes(tmp_path):
    net, grid = small(), GridShape(2, 2)
    plan = make_plan("domain", net, grid, 24, gather_backward="all-reduce")
    plan.save(tmp_path / "plan.json")
    again = load_plan(tmp_path / "plan.json", net, grid, 24, gather_backward="reduce-scatter")
    assert again.as_dict() == plan.as_dict()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "plan.json: no JSON"),
        ("[]", "expected an object at the top, found list"),
        ({"version": 9, "splits": {}}, "version 9, but this gridnn reads version 1"),
        ({"version": 1, "splits": {"conv3": "n=2"}}, "unknown layer 'conv3': did you mean conv"),
        ({"version": 1, "splits": {"fc1": "h=2"}}, "a Linear layer has no axis h; it can divide n, co, ci"),
        ({"version": 1, "splits": {"fc1": "n=3"}}, "do not divide 4 ranks"),
        ({"version": 1, "splits": {"fc1": 2}}, "\"splits\" has 2 for 'fc1'"),
        ({"version": 1, "grid": "4x1", "splits": {}}, "is for grid '4x1', this run has 2x2"),
        ({"version": 1, "gather-backward": "all-reduce", "splits": {}}, "unknown key 'gather-backward': did you mean"),
        ({"version": True, "splits": {}}, "version True"),
        ({"version": 1, "gather_backward": "none", "splits": {}}, "is not one of reduce-scatter, all-reduce"),
    ],
)
def test_wrong_plan_files_are_refused(tmp_path, content, message):
    path = tmp_path / "plan.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(UserError, match=message):
        load_plan(path, small(), GridShape(2, 2), 24, gather_backward="reduce-scatter")


def test_a_plan_file_and_the_command_line_do_not_contradict_each_other(tmp_path):
    path, net, grid = tmp_path / "plan.json", small(), GridShape(2, 2)
    path.write_text(json.dumps({"version": 1, "gather_backward": "reduce-scatter", "splits": {}}))
    with pytest.raises(UserError, match="says gather_backward reduce-scatter, but --gather-backward all-reduce"):
        load_plan(path, net, grid, 24, gather_backward="all-reduce")
    path.write_bytes(b"\xff\xfe{}")
    with pytest.raises(UserError, match=r"plan.json: no JSON .*utf-8"):
        load_plan(path, net, grid, 24, gather_backward="reduce-scatter")


def test_a_missing_plan_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere.json: No such file"):
        load_plan(tmp_path / "nowhere.json", small(), GridShape(2, 2), 24, gather_backward="reduce-scatter")


def test_layers_between_follow_their_inputs():
    net, grid = small(), GridShape(2, 2)
    program = Program(net, make_plan("grid", net, grid, 24), 24)
    kinds = {step.name: [s.kind for e in step.edges for s in e.transfer.stages] for step in program.layers}
    assert kinds["relu1"] == kinds["pool1"] == kinds["relu2"] == kinds["loss"] == []
    assert kinds["conv2"] == kinds["fc2"] == ["all-gather"]


def test_column_then_row_needs_one_sum():
    """FC divided by co, then by ci: nothing moves between them, partial sums leave the second one."""
    net = Network((32,))
    net.add("fc1", L.Linear(16))
    net.add("relu", L.ReLU())
    net.add("fc2", L.Linear(16))
    net.add("tanh", L.Tanh())
    grid = GridShape(4, 1)
    plan = make_plan("model", net, grid, 8)
    plan.splits.update(fc2=Split.of(ci=4), tanh=Split.of(co=4))
    kinds = [[s.kind for e in step.edges for s in e.transfer.stages] for step in Program(net, plan, 8).layers]
    assert kinds == [[], [], [], ["reduce-scatter"]]


def test_an_output_that_nobody_reads_is_refused():
    net = small()
    net.add("lost", L.ReLU(), "conv1")
    net.add("end", L.ReLU(), "loss")
    plan = make_plan("batch", net, GridShape(1, 2), 24)
    with pytest.raises(UserError, match="layer 'lost': no layer reads its output"):
        Program(net, plan, 24)


def test_planning_needs_no_mpi_and_65536_ranks_no_tables():
    code = """
import sys
from test_plan import small
from gridnn.cost.count import predict
from gridnn.layout.gridshape import GridShape
from gridnn.planning.rules import make_plan
from gridnn.program.program import Program
net = small()
program = Program(net, make_plan("batch", net, GridShape(256, 256), 65536), 65536)
assert predict(program, 12345).integers()
assert "mpi4py" not in sys.modules and "numpy" not in sys.modules
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
assert int(peak.split()[1]) < 200_000, peak  # KiB
"""
    here = Path(__file__).parent
    subprocess.run([sys.executable, "-c", code], check=True, cwd=here, env={"PYTHONPATH": f"{ROOT}:{HELPERS}"})


def test_channel_and_filter_parallelism_moves_the_smaller_side_of_every_layer():
    """A bottleneck: 2 |y| words for the layer that reduces (ci), 2 |x| for the one that widens (co)."""
    net, ranks, batch = Network((8, 8, 4)), 4, 6
    for name, channels in {"stem": 64, "reduce": 16, "same": 16, "widen": 64, "last": 16}.items():
        net.add(name, L.Conv2d(channels, 1, bias=False))
    splits = {}
    words = {}
    for strategy in ("grid", "channel"):
        plan = make_plan(strategy, net, GridShape(ranks, 1), batch)
        splits[strategy] = {name: str(split) for name, split in plan.splits.items()}
        words[strategy] = predict(Program(net, plan, batch), 0).words_by_dimension()["column"]
    assert splits["channel"] == {"stem": "co=4", "reduce": "ci=4", "same": "co=4", "widen": "co=4", "last": "ci=4"}
    unit = batch * 64 * (ranks - 1) // ranks  # words of one channel
    assert words["grid"] == 2 * unit * (64 + 16 + 16 + 64)
    # stem -> reduce moves nothing; reduce leaves partial sums of 16 channels, which "same" wants whole: all-reduce
    assert words["channel"] == unit * (2 * 2 * 16 + 2 * 16 + 0)


def test_a_domain_finer_than_the_image_names_the_smallest_layer_and_the_largest_split():
    """Not the first layer that is too small: what it allows would be refused again by a later one."""
    net = Network((32, 32, 3))
    for i in range(1, 5):
        net.add(f"conv{i}", L.Conv2d(8, 3, padding=1))
        net.add(f"pool{i}", L.MaxPool2d(2))
    with pytest.raises(UserError, match=r"layer 'pool4': split h=12 divides h into 12 parts, but there are 2 places"):
        make_plan("domain", net, GridShape(12, 1), 4)
    with pytest.raises(
        UserError, match=r"use at most 2 parts of h \(another --grid or --strategy, or --plan\), or --replicas"
    ):
        make_plan("domain", net, GridShape(12, 1), 4)
    assert str(make_plan("domain", net, GridShape(2, 1), 4).splits["pool4"]) == "h=2"
    volumes = Network((16, 16, 16, 1))
    volumes.add("conv", L.Conv3d(4, 3, padding=1))
    splits = make_plan("domain", volumes, GridShape(8, 1), 1, domain=(2, 2, 2)).splits
    assert str(splits["conv"]) == "d=2,h=2,w=2"
    with pytest.raises(
        UserError, match=r"--domain 2x2x2 has 3 factors, but the samples have 2 dimensions of space \(h, w\)"
    ):
        make_plan("domain", net, GridShape(8, 1), 4, domain=(2, 2, 2))


def test_a_domain_that_is_too_fine_is_told_before_other_mistakes():
    net = Network((32, 8, 3))
    net.add("conv", L.Conv2d(16, 3, stride=2, padding=1))
    net.add("global", L.GlobalAvgPool())
    net.add("fc", L.Linear(10))
    with pytest.raises(UserError, match=r"layer 'conv': split h=2,w=8 divides w into 8 parts, but there are 4 places"):
        make_plan("domain", net, GridShape(16, 1), 4, domain=(2, 8))


def test_a_domain_without_space_is_refused():
    net = Network((16,))
    net.add("fc", L.Linear(10))
    with pytest.raises(UserError, match=r"--domain 1x2: no layer of this network has space to divide; leave it out"):
        make_plan("domain", net, GridShape(2, 1), 4, domain=(1, 2))
