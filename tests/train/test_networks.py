"""Whole networks on every grid and strategy: the loss curve of the serial run, and predicted words = measured words."""

from __future__ import annotations

import functools
import json
import random
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from backends import backend_name
from running import Told, job_of, same, trained
from splits import admitted_splits
from strict import StrictBackend

from gridnn import layers as L
from gridnn.network import Network
from gridnn.planning.plan import BACKWARD
from gridnn.planning.rules import RULES
from gridnn.train import setup
from gridnn.train.audit import audit
from gridnn.train.config import RunConfig
from gridnn.train.setup import prepare_run

STEPS = 11  # four epochs of two whole batches and a short one, but for the last
STRATEGIES = tuple(RULES)
BASE = RunConfig.of(
    backend=backend_name(),
    dataset="synthetic",
    dtype="float64",
    batch=13,
    samples=34,
    steps=STEPS,
    lr=0.05,
    epochs=9,
    dropout=0.3,
)
RUNS = {
    "lenet": BASE.replaced(model="lenet", shape="27x12x2", nesterov=True, weight_decay=1e-3),
    "mlp": BASE.replaced(model="mlp", shape="5x5x3", widths="23,17,9", optimizer="adamw", lr=3e-3, clip=0.5),
    "branches": BASE.replaced(model="branches", shape="28x9x3", schedule="cosine", warmup=1),
    "volumes": BASE.replaced(model="volumes", shape="14x8x9x2", classes=7, recompute=True, steps=8),
}


def branches(shape, classes, **options) -> Network:
    """Residual and concatenating branches, batch norm, groups, overlapping pools, every activation."""
    net = Network(shape)
    net.add("conv1", L.Conv2d(8, 3, padding=1, bias=False))
    net.add("norm1", L.BatchNorm())
    net.add("relu1", L.ReLU())
    net.add("conv2", L.Conv2d(8, 3, padding=1, groups=2), "relu1")
    net.add("add", L.Add(), "conv2", "relu1")
    net.add("gelu", L.GELU())
    net.add("pool", L.MaxPool2d(3, 2, 1), "gelu")
    net.add("left", L.Conv2d(7, 1), "pool")
    net.add("right", L.Conv2d(6, (3, 2), padding=((1, 1), (1, 0)), dilation=(1, 1)), "pool")
    net.add("concat", L.Concat(), "left", "right", "pool")
    net.add("norm2", L.BatchNorm())
    net.add("tanh", L.Tanh())
    net.add("average", L.AvgPool2d(2, 1), "tanh")
    net.add("drop", L.Dropout(0.2))
    net.add("conv3", L.Conv2d(9, 3, stride=2), "drop")
    net.add("global", L.GlobalAvgPool())
    net.add("fc", L.Linear(classes))
    return net


def volumes(shape, classes, **options) -> Network:
    """A small U in three dimensions: down and up again, with every layer that only volumes or old networks have."""
    net = Network(shape)
    net.add("conv1", L.Conv3d(6, 3, padding=1, bias=False))
    net.add("norm1", L.GroupNorm(3))
    net.add("relu1", L.LeakyReLU(0.1))
    net.add("pool1", L.MaxPool3d(2))
    net.add("conv2", L.Conv3d(8, (2, 3, 1), padding=((1, 0), (1, 1), (0, 0)), dilation=(1, 1, 1)))
    net.add("norm2", L.BatchNorm())
    net.add("local", L.LocalResponseNorm(3))
    net.add("pool2", L.AvgPool3d(2, 1), "local")
    net.add("up", L.ConvTranspose3d(7, (3, 2, 2), stride=2, padding=((1, 0), (0, 0), (0, 0))), "pool2")
    net.add("fitted", L.AdaptiveAvgPool(tuple(shape[:3])), "up")
    net.add("linear", L.Upsample(2, mode="linear"), "local")
    net.add("thin", L.Conv3d(6, 1), "linear")
    net.add("across", L.AdaptiveAvgPool(tuple(shape[:3])), "thin")
    net.add("join", L.Concat(), "fitted", "relu1", "across")
    net.add("depthwise", L.Conv3d(19, 3, padding=1, groups=19))
    net.add("relu2", L.ReLU())
    net.add("global", L.GlobalAvgPool())
    net.add("fc", L.Linear(classes))
    return net


OWN = {"branches": branches, "volumes": volumes}


@pytest.fixture(autouse=True)
def _own_model(monkeypatch):
    known = setup.get_model

    def get_model(name, shape, classes, **options):
        return OWN.get(name, functools.partial(known, name))(shape, classes, **options)

    monkeypatch.setattr(setup, "get_model", get_model)


@functools.cache
def serial(name: str) -> Told:
    """The run on one rank, made by every rank for itself."""
    from mpi4py import MPI

    return trained(RUNS[name].replaced(grid="1x1"), MPI.COMM_SELF)


def grids(ranks: int) -> list[str]:
    return [f"{rows}x{ranks // rows}" for rows in range(1, ranks + 1) if ranks % rows == 0]


@pytest.mark.mpi
@pytest.mark.timeout(300)
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", RUNS)
def test_loss_curve_is_that_of_the_serial_run(comm, name, strategy):
    reference = serial(name)
    assert len(reference.curve) == RUNS[name].train.steps and reference.curve[-1] < reference.curve[0]
    for grid in grids(comm.size):
        config = RUNS[name].replaced(grid=grid, strategy=strategy)
        same(trained(config, comm), reference, f"{name} {grid} {strategy}")


VARIANTS = {
    "rows contiguous": {"order": "row"},
    "paper's backward": {"gather_backward": "all-reduce"},
    "accumulated": {"accumulate": 3},
    "domain in two": {"strategy": "domain", "domain": "2x2"},
    "dimension after dimension": {"strategy": "domain", "domain": "2x2", "halo": "stepwise"},
    "all neighbours at once": {"strategy": "domain", "domain": "2x2", "halo": "direct"},
    "recomputed": {"recompute": True, "accumulate": 2},
    "replicas": {"strategy": "model", "replicas": True, "classes": 3, "grid": "-1x1"},
}


@pytest.mark.mpi
@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_change_nothing(comm, variant):
    changes = VARIANTS[variant]
    rows = 4 if "domain" in changes else max(r for r in (1, 2, 3) if comm.size % r == 0)
    if comm.size % rows:
        pytest.skip(f"{comm.size} ranks make no grid of {rows} rows")
    config = RUNS["lenet"].replaced(dropout=0.0, **{"grid": f"{rows}x-1", **changes})
    plain = RUNS["lenet"].replaced(dropout=0.0, grid="1x1", classes=config.data.classes)
    from mpi4py import MPI

    same(trained(config, comm), trained(plain, MPI.COMM_SELF), variant)


@pytest.mark.mpi
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", RUNS)
def test_audit_is_equal_on_every_grid(comm, name, strategy):
    for grid in grids(comm.size):
        for gather in BACKWARD if strategy == "grid" else BACKWARD[:1]:
            config = RUNS[name].replaced(grid=grid, strategy=strategy, steps=3, gather_backward=gather)
            result = audit(config, job_of(comm))  # two full batches and a short one
            wrong = [row for row in result.rows if not row.equal]
            assert not wrong, f"{name} {grid} {strategy} {gather}: {wrong}"
            assert comm.size == 1 or result.rows


SHIPPED = {
    "resnet18-cifar": {"dataset": "synthetic", "shape": "16x16x3"},
    "cosmoflow": {"dataset": "volumes", "shape": "16x16x16x1", "loss": "mse"},
    "unet3d": {"classes": 3},
}


@pytest.mark.mpi
@pytest.mark.parametrize("strategy", ["grid", "domain", "channel"])
@pytest.mark.parametrize("model", SHIPPED)
def test_audit_is_equal_for_shipped_networks(comm, model, strategy):
    """All networks under all strategies: scripts/audit_networks.py, docs/results/audit-networks-*.csv."""
    if comm.size not in (4, 6):
        pytest.skip("on 4 and 6 ranks")
    rng = np.random.default_rng(0)
    with TemporaryDirectory() as folder:
        path = str(Path(folder) / "volumes.npz")
        np.savez(path, x=rng.normal(size=(8, 16, 8, 8, 1)).astype("float32"), y=rng.integers(0, 3, (8, 16, 8, 8)))
        options = {"dataset": path, "samples": 2048, **SHIPPED[model]}
        config = RunConfig.of(model=model, grid="-1x2", strategy=strategy, batch=4, steps=1, replicas=True, **options)
        result = audit(config, job_of(comm))
    assert result.equal and len(result.rows) >= 20


def random_plan(name: str, ranks: int, number: int, path: Path) -> Path:
    """A plan file with any split for every layer, replicas included; the same on every rank."""
    rng = random.Random(f"{name} {ranks} {number}")
    network, batch = prepare_run(RUNS[name], 1).network, BASE.train.batch
    splits = {}
    for node in network.nodes:
        splits[node.name] = str(rng.choice(list(admitted_splits(node.layer, network.sizes(node, batch), ranks))))
    file = path / f"{number}.json"
    file.write_text(json.dumps({"version": 1, "splits": splits}))
    return file


@pytest.mark.mpi
@pytest.mark.parametrize("number", range(8))
@pytest.mark.parametrize("name", RUNS)
def test_random_plans_give_the_serial_curve_and_the_predicted_words(comm, name, number):
    with TemporaryDirectory() as folder:  # not tmp_path: the ranks would clear up each other's
        file = random_plan(name, comm.size, number, Path(folder))
        config = RUNS[name].replaced(plan=str(file), steps=4)
        losses = trained(config, comm).curve
        np.testing.assert_allclose(losses, serial(name).curve[:4], rtol=1e-10, err_msg=file.read_text())
        wrong = [row for row in audit(config.replaced(steps=3), job_of(comm)).rows if not row.equal]
        assert not wrong, f"{wrong} {file.read_text()}"


@pytest.mark.mpi
@pytest.mark.parametrize("strategy", ["grid", "domain"])
@pytest.mark.parametrize("name", RUNS)
def test_nothing_reaches_the_host_unasked(comm, monkeypatch, name, strategy):
    """On arrays that refuse to become host arrays, with a transport that stages: the same numbers, to the last bit."""
    config = RUNS[name].replaced(backend="numpy", strategy=strategy, steps=4, kernels="reference")
    plain = trained(config, comm)
    monkeypatch.setattr("gridnn.train.session.get_backend", lambda *names, **options: StrictBackend())
    assert trained(config, comm).losses == plain.losses


@pytest.mark.mpi
@pytest.mark.parametrize("model", ["mlp", "lenet", "alexnet-cifar", "vgg11-cifar"])
def test_shipped_networks_begin_near_chance(comm, model):
    """The first loss is that of ten classes about equally likely, on any grid."""
    config = RunConfig.of(model=model, dataset="synthetic", samples=16, batch=16, steps=1, strategy="batch")
    assert trained(config, comm).curve[0] == pytest.approx(np.log(10), abs=0.6)


def test_a_wide_classifier_learns_at_the_default_rate():
    from mpi4py import MPI

    config = RunConfig.of(model="alexnet-cifar", dataset="synthetic", samples=512, batch=32, epochs=4)
    losses = trained(config, MPI.COMM_SELF).curve
    assert np.mean(losses[-8:]) < 1.5
