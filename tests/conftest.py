"""What every test has, and how a run under mpirun behaves when one rank fails."""

from __future__ import annotations

import gc
import io
import os
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import settings

UNDER_MPI = "--with-mpi" in sys.argv

if UNDER_MPI:
    # Before NumPy is imported: the ranks share the cores.
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

# All ranks must draw the same examples, and on a shared machine a deadline means nothing.
settings.register_profile("gridnn", derandomize=True, deadline=None, database=None)
settings.load_profile("gridnn")


def pytest_addoption(parser):
    parser.addoption("--backend", choices=("numpy", "cupy", "standin"), default="numpy", help="what the layers run on")
    parser.addoption("--transport", choices=("host", "cuda-aware", "nccl"), help="how arrays move between ranks")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--backend") == "numpy":
        skip = pytest.mark.skip(reason="needs a GPU: make test-gpu")
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(skip)


def pytest_collection_finish(session):
    # Thousands of tests and what they import live to the end: a collection need not walk through them each time.
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def comm():
    """All ranks of the run: one, without mpirun."""
    from mpi4py import MPI

    return MPI.COMM_WORLD


@pytest.fixture(scope="session")
def cupy():
    """CuPy with ``--backend cupy``, else its stand-in."""
    import backends

    return backends.import_standin()


@pytest.fixture(scope="session")
def standin(cupy):
    """The stand-in for CuPy, imported as ``cupy``."""
    if not getattr(cupy, "is_standin", False):
        pytest.skip("these tests run on the stand-in, and this session on CuPy")
    return cupy


@pytest.hookimpl(trylast=True)
def pytest_configure(config):
    if config.getoption("--backend") != "numpy":
        import backends  # not earlier: it imports NumPy

        backends.choose(config.getoption("--backend"), config.getoption("--transport"))
    elif config.getoption("--transport"):
        raise pytest.UsageError("--transport has no effect with --backend numpy")
    if not UNDER_MPI:
        return
    from mpi4py import MPI

    # Ranks that tidy pytest's old folders at the same time take them from under each other.
    folder = Path(tempfile.gettempdir(), f"gridnn-tests-{os.getuid()}-rank-{MPI.COMM_WORLD.Get_rank()}")
    folder.mkdir(exist_ok=True)
    os.environ["PYTEST_DEBUG_TEMPROOT"] = str(folder)
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
