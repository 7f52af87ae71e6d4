"""The stand-in CUDA driver, and with it: does a CUDA-aware MPI, and our use of it, keep off device memory?

The driver itself is tested wherever there is a C compiler. The runs need a CUDA-aware Open MPI, which
scripts/cuda_mpi/build.sh builds: GRIDNN_CUDA_MPI=PREFIX names it.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import launch
import numpy as np
import pytest
from standin_driver.backend import DriverBackend
from standin_driver.library import Driver, DriverError, build

PREFIX = os.environ.get("GRIDNN_CUDA_MPI", "")
NEEDS_CC = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler (cc)")
NEEDS_CUDA_MPI = pytest.mark.skipif(
    not PREFIX,
    reason="no CUDA-aware MPI: scripts/cuda_mpi/build.sh --prefix PREFIX, then GRIDNN_CUDA_MPI=PREFIX pytest",
)
pytestmark = NEEDS_CC

SEGMENTATION_FAULT = re.compile(r"SIGSEGV|Segmentation fault|signal 11", re.IGNORECASE)
REDUCED_BY_THE_PROCESSOR = ("Iallreduce", "Allreduce_init", "Ireduce", "Ireduce_scatter")
CALLS = (
    *("Sendrecv", "Isend_Irecv", "Bcast", "Ibcast", "Allreduce", "Allreduce_in_place", "Reduce"),
    *("Reduce_scatter_block", "Reduce_scatter", "Allgather", "Iallgather", "Allgatherv", "Iallgatherv"),
    *("Alltoall", "Ialltoall", "Alltoallv", "Ialltoallv", *REDUCED_BY_THE_PROCESSOR),
)


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """Where the stand-in libcuda.so.1 lies."""
    folder = tmp_path_factory.mktemp("driver")
    build(folder)
    return folder


@pytest.fixture
def driver(folder) -> Driver:
    driver = Driver(folder / "libcuda.so.1")
    driver.bind()
    driver.counters()
    return driver


# -- the driver itself -------------------------------------------------------------------------------------------


def test_copies_arrive_and_are_counted(driver):
    backend = DriverBackend(driver)
    sent = np.arange(5000, dtype=np.float64)
    first, second = backend.asarray(sent), backend.empty((5000,), np.float64)
    assert np.isnan(second.host()).all()  # fresh memory is 0xFF
    driver.copy(second.ptr + 8, first.ptr, 8 * 4999)
    assert second[1:].host().tolist() == sent[:-1].tolist()
    counted = driver.counters()
    assert (counted.h2d, counted.d2d, counted.d2h) == (1, 1, 2)
    assert (counted.bytes_h2d, counted.bytes_d2d, counted.bytes_d2h) == (40000, 39992, 79992)
    assert driver.counters() == (0,) * 7


def test_a_pointer_is_known_as_device_memory_until_it_is_freed(driver):
    pointer = driver.allocate(4096)
    assert driver.is_device(pointer) and driver.is_device(pointer + 4095)
    assert not driver.is_device(pointer + 4096) and not driver.is_device(id(driver))
    driver.free(pointer)
    assert not driver.is_device(pointer)
    with pytest.raises(DriverError, match="cuMemFree_v2 returned 1"):
        driver.free(pointer)


def test_copies_beyond_the_end_are_refused(driver):
    pointer, host = driver.allocate(4096), ctypes.create_string_buffer(8192)
    with pytest.raises(DriverError, match="cuMemcpyAsync returned 1"):
        driver.copy(ctypes.addressof(host), pointer, 4097)
    driver.free(pointer)


def test_a_thread_needs_the_context(driver):
    said = []

    def allocate():
        for prepare in (lambda: None, driver.bind, driver.unbind):
            prepare()
            try:
                driver.free(driver.allocate(16))
                said.append("ok")
            except DriverError as error:
                said.append(str(error))

    thread = threading.Thread(target=allocate)
    thread.start()
    thread.join()
    assert said == ["cuMemAlloc_v2 returned 201", "ok", "cuMemAlloc_v2 returned 201"]


@pytest.mark.parametrize("access", ["p[0]", "p.__setitem__(0, 1)"])
def test_the_processor_cannot_touch_device_memory(folder, access):
    code = (
        "import ctypes; from standin_driver.library import Driver; "
        f"d = Driver(); p = (ctypes.c_uint8 * 16).from_address(d.allocate(16)); print('before'); {access}"
    )
    done = run_python(folder, "-u", "-c", code)
    assert (done.returncode, done.stdout) == (-signal.SIGSEGV, "before\n"), done.stderr


def test_memory_of_another_process_is_the_same_memory(folder, driver):
    pointer, handle = driver.allocate(64), ctypes.create_string_buffer(64)
    driver.call("cuIpcGetMemHandle", handle, pointer)
    code = (
        "import ctypes, sys; from standin_driver.library import Driver; d = Driver(); "
        "class_ = type('Handle', (ctypes.Structure,), {'_fields_': [('b', ctypes.c_char * 64)]}); "
        "h = class_.from_buffer_copy(bytes.fromhex(sys.argv[1])); p = ctypes.c_uint64(); "
        "d.call('cuIpcOpenMemHandle_v2', ctypes.byref(p), h, 1); "
        "s = ctypes.create_string_buffer(b'written'); d.copy(p.value, ctypes.addressof(s), 7); "
        "print(d.counters().ipc_opened)"
    )
    done = run_python(folder, "-c", code, handle.raw.hex())
    assert done.stdout == "1\n", done.stderr
    room = ctypes.create_string_buffer(8)
    driver.copy(ctypes.addressof(room), pointer, 7)
    assert room.value == b"written"
    driver.free(pointer)


# -- MPI on its memory -------------------------------------------------------------------------------------------


def test_host_transport_moves_device_memory_with_any_mpi(folder):
    done = on_ranks(folder, 2, "standin_driver.moving", "host")
    assert "are right" in done.stdout, done.stderr[-3000:]


def test_mpi_without_cuda_support_ends_at_device_memory(folder):
    done = on_ranks(folder, 2, "standin_driver.moving", "cuda-aware")
    assert "are right" not in done.stdout and SEGMENTATION_FAULT.search(done.stderr), done.stderr[-3000:]


def test_probe_fails_mpi_without_cuda_support(folder):
    verdict = probe(folder)
    assert verdict.startswith("False") and "SIGSEGV" in verdict, verdict


@NEEDS_CUDA_MPI
def test_probe_passes_the_cuda_aware_mpi(folder):
    assert probe(folder, PREFIX).startswith("True"), probe(folder, PREFIX)


@NEEDS_CUDA_MPI
@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("context_first", [False, True])
def test_all_operations_with_the_cuda_aware_mpi(folder, context_first, ranks):
    """With a context before MPI_Init ranks copy from each other's device memory (CUDA IPC), else through the host."""
    done = on_ranks(folder, ranks, "standin_driver.moving", "cuda-aware", prefix=PREFIX, context_first=context_first)
    assert "are right" in done.stdout, done.stderr[-3000:]
    assert ("ipc_opened=0" in done.stdout) != context_first


@NEEDS_CUDA_MPI
def test_host_transport_with_the_cuda_aware_mpi(folder):
    done = on_ranks(folder, 2, "standin_driver.moving", "host", prefix=PREFIX)
    assert "are right" in done.stdout, done.stderr[-3000:]


@NEEDS_CUDA_MPI
@pytest.mark.parametrize("name", CALLS)
def test_calls_that_take_device_memory(folder, name):
    """Open MPI 5: as gridnn/comm/transports/capabilities.py says."""
    done = on_ranks(folder, 2, "standin_driver.calls", name, prefix=PREFIX)
    if name in REDUCED_BY_THE_PROCESSOR:
        assert SEGMENTATION_FAULT.search(done.stderr), "it works now: the capability table can be widened"
    else:
        assert done.stdout.startswith("right"), done.stderr[-3000:]


# -- starting ----------------------------------------------------------------------------------------------------


def run_python(folder: Path, *args: str, prefix: str = "") -> subprocess.CompletedProcess:
    return launch.run([sys.executable, *args], 90, launch.clean_environment(**variables(folder, prefix)))


def on_ranks(
    folder: Path, ranks: int, module: str, *args: str, prefix: str = "", context_first: bool = False
) -> subprocess.CompletedProcess:
    """Run a module with the MPI of ``prefix``, else with that of the other tests."""
    launcher = [f"{prefix}/bin/mpirun"] if prefix else launch.mpirun_command()
    first = ["-m", "standin_driver.context_first", "mpi4py"] if context_first else ["-m", "mpi4py"]
    command = [*launcher, "-n", str(ranks), sys.executable, *first, "-m", module, *args]
    return launch.run(command, 90, launch.clean_environment(**variables(folder, prefix)))


def probe(folder: Path, prefix: str = "") -> str:
    """What gridnn's own test of device pointers finds out, as "PASSED: how"."""
    code = (
        "import sys; from mpi4py import MPI; from gridnn.comm.transports.probe import probe; "
        "child = (sys.executable, '-m', 'standin_driver.probe_child'); "
        "print('{0.passed}: {0.text}'.format(probe(MPI.Get_library_version(), child)))"
    )
    done = run_python(folder, "-c", code, prefix=prefix)
    return done.stdout or done.stderr


def variables(folder: Path, prefix: str = "") -> dict[str, str]:
    """What makes processes find the stand-in driver, this folder's modules, and the MPI of ``prefix``."""

    def before(name: str, *paths: object) -> str:
        return os.pathsep.join([*map(str, paths), *filter(None, [os.environ.get(name)])])

    found = {
        "LD_LIBRARY_PATH": before("LD_LIBRARY_PATH", folder),
        "PYTHONPATH": before("PYTHONPATH", launch.HELPERS, launch.ROOT),
        # UCX wants more of a driver than the stand-in has; Open MPI's own components do not
        "OMPI_MCA_pml": "ob1",
        "OMPI_MCA_btl": "^uct",
        "OMPI_MCA_osc": "^ucx",
    }
    if prefix:
        found |= {"MPI4PY_LIBMPI": f"{prefix}/lib/libmpi.so.40", "PATH": before("PATH", f"{prefix}/bin")}
    return found
