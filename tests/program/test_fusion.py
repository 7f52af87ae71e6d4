"""Fused activations: which they are, and that the numbers are those of the layers one by one."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from backends import backend_name
from running import LENET, folder, trained

from gridnn import layers as L
from gridnn.errors import UserError
from gridnn.kernels.cuda import rows
from gridnn.kernels.reference import linear
from gridnn.kernels.table import Kernels, may_decline
from gridnn.layout.gridshape import GridShape
from gridnn.layout.split import Split
from gridnn.network import Network
from gridnn.planning.rules import make_plan
from gridnn.program.fusion import chains
from gridnn.program.program import Program
from gridnn.runtime.parameters import Parameters
from gridnn.train import setup


def network(shape=(9, 6, 2), classes=6, **options) -> Network:
    """Every kind of neighbour: fused, read twice, moved, and chains of linear layers."""
    net = Network(shape)
    net.add("conv1", L.Conv2d(6, 3, padding=1))
    net.add("relu1", L.ReLU())
    net.add("conv2", L.Conv2d(6, 3, padding=1, bias=False))
    net.add("tanh2", L.Tanh())
    net.add("conv3", L.Conv2d(6, 1))
    net.add("relu3", L.ReLU())
    net.add("add", L.Add(), "relu3", "conv3")
    net.add("conv4", L.Conv2d(6, 1))
    net.add("shrink", L.AdaptiveAvgPool((5, 4)))
    net.add("flatten", L.Flatten())
    net.add("fc1", L.Linear(12))
    net.add("relu4", L.ReLU())
    net.add("fc2", L.Linear(10, bias=False))
    net.add("relu5", L.ReLU())
    net.add("fc3", L.Linear(8))
    net.add("tanh6", L.Tanh())
    net.add("fc4", L.Linear(7))
    net.add("relu7", L.ReLU())
    net.add("drop", L.Dropout(0.1))
    net.add("fc5", L.Linear(classes))
    net.add("gelu", L.GELU())
    net.add("fc6", L.Linear(classes))
    return net


RUN = LENET.replaced(shape="9x6x2", classes=6, epochs=1, batch=13, samples=26, weight_decay=0.0, lr=0.1)
ALL = [
    ("conv1", "relu1", None),
    ("conv2", "tanh2", None),
    ("fc1", "relu4", "fc2"),
    ("fc2", "relu5", "fc3"),
    ("fc3", "tanh6", "fc4"),
    ("fc4", "relu7", None),
]


@pytest.fixture
def own_model(monkeypatch):
    monkeypatch.setattr(setup, "get_model", lambda name, shape, classes, **options: network(shape, classes))


# -- which ---------------------------------------------------------------------------------------------------------


def found(rows: int, strategy: str, **splits: Split) -> list[tuple]:
    net = network()
    plan = make_plan(strategy, net, GridShape(rows, 1), 12)
    program = Program(net, replace(plan, splits={**plan.splits, **splits}), 12)
    names = [step.name for step in program.layers]
    return [tuple(None if place is None else names[place] for place in chain) for chain in chains(program)]


def test_what_is_fused():
    """Not conv3, whose output two layers read, nor a layer like "shrink", nor GELU, whose slope wants its input."""
    assert found(1, "batch") == ALL == found(4, "batch")


def test_a_movement_between_keeps_them_apart():
    whole = [chain[:2] for chain in ALL]
    assert found(2, "model") == [(*pair, None) for pair in whole]  # every linear layer reads what was gathered
    co, ci, none = Split.of(co=2), Split.of(ci=2), Split.of(replicas=2)
    pairs = found(2, "model", fc1=co, relu4=co, fc2=ci, relu5=none, fc3=none)
    assert ("fc1", "relu4", "fc2") in pairs  # columns, then rows: nothing moves between
    assert "fc2" not in [maker for maker, _, _ in pairs]  # partial sums
    assert ("fc3", "tanh6") not in [pair[:2] for pair in found(2, "model", fc3=co, tanh6=none)]


# -- the same numbers ----------------------------------------------------------------------------------------------


def curve(comm, **options) -> np.ndarray:
    return np.array(trained(RUN.replaced(**options), comm).curve)


def both(monkeypatch, comm, **options) -> None:
    """A run whose kernels fuse has the numbers of one whose kernels do not."""
    plain = curve(comm, **{**options, "backend": "numpy"})
    if backend_name() != "numpy":
        np.testing.assert_allclose(curve(comm, **options), plain, rtol=1e-10)
        return
    finished = []

    known = linear.finish, linear.activation_grad

    def finish(kernels, out, bias, activation):
        finished.append(activation)
        known[0](kernels, out, bias, activation)

    def activation_grad(kernels, y, activation, out):
        finished.append(f"grad {activation}")
        known[1](kernels, y, activation, out)

    with monkeypatch.context() as patch:
        patch.setattr(Kernels, "fuses", True)
        patch.setattr(linear, "finish", finish)
        patch.setattr(linear, "activation_grad", activation_grad)
        np.testing.assert_allclose(curve(comm, **options), plain, rtol=1e-10)
    assert {"relu", "tanh"} <= set(finished)


@pytest.mark.mpi
@pytest.mark.parametrize("strategy", ["model", "domain", "splitbrain"])
def test_fused_is_unfused(own_model, monkeypatch, comm, strategy):
    if comm.size not in (2, 4):
        pytest.skip("2 rows")
    both(monkeypatch, comm, strategy=strategy, grid=f"2x{comm.size // 2}")


@pytest.mark.mpi
def test_in_segments_and_in_parts(own_model, monkeypatch, comm):
    if comm.size > 2:
        pytest.skip("1 and 2 ranks show it")
    both(monkeypatch, comm, strategy="batch", grid=f"1x{comm.size}", recompute=True, accumulate=2)


@pytest.mark.mpi
def test_columns_then_rows(own_model, monkeypatch, comm):
    """Linear layers whose neighbours are divided alike: the derivative on partial sums of gradients."""
    if comm.size not in (1, 2, 4):
        pytest.skip("12, 10 and 8 features are divided")
    parts = comm.size
    splits = {"fc1": f"co={parts}", "relu4": f"co={parts}", "fc2": f"ci={parts}", "fc3": f"co={parts}"}
    with folder(comm) as path:
        (path / "plan.json").write_text(json.dumps({"version": 1, "splits": splits}))
        comm.Barrier()
        both(monkeypatch, comm, plan=str(path / "plan.json"), grid=f"{parts}x1")


def test_what_an_activation_hides_is_named(own_model, monkeypatch, comm):
    """An output of minus infinity is 0 after the ReLU, but the layer that made it is the first."""
    if comm.size > 1:
        pytest.skip("on one rank")
    monkeypatch.setattr(Kernels, "fuses", True)
    with pytest.raises(UserError, match="the first output that is not finite is that of layer 'fc1'"):
        broken(monkeypatch, comm)


def broken(monkeypatch, comm) -> None:
    """A run in which fc1 makes infinities of one sign, and fc4 others."""
    made = Parameters.__init__

    def init(self, *args, **options):
        made(self, *args, **options)
        for entry in self.entries:
            if entry.key == "fc1.bias":
                self.value(entry)[0] = -np.inf
            elif entry.key == "fc6.bias":
                self.value(entry)[...] = np.nan

    monkeypatch.setattr(Parameters, "__init__", init)
    trained(RUN, comm)


# -- on the stand-in for CuPy ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_on_the_gpu_backend(standin, own_model, monkeypatch, comm, dtype):
    if comm.size > 1:
        pytest.skip("on one rank")
    asked = []
    known = rows.bias_activation

    @may_decline
    def bias_activation(kernels, x, bias, activation, out):
        asked.append(activation)
        return known(kernels, x, bias, activation, out)

    monkeypatch.setattr(rows, "bias_activation", bias_activation)
    plain = curve(comm, backend="numpy", dtype=dtype)
    error = 1e-10 if dtype == "float64" else 3e-2
    np.testing.assert_allclose(curve(comm, backend="cupy", dtype=dtype), plain, rtol=error)
    assert {"relu", "tanh", "none"} == set(asked)
