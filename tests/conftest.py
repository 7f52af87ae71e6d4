"""What every test has, and how a run under mpirun behaves when one rank fails."""

from __future__ import annotations

import io
import os
import sys
import time

import pytest
from hypothesis import settings

UNDER_MPI = "--with-mpi" in sys.argv

if UNDER_MPI:
    # Before NumPy is imported: the ranks share the cores.
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

# All ranks must draw the same examples, and on a shared machine a deadline means nothing.
settings.register_profile("gridnn", derandomize=True, deadline=None, database=None)
settings.load_profile("gridnn")


@pytest.fixture(scope="session")
def comm():
    """All ranks of the run: one, without mpirun."""
    from mpi4py import MPI

    return MPI.COMM_WORLD


@pytest.hookimpl(trylast=True)
def pytest_configure(config):
    if not UNDER_MPI:
        return
    from mpi4py import MPI

    if MPI.COMM_WORLD.Get_size() > 1:
        config.pluginmanager.register(AbortOnFailure(MPI.COMM_WORLD, config))
    if MPI.COMM_WORLD.Get_rank() > 0:
        config.get_terminal_writer()._file = io.StringIO()  # rank 0 reports for all


class AbortOnFailure:
    """Ends the whole job after the first failure: the other ranks would pair its collectives with the next test's."""

    def __init__(self, comm, config):
        self.comm = comm
        self.capture = config.pluginmanager.getplugin("capturemanager")

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report):
        if not report.failed:
            return
        where = f"rank {self.comm.Get_rank()} of {self.comm.Get_size()}"
        with self.capture.global_and_fixture_disabled():
            print(f"\n{where}: {report.nodeid} failed in {report.when}", file=sys.stderr)
            print(report.longreprtext, file=sys.stderr, flush=True)
        time.sleep(0.5)  # for the other ranks to say the same
        self.comm.Abort(1)
