"""A plan says what it was made for, and is refused for anything else."""

from __future__ import annotations

import json

import pytest

from gridnn.errors import UserError
from gridnn.layers import Linear, ReLU
from gridnn.layout.gridshape import GridShape
from gridnn.network import Network
from gridnn.planning.plan import Plan, load_plan
from gridnn.planning.provenance import Provenance
from gridnn.planning.rules import make_plan

GRID = GridShape(2, 2)


def network(width: int = 6, extra: bool = False) -> Network:
    net = Network((5,))
    net.add("fc1", Linear(width))
    net.add("relu", ReLU())
    net.add("fc2", Linear(4))
    if extra:
        net.add("relu2", ReLU())
    return net


@pytest.fixture
def saved(tmp_path):
    made = make_plan("grid", network(), GRID, 8)
    provenance = Provenance.of(
        network(), 8, machine="generic-cpu", machine_fingerprint="0" * 16, options={"model": "mlp"}
    )
    plan = Plan(made.strategy, made.grid, made.splits, provenance=provenance)
    path = tmp_path / "plan.json"
    plan.save(path)
    return plan, path


def test_a_plan_comes_back_with_what_it_was_made_for(saved):
    plan, path = saved
    assert load_plan(path, network(), GRID, 8) == plan


@pytest.mark.parametrize(
    ("other", "text"),
    [
        (network(7), r"layer 'fc1' was Linear\(features=6, bias=True\) of input \(5,\), and is Linear\(features=7"),
        (network(extra=True), "layer 'relu2' is not in the plan's network"),
    ],
)
def test_another_network_is_refused_by_the_layers_that_differ(saved, other, text):
    with pytest.raises(UserError, match=text):
        load_plan(saved[1], other, GRID, 8)


def test_a_layer_that_went_is_named(saved, tmp_path):
    net = Network((5,))
    net.add("fc1", Linear(6))
    with pytest.raises(UserError, match=r"layer 'relu'"):
        load_plan(saved[1], net, GRID, 8)


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (lambda made: made.pop("batch"), "not complete"),
        (lambda made: made["network"]["layers"].update(fc1="something"), "was edited"),
    ],
)
def test_what_it_was_made_for_cannot_be_edited(saved, edit, text):
    data = json.loads(saved[1].read_text())
    edit(data["provenance"])
    saved[1].write_text(json.dumps(data))
    with pytest.raises(UserError, match=text):
        load_plan(saved[1], network(), GRID, 8)


def test_files_that_say_made_for_and_digest_are_read_too(saved):
    plan, path = saved
    data = json.loads(path.read_text())
    older = data["made_for"] = data.pop("provenance")
    for part in ("network", "machine"):
        older[part]["digest"] = older[part].pop("fingerprint")
    path.write_text(json.dumps(data))
    assert load_plan(path, network(), GRID, 8) == plan
    older["network"]["layers"]["fc1"] = "something"
    path.write_text(json.dumps(data))
    with pytest.raises(UserError, match='"made_for" was edited: digest'):
        load_plan(path, network(), GRID, 8)
