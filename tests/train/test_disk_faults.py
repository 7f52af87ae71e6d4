"""Faults of the disk on one rank, by a library loaded before libc (``faults.c``): told, tried again, survived."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from faulty import ALWAYS, EIO, ONCE
from launch import HELPERS, gridnn, mpirun

SLOW = "slow"
SMALL = ("train", "--model", "mlp", "--widths", "9", "--batch", "8", "--kernels", "reference", "--quiet")


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """``faults.c``, compiled."""
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")
    if not compiler:
        pytest.skip("needs a C compiler (cc)")
    path = tmp_path_factory.mktemp("faults") / "faults.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", path, HELPERS / "faults.c", "-ldl"], check=True, timeout=60)
    return str(path)


@pytest.fixture(scope="module")
def saved(library, tmp_path_factory):
    """What came of every fault, on both ranks."""
    folder = tmp_path_factory.mktemp("saved")
    env = {"LD_PRELOAD": library}
    done = mpirun(2, sys.executable, HELPERS / "faulty.py", folder, timeout=90, env=env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", ONCE)
def test_a_fault_that_passes_is_found_and_the_save_is_tried_again(saved, name):
    """On both ranks alike; also a short write and a wrong bit, of which the system says nothing."""
    mine, other = (one[name] for one in saved)
    assert mine == other
    *failed, last = mine["attempts"]
    assert last == "" and len(failed) == (name != SLOW)
    assert all("cannot be written: " in text and text.isprintable() for text in failed)
    assert (mine["damage"], mine["left"], mine["notes"], mine["ended"]) == ("", [], [], None)


def test_faults_that_stay_are_told_and_end_the_run_with_the_third_checkpoint(saved):
    for one in saved:
        told = [one[name] for name in ALWAYS]
        assert [len(each["attempts"]) for each in told] == [3, 3, 3]
        assert [len(each["notes"]) for each in told] == [1, 1, 0]
        assert [bool(each["ended"]) for each in told] == [False, False, True]
        assert "the run goes on without this checkpoint" in told[0]["notes"][0]
        assert all((each["damage"], each["left"]) == ("it is not there", []) for each in told)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint of a finished run, and its data."""
    path = tmp_path_factory.mktemp("run")
    random = np.random.default_rng(0)
    np.savez(path / "data.npz", x=random.random((40, 6)), y=np.arange(40) % 4)
    done = gridnn(1, *SMALL, "--dataset", str(path / "data.npz"), "--steps", "2", "--checkpoint", str(path / "saved"))
    assert done.returncode == 0, done.stderr
    return path


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (f"read .safetensors 1 0 {EIO} 1", "step-00000002.safetensors cannot be read: rank 1: Read_all failed"),
        ("read .safetensors 2 1 flip 0", "step-00000002.safetensors is "),
        (f"open .safetensors 1 0 {EIO} 1", "step-00000002.safetensors cannot be read: rank 1: it cannot be opened"),
        (f"read data.npz 1 0 {EIO} 1", "data.npz cannot be read (Input/output error)"),
    ],
)
def test_what_cannot_be_read_is_one_line_on_all_ranks(library, folder, rule, message):
    options = ("--dataset", str(folder / "data.npz"), "--steps", "4", "--checkpoint", str(folder / "saved"), "--resume")
    done = gridnn(2, *SMALL, *options, env={"LD_PRELOAD": library, "GRIDNN_FAULT": rule})
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("gridnn: ")]
    assert message in line
    assert "Traceback" not in done.stderr
