"""An independent count: Open MPI's own monitoring agrees with the ledger."""

from __future__ import annotations

import re
import sys

import pytest
from launch import ROOT, clean_environment, mpirun_command, run

SCRIPT = (sys.executable, str(ROOT / "scripts" / "wire_check.py"))
MLP = ("--model", "mlp", "--widths", "1024,1024", "--dataset", "synthetic", "--batch", "256")
LENET = ("--model", "lenet", "--dataset", "synthetic", "--shape", "64x64x3", "--batch", "128", "--strategy", "domain")


@pytest.fixture(autouse=True)
def _needs_open_mpi():
    version = run([*mpirun_command(), "--version"], 30, clean_environment()).stdout
    if "Open MPI" not in version and "prrte" not in version.lower():
        pytest.skip("counts bytes with the monitoring of Open MPI")


@pytest.mark.parametrize(
    ("ranks", "options"),
    [
        (4, (*MLP, "--grid", "2x2")),
        (4, (*MLP, "--grid", "4x1", "--gather-backward", "all-reduce")),
        (3, (*MLP, "--grid", "1x3")),
        (2, (*LENET, "--grid", "2x1")),
    ],
)
def test_the_ledger_is_what_goes_over_the_wire(ranks, options):
    done = run([*SCRIPT, "--ranks", str(ranks), *options], 60, clean_environment())
    assert done.returncode == 0, done.stdout + done.stderr
    wire, ledger = (int(n.replace(",", "")) for n in re.findall(r"([\d,]+) bytes", done.stdout))
    assert ledger > 1_000_000
    assert abs(wire / ledger - 1) <= 0.05


def test_the_script_says_when_they_differ():
    """A model whose messages are few beside those that set communicators up."""
    small = (
        "--model",
        "mlp",
        "--widths",
        "8",
        "--dataset",
        "synthetic",
        "--shape",
        "4",
        "--batch",
        "4",
        "--tolerance",
        "0.001",
    )
    done = run([*SCRIPT, "--ranks", "2", *small, "--grid", "2x1"], 60, clean_environment())
    assert done.returncode == 1, done.stdout + done.stderr
