"""Machines: what they cost, the levels of groups, and their files."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from launch import ROOT

from gridnn.cost.machine import MOVEMENTS, Compute, GroupLevel, Level, Machine, Range
from gridnn.cost.machines import content_of, fingerprint, load_machine, machine_of, save_machine, shipped, text_of
from gridnn.cost.price import price
from gridnn.errors import UserError
from gridnn.layers import SoftmaxCrossEntropy
from gridnn.layout.gridshape import GridShape
from gridnn.layout.group import Group
from gridnn.models import MODELS
from gridnn.planning.rules import make_plan
from gridnn.program.program import Program

NAMES = ("cori-knl", "frontier", "generic-cpu", "p100-cluster", "p2.8xlarge", "perlmutter-a100")
COMPUTE = Compute({"gemm": ((1e6, 1e9), (1e8, 3e9)), "conv": ((1e6, 2e9),)}, 1e10, 1e-6)
RANGES = (Range(0, 1e-6, 1e-9), Range(4096, 3e-6, 8e-10))
NODE, NETWORK = Level("node", 4, 1e-6, 1e-9), Level("network", None, 5e-6, 1e-8, 2, {"all-reduce": RANGES})
MACHINE = Machine("hand", (NODE, NETWORK), COMPUTE, 1e9, ("compute.rates.gemm",), {"compute.rates.gemm": "a guess"})


# -- costs ------------------------------------------------------------------------------------------------------


def test_seconds_by_hand():
    assert NETWORK.seconds("all-to-all", 1000, 3, 2) == pytest.approx(3 * 5e-6 + 2 * 1000 * 1e-8)
    assert NETWORK.seconds("all-reduce", 8000, 2) == pytest.approx(2 * 1e-6 + 8000 * 1e-9)  # 4000 bytes a message
    assert NETWORK.seconds("all-reduce", 8000, 2, 2) == pytest.approx(2 * 3e-6 + 2 * 8000 * 8e-10)  # 8000 on the link
    assert MACHINE.seconds("all-reduce", 8000, 2, GroupLevel(1, 2.0)) == NETWORK.seconds("all-reduce", 8000, 2, 2.0)
    assert MACHINE.seconds("all-reduce", 8000, 2, GroupLevel(0, 1.0)) == pytest.approx(2e-6 + 8e-6)


def test_compute_by_hand():
    assert COMPUTE.rate("gemm", 1e5) == 1e9 and COMPUTE.rate("gemm", 1e9) == 3e9
    assert COMPUTE.rate("gemm", 1e7) == pytest.approx(2e9)
    assert COMPUTE.seconds("gemm", 1e8, 10) == pytest.approx(1e-6 + 1e8 / 3e9)
    assert COMPUTE.seconds("conv", 2e3, 1e6) == pytest.approx(1e-6 + 1e-4)  # its bytes take longer
    assert COMPUTE.seconds("memory", 0, 1e6) == pytest.approx(1e-6 + 1e-4)
    assert COMPUTE.seconds("gemm", 0, 0) == 0


def test_a_scaled_machine():
    twice = MACHINE.scaled(alpha=2, beta=3, compute=4)
    assert twice.seconds("all-reduce", 8000, 2, GroupLevel(1, 1.0)) == pytest.approx(2 * 2e-6 + 8000 * 3e-9)
    assert twice.compute.seconds("gemm", 1e8, 10) == pytest.approx(COMPUTE.seconds("gemm", 1e8, 10) / 4)


LOADED = (Level("node", 4, 1e-6, 1e-9), Level("network", None, 5e-6, 4e-9, 4))  # one adapter a node
PAIRED = (Level("card", 2, 1e-6, 1e-9), Level("node", 8, 1e-6, 2e-9), Level("network", None, 5e-6, 4e-9, 2))


@pytest.mark.parametrize(
    ("levels", "shape", "group", "expected"),
    [
        # 4 ranks a node, one adapter: a column of 4 is a node, a row of 2 nodes is one of 4 that share an adapter
        (LOADED, GridShape(4, 2), Group(0, ((4, 1),)), GroupLevel(0, 1.0)),
        (LOADED, GridShape(4, 2), Group(1, ((2, 4),)), GroupLevel(1, 4.0)),
        (LOADED, GridShape(2, 4), Group(0, ((2, 1),)), GroupLevel(0, 1.0)),
        (
            LOADED,
            GridShape(2, 4),
            Group(0, ((4, 2),)),
            GroupLevel(1, 2.0),
        ),  # two rows cross, two of each in a node
        (LOADED, GridShape(8, 1), Group(0, ((8, 1),)), GroupLevel(1, 1.0)),  # all ranks: one group
        # the other order: rank (r, c) is r Pc + c, so rows are neighbours
        (LOADED, GridShape(4, 2, "row"), Group(0, ((2, 4),)), GroupLevel(0, 1.0)),
        (LOADED, GridShape(4, 2, "row"), Group(0, ((4, 1),)), GroupLevel(1, 2.0)),
        (LOADED, GridShape(2, 4, "row"), Group(0, ((4, 2),)), GroupLevel(0, 1.0)),
        (LOADED, GridShape(2, 4, "row"), Group(0, ((2, 1),)), GroupLevel(1, 4.0)),
        # two ranks a card, four cards and adapters a node
        (PAIRED, GridShape(2, 16), Group(0, ((2, 1),)), GroupLevel(0, 1.0)),
        (PAIRED, GridShape(8, 4), Group(0, ((8, 1),)), GroupLevel(1, 1.0)),
        (PAIRED, GridShape(8, 4), Group(3, ((4, 8),)), GroupLevel(2, 2.0)),  # 8 rows over 4 adapters
        (PAIRED, GridShape(2, 16), Group(0, ((16, 2),)), GroupLevel(2, 1.0)),
        # pairs of neighbours
        (LOADED, GridShape(8, 1), (0, 1), GroupLevel(0, 1.0)),
        (LOADED, GridShape(2, 4, "row"), (0, 1), GroupLevel(1, 4.0)),
    ],
)
def test_levels_and_contention_by_hand(levels, shape, group, expected):
    assert Machine("m", levels, COMPUTE).level_of(group, shape) == expected


def test_one_rank_a_node_has_a_link_of_its_own():
    machine = load_machine("cori-knl")
    assert machine.level_of(Group(0, ((512, 8),)), GridShape(8, 512)) == GroupLevel(0, 1.0)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(NAMES),
    st.sampled_from(MOVEMENTS),
    st.lists(st.integers(0, 2**32), min_size=2, max_size=6),
    st.integers(1, 40),
    st.floats(1, 64),
)
def test_seconds_grow_with_size_messages_and_load(name, kind, sizes, messages, load):
    for level in load_machine(name).levels:
        for low, high in pairwise(sorted(sizes)):
            taken = level.seconds(kind, low, messages, load)
            slack = 1 - 1e-9
            assert 0 <= slack * taken <= level.seconds(kind, high, messages, load)
            assert slack * taken <= level.seconds(kind, low, messages, 2 * load)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(NAMES), st.sampled_from(("gemm", "conv")), st.floats(1, 1e13), st.floats(1, 100))
def test_more_work_takes_more_time(name, kind, flops, factor):
    compute = load_machine(name).compute
    assert 0 < compute.seconds(kind, flops, 0) <= compute.seconds(kind, factor * flops, 0) * (1 + 1e-9)
    assert compute.seconds(kind, flops, 1e6) <= compute.seconds(kind, flops, factor * 1e6)


# -- shipped ----------------------------------------------------------------------------------------------------


def test_the_shipped_machines():
    assert tuple(shipped()) == NAMES
    for name in NAMES:
        machine = load_machine(name)
        assert machine.name == name and machine.memory
        assert machine.levels[-1].ranks is None
        assert all(any(path.startswith(known) for known in machine.provenance) for path in machine.estimates)
        assert machine.estimated() == (f"estimates: {', '.join(machine.estimates)}" if machine.estimates else "")


def compute_seconds(name: str, model: str, batch: int) -> float:
    known = MODELS[model]
    network = known.build(known.input_shape, known.outputs)
    network.add("loss", SoftmaxCrossEntropy())
    plan = make_plan("batch", network, GridShape(1, 1), batch)
    return price([Program(network, plan, batch)], load_machine(name)).seconds


@pytest.mark.parametrize(("batch", "epoch"), [(1, 35000), (4, 11450), (16, 4590), (64, 2780), (256, 2240)])
def test_alexnet_on_one_knl_takes_as_long_as_in_the_bars(batch, epoch):
    """Gholami et al. 2018, Figs 6 to 10: seconds per epoch of 1.2 M images by the local batch."""
    assert compute_seconds("cori-knl", "alexnet", batch) * 1.2e6 / batch == pytest.approx(epoch, rel=0.08)


@pytest.mark.parametrize(("model", "images"), [("vgg16", 184), ("inception-v3", 157)])
def test_one_p100_is_as_fast_as_in_the_paper(model, images):
    """Jia et al. 2018: images a second with 32 on a GPU."""
    assert 32 / compute_seconds("p100-cluster", model, 32) == pytest.approx(images, rel=0.08)


# -- files ------------------------------------------------------------------------------------------------------


def test_a_round_trip_is_exact(tmp_path):
    odd = replace(MACHINE, levels=(NODE, replace(NETWORK, alpha=1 / 3, beta=math.pi * 1e-10)), name="päth [ 1,\t2 ]")
    odd = replace(odd, provenance={"points": {"rows": [["a [ b", 1, 0.1], []]}, "text": "x,\n [1,\n 2]"})
    save_machine(odd, tmp_path / "odd.json")
    assert load_machine(tmp_path / "odd.json") == odd
    for name in NAMES:
        machine = load_machine(name)
        assert machine_of(json.loads(text_of(machine)), "again") == machine


def test_the_example_of_the_documentation(tmp_path):
    page = (ROOT / "docs" / "machines.md").read_text()
    (tmp_path / "example.json").write_text(re.search(r"```json\n(.*?)```", page, re.DOTALL)[1])
    machine = load_machine(tmp_path / "example.json")
    assert machine.estimated() == "estimates: levels.network.alpha"
    assert machine.levels[1].movements["all-reduce"] == (Range(0, 5e-6, 4e-11), Range(16384, 2e-5, 2e-11))


def test_a_fingerprint_is_that_of_the_constants():
    assert fingerprint(MACHINE) == fingerprint(
        replace(MACHINE, name="other", estimates=(), provenance={"date": "today"})
    )
    assert fingerprint(MACHINE) == fingerprint(machine_of(json.loads(text_of(MACHINE)), "again"))
    others = [
        replace(MACHINE, memory=2e9),
        MACHINE.scaled(beta=2),
        replace(MACHINE, levels=(NODE, replace(NETWORK, shared=1))),
    ]
    assert len({fingerprint(one) for one in (MACHINE, *others)}) == 4


def broken(path: str, value) -> dict:
    """The file of MACHINE with another value at a path; ``...`` takes it out."""
    content = json.loads(text_of(MACHINE))
    *parents, last = (int(key) if key.isdigit() else key for key in path.split("/"))
    target = content
    for key in parents:
        target = target[key]
    if value is ...:
        del target[last]
    else:
        target[last] = value
    return content


BAD = [
    ("version", 2, "version = 2: this gridnn reads version 1"),
    ("version", ..., "version is missing"),
    ("name", "", 'name = '),
    ("levels", [], "levels = []: a list of at least one entry"),
    ("levels/1/alpha", ..., "levels.network.alpha is missing"),
    ("levels/1/alpha", -1e-6, "levels.network.alpha = -1e-06: a finite number of at least 0"),
    ("levels/0/beta", math.nan, "no JSON (NaN is no number of JSON)"),
    ("levels/0/beta", "fast", "levels.node.beta = fast: a finite number"),
    ("levels/0/beta", True, "levels.node.beta = true: a finite number"),
    ("levels/0/ranks", None, "levels.node.ranks = null"),
    ("levels/1/ranks", 8, "levels.network.ranks = 8: null for the outermost level"),
    ("levels/0/ranks", 0, "levels.node.ranks = 0: a whole number of at least 1"),
    ("levels/0/ranks", 2.5, "levels.node.ranks = 2.5: a whole number"),
    ("levels/1/shared", 8, "levels.network.shared = 8: at most the 4 ranks of the level below"),
    ("levels/1/name", "node", "levels = node, node: a name of its own"),
    ("levels/1/betta", 1, "levels.network.betta: unknown constant 'betta': did you mean beta?"),
    ("levels/1/movements/all-gathr", [], "did you mean all-gather?"),
    ("levels/1/movements/all-reduce", [], "levels.network.movements.all-reduce = []: a list"),
    ("levels/1/movements/all-reduce/0", [0, 1], "levels.network.movements.all-reduce.0 = [0, 1]: a list of 3 numbers"),
    ("levels/1/movements/all-reduce/0/2", -1, "levels.network.movements.all-reduce.0.2 = -1: a finite number"),
    ("levels/1/movements/all-reduce/0/0", 8, "whose starts ascend from 0"),
    ("levels/1/movements/all-reduce/1/1", 0, "the seconds fall from"),
    ("compute/rates/conv", ..., "compute.rates.conv is missing"),
    ("compute/rates/gemm", [[1e6, 0]], "compute.rates.gemm.0.1 = 0: a finite number larger than 0"),
    ("compute/rates/gemm", [[2e6, 1], [1e6, 1]], "whose flops ascend"),
    ("compute/rates/gemm", [[1e6, 1e9], [2e6, 9e9]], "more work would take less time"),
    ("compute/memory", 0, "compute.memory = 0: a finite number larger than 0"),
    ("compute/overhead", -1, "compute.overhead = -1: a finite number of at least 0"),
    ("memory", -5, "memory = -5: a finite number larger than 0"),
    ("estimates", ["levels.netwrk.alpha"], "did you mean levels.network.alpha?"),
    ("estimates", "alpha", "estimates = alpha: a list of texts"),
    ("provenance", "me", "provenance = me: an object"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "text"), BAD, ids=[f"{path}={value}" for path, value, _ in BAD])
def test_a_bad_constant_is_refused_by_name(tmp_path, path, value, text):
    file = tmp_path / "bad.json"
    file.write_text(json.dumps(broken(path, value)))
    with pytest.raises(UserError) as refused:
        load_machine(file)
    assert text in str(refused.value) and "bad.json" in str(refused.value)


@pytest.mark.parametrize("content", ["[]", "3", "null"])
def test_a_file_that_is_no_object(tmp_path, content):
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(UserError, match="an object with version, name, levels, compute"):
        load_machine(tmp_path / "bad.json")


def test_a_file_that_is_no_json(tmp_path):
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(UserError, match=r"bad\.json: no JSON.*gridnn calibrate"):
        load_machine(tmp_path / "bad.json")


def test_a_machine_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"unknown machine 'cori-kln': did you mean cori-knl.*frontier.*calibrate"):
        load_machine("cori-kln")
    with pytest.raises(UserError, match=r"none\.json: No such file.*calibrate.*cori-knl"):
        load_machine(tmp_path / "none.json")
    with pytest.raises(UserError, match="cannot be written"):
        save_machine(MACHINE, tmp_path / "no" / "where.json")


def test_nothing_that_is_no_number_is_written():
    with pytest.raises(ValueError, match="JSON"):
        text_of(replace(MACHINE, memory=math.inf))
    assert content_of(MACHINE)["levels"][1]["shared"] == 2
