"""SIGKILL at any moment of writing: the newest complete checkpoint is there, and a run goes on from it."""

from __future__ import annotations

import functools
import json
import os
import random
import signal
import sys
import time

import pytest
from killed import EVERY, STAGES
from launch import HELPERS, gridnn, mpirun, mpirun_command, session_members, waiting
from running import MLP, Told, same, trained

from gridnn.train.header import read_header


@pytest.fixture
def alone():
    from mpi4py import MPI

    return MPI.COMM_SELF


@functools.cache
def uninterrupted() -> Told:
    from mpi4py import MPI

    return trained(MLP, MPI.COMM_SELF)


@pytest.mark.parametrize("stage", STAGES)
def test_killed_at_every_stage_of_writing(tmp_path, alone, stage):
    done = mpirun(2, sys.executable, HELPERS / "killed.py", stage, tmp_path, timeout=30)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    left = sorted(path.name for path in tmp_path.iterdir())
    newest = 2 * EVERY if stage == "renamed" else EVERY
    assert [name for name in left if name.endswith(".safetensors")][-1] == f"step-{newest:08d}.safetensors"
    assert any(name.endswith(".partial") for name in left) == (stage not in ("before anything", "renamed"))
    told = trained(MLP.replaced(checkpoint=str(tmp_path), resume=True), alone)
    assert next(iter(told.losses)) == newest + 1
    reference = Told()
    reference.losses = {step: loss for step, loss in uninterrupted().losses.items() if step > newest}
    reference.epochs = {number: means for number, means in uninterrupted().epochs.items() if number in told.epochs}
    same(told, reference, stage)
    assert not any(path.name.endswith(".partial") for path in tmp_path.iterdir())


WIDE = ("train", "--model", "mlp", "--widths", "1024,1024", "--dataset", "synthetic", "--shape", "24x24x1", "--quiet")
RUN = (*WIDE, "--samples", "40", "--batch", "16", "--dtype", "float64", "--epochs", "1000", "--kernels", "reference")


def losses(log) -> dict[int, float]:
    events = [json.loads(line) for line in log.read_text().splitlines()]
    return {event["step"]: event["loss"] for event in events if event["event"] == "step"}


def test_killed_at_any_time(tmp_path):
    """A job that does little but write 27 MB after every step is killed again and again, and still gets on."""
    directory, log = tmp_path / "checkpoints", tmp_path / "log.jsonl"
    options = (*RUN, "--checkpoint", str(directory), "--save-every", "1", "--resume", "--log", str(log))
    rng, reached = random.Random(1), 0
    for _ in range(3):
        command = [*mpirun_command(), "-n", "2", sys.executable, "-m", "gridnn", *options]
        with waiting(command, 0) as (process, _):
            before = newest(directory)
            while newest(directory) < before + 2 and process.poll() is None:
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.3))
            for pid in session_members(process.pid):
                os.kill(pid, signal.SIGKILL)
            _, err = process.communicate(timeout=10)
        assert "gridnn:" not in err
        assert newest(directory) >= reached + 2
        reached = newest(directory)
        read_header(str(directory / f"step-{reached:08d}.safetensors"))
    last = reached + 2
    assert gridnn(1, *options, "--steps", str(last)).returncode == 0
    reference = tmp_path / "reference.jsonl"
    assert gridnn(1, *RUN, "--steps", str(last), "--log", str(reference)).returncode == 0
    assert list(losses(reference)) == sorted(losses(log)) == list(range(1, last + 1))
    assert [losses(log)[step] for step in range(1, last + 1)] == pytest.approx([*losses(reference).values()], rel=1e-9)


def newest(directory) -> int:
    """The number of the newest checkpoint; 0 if there is none."""
    names = [path.name for path in directory.glob("step-*.safetensors")] if directory.exists() else []
    return max((int(name[5:13]) for name in names), default=0)
