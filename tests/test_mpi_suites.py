"""The tests marked ``mpi``, all files, under mpirun with several numbers of ranks."""

from __future__ import annotations

import sys

import pytest
from launch import ROOT, mpirun

# Only files with such tests: every rank would collect thousands of others.
ALL = tuple(str(path) for path in sorted(ROOT.glob("tests/*/test_*.py")) if "mark.mpi" in path.read_text())
DOMAINS = ("tests/layers/test_domain.py", "tests/layout/test_transfer.py", "tests/program/test_activations.py")
# One rank has nothing to divide at random. Three and six on few cores spend their time waiting: they run what divides
# unevenly, and of whole networks the loss curves; two and four run the rest.
UNEVEN = ("comm", "data", "layers", "layout", "planning", "program", "test_networks", "test_checkpoint")
SOME = tuple(path for path in ALL if any(f"/{part}" in path for part in UNEVEN))
ONE = (*ALL, "-k", "not test_networks or not (random_plans or audit)")
ODD = (*SOME, "-k", "not test_networks or loss_curve")
RUNS = {1: ONE, 2: ALL, 3: ODD, 4: ALL, 6: ODD, 5: DOMAINS, 8: DOMAINS}
LIMIT = 1500  # seconds for all tests of one rank count
HANG = 60  # seconds for one test


@pytest.mark.timeout(LIMIT + 30)
@pytest.mark.parametrize("ranks", RUNS)
def test_under_mpirun(ranks, capsys):
    # Every rank's stack is printed some seconds before the first rank's limit ends the job.
    limits = ["-o", f"timeout={HANG}", "-o", f"faulthandler_timeout={HANG - 5}"]
    options = ["--with-mpi", "-m", "mpi", "-q", "--color=no", "-p", "no:cacheprovider", *limits]
    done = mpirun(ranks, sys.executable, "-m", "pytest", *options, *RUNS[ranks], timeout=LIMIT)
    with capsys.disabled():
        print(f"\n{ranks} ranks: {summary(done.stdout)}", end=" ")
    assert done.returncode == 0, f"{ranks} ranks: exit status {done.returncode}\n{done.stdout}\n{done.stderr}"


def summary(output: str) -> str:
    """The line in which pytest counts its tests."""
    counts = [line for line in output.splitlines() if " in " in line and ("passed" in line or "failed" in line)]
    return counts[-1].strip("= ") if counts else "no summary"
