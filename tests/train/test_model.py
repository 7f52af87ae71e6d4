"""The model for Python: the serial curve on every grid, predictions, checkpoints, other plans, single parameters."""

from __future__ import annotations

import numpy as np
import pytest
from running import folder, job_of

import gridnn as gn
from gridnn.errors import UserError

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(22, 9, 9, 2)), RNG.integers(0, 4, 22)
BATCHES = [slice(0, 13), slice(13, 22)]
SGD = gn.optim.SGD(lr=0.1, momentum=0.9)


def network() -> gn.Network:
    L = gn.layers
    net = gn.Sequential(
        (9, 9, 2),
        L.Conv2d(6, 3, padding=1),
        L.BatchNorm(),
        L.ReLU(),
        L.MaxPool2d(3, 2),
        L.Dropout(0.2),
        L.Flatten(),
        L.Linear(12),
        L.Tanh(),
        L.Linear(4),
    )
    net.add("loss", L.SoftmaxCrossEntropy())
    return net


def model(comm, rows: int, **options) -> gn.Model:
    net, job = network(), job_of(comm)
    plan = gn.plan(net, batch=13, ranks=job.size, grid=f"{rows}x{job.size // rows}", replicas=True)
    return gn.compile(net, plan, job, dtype="float64", seed=3, **options)


def curve(made: gn.Model, epochs: int = 2) -> list[float]:
    return [made.step((X[batch], Y[batch]), SGD).loss for _ in range(epochs) for batch in BATCHES]


@pytest.fixture(scope="module")
def serial():
    from mpi4py import MPI

    made = model(MPI.COMM_SELF, 1)
    losses = curve(made)
    return losses, made.evaluate((X, Y)), made.predict(X, batch=9), made.parameters["layer6.weight"]


def rows_of(comm) -> list[int]:
    return [rows for rows in range(1, comm.size + 1) if comm.size % rows == 0]


@pytest.mark.mpi
def test_every_grid_has_the_serial_curve(comm, serial):
    losses, result, predicted, weight = serial
    for rows in rows_of(comm):
        made = model(comm, rows)
        np.testing.assert_allclose(curve(made), losses, rtol=1e-10)
        np.testing.assert_allclose(made.evaluate((X, Y), batch=8), result, rtol=1e-10)
        np.testing.assert_allclose(made.predict(X, batch=9), predicted, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(made.parameters["layer6.weight"], weight, rtol=1e-9, atol=1e-12)


@pytest.mark.mpi
def test_another_plan_in_memory_goes_on_with_the_same_bits(comm, serial):
    made = model(comm, comm.size)
    losses = curve(made, 1)
    before = {name: made.parameters[name] for name in made.parameters}
    made.reshard(gn.plan(made.network, batch=13, ranks=comm.size, grid=f"1x{comm.size}", replicas=True))
    assert made.plan.grid.cols == comm.size
    for name, value in before.items():
        np.testing.assert_array_equal(made.parameters[name], value, err_msg=name)
    np.testing.assert_allclose(losses + curve(made, 1), serial[0], rtol=1e-10)


@pytest.mark.mpi
def test_a_file_is_read_on_another_grid(comm, serial):
    with folder(comm) as path:
        made = model(comm, 1)
        losses = curve(made, 1)
        made.save(str(path / "model.safetensors"))
        other = model(comm, comm.size)
        curve(other, 1)
        other.load(str(path / "model.safetensors"), SGD)
        np.testing.assert_allclose(losses + curve(other, 1), serial[0], rtol=1e-10)
        weights_only = model(comm, 1)
        weights_only.load(str(path / "model.safetensors"))
        np.testing.assert_array_equal(weights_only.parameters["layer0.bias"], made.parameters["layer0.bias"])


@pytest.mark.mpi
def test_a_parameter_is_set_by_name(comm):
    made = model(comm, comm.size)
    value = RNG.normal(size=made.parameters["layer8.weight"].shape)
    value = comm.bcast(value)
    made.parameters["layer8.weight"] = value
    np.testing.assert_array_equal(made.parameters["layer8.weight"], value)
    with pytest.raises(UserError, match=r"layer8.bias has the shape \(4,\), not \(5,\)"):
        made.parameters["layer8.bias"] = np.zeros(5)


def test_labels_of_another_shape_are_refused(comm):
    if comm.size > 1:
        pytest.skip("on one rank")
    with pytest.raises(UserError):
        model(comm, 1).step((X, np.zeros((22, 3), np.int64)), SGD)


def test_a_price_before_a_run():
    net = network()
    plan = gn.plan(net, batch=64, ranks=1024, grid="2x512", replicas=True)
    made = gn.price(net, plan, "perlmutter-a100", batch=1024)
    assert made.seconds > 0 and made.words()["row"] > 0 and made.memory.total > 0
    with pytest.raises(UserError, match="needs"):
        gn.compile(net, plan, job_of(__import__("mpi4py.MPI").MPI.COMM_SELF))
