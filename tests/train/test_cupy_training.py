"""Training on the backend of GPUs, here on the stand-in: NumPy's numbers, one wait a step, and no memory after it."""

from __future__ import annotations

import json
import os
import re
import sys

import numpy as np
import pytest
from backends import STANDIN, backend_name, import_standin
from launch import clean_environment, gridnn, run
from running import BRANCHED, LENET, MLP, folder, job_of, same, trained

from gridnn.train.session import Session
from gridnn.train.setup import make_optimizer

OPTIONS = LENET.replaced(backend="numpy", steps=3, epochs=1)
RUNS = {
    "lenet": OPTIONS,
    "norms": OPTIONS.replaced(
        model=BRANCHED, shape="12x9x3", optimizer="adamw", nesterov=False, clip=0.5, accumulate=2
    ),
}
DIVIDED = {
    1: [{"grid": "1x1"}],
    2: [{"grid": "2x1"}, {"grid": "1x2"}],
    4: [{"grid": "2x2"}, {"grid": "4x1", "strategy": "domain", "domain": "2x2"}],
}


@pytest.fixture(autouse=True)
def _cupy():
    import_standin()


def on_cupy(config, **changes):
    return config.replaced(backend="cupy", **changes)


@pytest.mark.mpi
@pytest.mark.parametrize("name", RUNS)
def test_the_numbers_are_those_of_numpy(comm, name):
    """In float64, on one rank of NumPy and on all ranks of CuPy."""
    if comm.size not in DIVIDED or (name, comm.size) == ("norms", 2):
        pytest.skip("on 1 and 4 ranks, LeNet on 2")
    from mpi4py import MPI

    reference = trained(RUNS[name].replaced(grid="1x1"), MPI.COMM_SELF)
    for division in DIVIDED[comm.size]:
        same(trained(on_cupy(RUNS[name], **division), comm), reference, f"{name} {division}")


@pytest.mark.mpi
def test_a_gathers_adjoint_is_under_way_while_weights_are_computed(comm, monkeypatch):
    """On a device; a CPU finishes it first, as priced."""
    if comm.size != 2:
        pytest.skip("on 2 ranks")
    from gridnn.comm.transports.asynchronous import DeviceWork
    from gridnn.comm.transports.host import HostTransport

    config = MLP.replaced(grid="2x1", widths="8", clip=None, transport="host")
    session = Session(on_cupy(config), job_of(comm))
    order = []

    def noted(name, function):
        def call(*args, **options):
            order.append(name)
            return function(*args, **options)

        return call

    kernels = session.grid.backend.kernels
    monkeypatch.setattr(HostTransport, "reduce_scatter", noted("begins", HostTransport.reduce_scatter))
    monkeypatch.setattr(kernels, "linear_grad_weight", noted("weights", kernels.linear_grad_weight))
    monkeypatch.setattr(DeviceWork, "wait", noted("ends", DeviceWork.wait))
    session.step(np.arange(session.batch), 1)
    last = order[order.index("begins") :]
    assert last[:3] == ["begins", "weights", "ends"], order
    session.grid.free()


def test_a_checkpoint_goes_from_one_backend_to_the_other(comm):
    with folder(comm) as path:
        config = RUNS["norms"].replaced(grid="1x1", checkpoint=str(path), steps=1)
        whole = trained(config.replaced(steps=3, checkpoint=str(path / "whole")), comm)
        first = trained(on_cupy(config, transport="host"), comm)
        second = trained(config.replaced(steps=2, resume=True), comm)
        third = trained(on_cupy(config, steps=3, resume=True), comm)
    same(first.join(second).join(third), whole)


def session_of(comm, **changes):
    session = Session(on_cupy(RUNS["lenet"], grid="1x1", **changes), job_of(comm))
    return session, make_optimizer(session.config.train).start(session.parameters)


def step(session, optimizer, number):
    indices = np.arange(13) + number
    session.step(indices, number, indices + 1)
    session.update(optimizer, 0.01)


def test_nothing_is_allocated_after_the_first_steps(comm):
    session, optimizer = session_of(comm)
    pool, counts = session.grid.backend.pool, []
    for number in range(1, 7):
        step(session, optimizer, number)
        counts.append((pool.allocations, pool.taken))
    assert counts[0][0] > 0 and len(set(counts[1:])) == 1, counts


def test_a_step_waits_once_for_the_device(comm, standin):
    """For the loss; the reader's waits are for its own copies of the batch before."""
    session, _ = session_of(comm)
    session.step(np.arange(13), 1)
    with standin.standin.record() as told:
        session.step(np.arange(13), 2)
    copied = [entry for entry in told if entry.operation == "memcpyDeviceToHost"]
    waited = [entry.operation for entry in told if entry.stream == -1]
    assert len(copied) == 1 and waited == ["eventSynchronize"] * 2 + ["streamSynchronize"], waited


def environment(**changes):
    """In which ``import cupy`` finds the stand-in."""
    paths = [str(STANDIN), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths), **changes}


ASKED = "--model mlp --widths 9 --dataset synthetic --shape 4x4x1 --samples 24 --batch 8 --epochs 2 --dtype float64"

CUPY = ("--backend", "cupy", "--transport", "host")


def losses(path, *options, **started):
    done = gridnn(2, "train", *ASKED.split(), "--log", path, *options, **started)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [row["loss"] for row in rows if "lr" in row], done.stdout


def test_the_command(tmp_path):
    """Two ranks, which share the one device and are told so; another grid with a device each."""
    shared, said = losses(tmp_path / "shared.jsonl", "--grid", "1x2", *CUPY, env=environment())
    assert len(shared) == 6
    said = re.sub(r"\s+", " ", said)
    assert "gpu Stand-in GPU, cuda driver 13.0, CuPy 14.2.0 for 12.9" in said
    assert "note: up to 2 ranks share a GPU (1 GPUs for 2 ranks)" in said
    env = environment(STANDIN_DEVICES="2")
    found, said = losses(tmp_path / "own.jsonl", "--grid", "2x1", *CUPY, env=env)
    assert found == pytest.approx(shared, rel=1e-10) and "share a GPU" not in said


def test_the_command_refuses_on_all_ranks_at_once(tmp_path):
    done = gridnn(2, "train", *ASKED.split(), "--backend", "cupy", env=environment(STANDIN_DEVICES="0"))
    assert done.returncode != 0 and done.stderr.count("gridnn: --backend cupy: no GPU is visible") == 1, done.stderr


@pytest.mark.timeout(200)
def test_the_layers_on_the_stand_in():
    """Their own tests, on arrays of CuPy."""
    if backend_name() == "cupy":
        pytest.skip("they run on CuPy anyway")
    options = ["-q", "--color=no", "-p", "no:cacheprovider", "--backend", "standin"]
    done = run([sys.executable, "-m", "pytest", *options, "tests/layers/test_layers.py"], 180, clean_environment())
    assert done.returncode == 0, done.stdout
