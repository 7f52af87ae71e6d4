"""SIGKILL at any moment of writing: the newest complete checkpoint is there, and a run goes on from it."""

from __future__ import annotations

import functools
import re
import sys

import pytest
from killed import EVERY, STAGES
from launch import HELPERS, ROOT, clean_environment, mpirun, run
from running import MLP, Told, same, trained


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


def test_killed_at_any_time(tmp_path):
    """The beginning of what `make torture` does: jobs are killed again and again, and still get on."""
    torture = [sys.executable, str(ROOT / "scripts" / "torture.py"), "--kills", "3", "--seed", "6"]
    done = run(torture, 110, clean_environment(TMPDIR=str(tmp_path)))
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^3 kills, 0 lost, 0 hung, \d+ left over$", done.stdout, re.MULTILINE)
    assert not [line for line in done.stdout.splitlines() if line.startswith("left over") and "/dev/shm/" not in line]
