"""Finding CuPy, the driver and this rank's GPU, and saying what is missing: the refusals of ``--backend cupy``."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from importlib.metadata import distributions
from importlib.util import find_spec
from typing import Any

import numpy as np

from gridnn.errors import UserError, cause_of
from gridnn.kernels.cuda import cublas

WHEEL = re.compile(r"cupy(-cuda[0-9]+x?|-rocm-[0-9-]+)?", re.IGNORECASE)
BFLOAT16_NUMPY = "2.1.2"  # cupy/_util.pyx: with older ones the mere types crash NumPy
OLDEST = 12  # the major version of CUDA below which there is no CuPy that gridnn can use


def import_cupy() -> Any:
    """CuPy; `UserError` if it is not installed, is installed twice, or cannot be imported."""
    if find_spec("cupy") is None:
        raise _refused(f"CuPy is not installed: {_install(driver_version())}")
    wheels = sorted({name for found in distributions() if WHEEL.fullmatch(name := found.metadata["Name"] or "")})
    if len(wheels) > 1:
        raise _refused(
            f"{' and '.join(wheels)} are installed together and have overwritten each other's files: "
            f"pip uninstall {' '.join(wheels)}, then {_install(driver_version())}"
        )
    try:
        return import_module("cupy")
    except ImportError as error:
        said = [line for line in str(error).splitlines() if line.strip("= ")]
        cause = said[-1].strip() if said else type(error).__name__  # CuPy's text ends with the original error
        raise _refused(f"CuPy is installed but cannot be imported ({cause}): {_install(driver_version())}") from error


def choose_device(cupy: Any, local_rank: int, env: Mapping[str, str] | None = None) -> int:
    """The number of this rank's GPU: the only visible one, else its rank on the node modulo the visible ones.

    `UserError` if there is no driver, or one that is too old for CuPy, or no device is visible.
    """
    env, runtime = os.environ if env is None else env, cupy.cuda.runtime
    driver, needed = runtime.driverGetVersion(), runtime.runtimeGetVersion()
    require_driver(driver)
    if driver // 1000 < needed // 1000:
        raise _refused(
            f"the driver runs CUDA {spoken(driver)} at the most, but CuPy {cupy.__version__} was made for CUDA "
            f"{spoken(needed)}: update the driver, or pip uninstall CuPy, then {_install(driver)}"
        )
    try:
        count, cause = runtime.getDeviceCount(), "the driver finds none"
    except runtime.CUDARuntimeError as error:
        count, cause = 0, str(error)
    if not count:
        visible = env.get("CUDA_VISIBLE_DEVICES")
        where = "is not set" if visible is None else f"is {visible!r}"
        raise _refused(
            f"no GPU is visible to local rank {local_rank} ({cause}; CUDA_VISIBLE_DEVICES {where}): ask the scheduler "
            "for GPUs (Slurm: --gpus-per-task=1), let CUDA_VISIBLE_DEVICES name GPUs that nvidia-smi lists, or use "
            "--backend numpy"
        )
    return local_rank % count


def make_context(local_rank: int) -> None:
    """Make this rank's GPU current, if there is one; what is missing is refused later, by all ranks together.

    To be called before MPI starts: Open MPI's way between the GPUs of a node is left out, without a word, if no CUDA
    context is current then (docs/cuda-aware-mpi.md).
    """
    with suppress(UserError):
        cupy = import_cupy()
        number = choose_device(cupy, local_rank)
        with suppress(cupy.cuda.runtime.CUDARuntimeError):
            cupy.cuda.Device(number).use()
            cupy.cuda.runtime.free(0)  # the usual way to have the context made


def require_driver(version: int) -> None:
    """Refuse a node without a driver, whose `driver_version` is 0: a `UserError` with the remedy."""
    if not version:
        raise _refused(
            "this node has no NVIDIA driver (libcuda.so.1 cannot be loaded): run where there is a GPU (Slurm: "
            "--gpus-per-task=1; containers: apptainer --nv, docker --gpus all), or use --backend numpy"
        )


def require_libraries(cupy: Any) -> None:
    """Refuse a CUDA toolkit that lacks what every run needs, before the first array is made: `UserError`."""
    for what, load in (("the CUDA compiler NVRTC", cupy.cuda.nvrtc.getVersion), ("cuBLAS", cublas.load_cublas)):
        try:
            load()
        except (OSError, ImportError, RuntimeError) as error:
            extra = f"cuda{cupy.cuda.runtime.runtimeGetVersion() // 1000}"
            raise _refused(
                f"{what} cannot be loaded ({cause_of(error)}): pip install 'gridnn[{extra}]' brings it "
                f"(cupy-{extra}x[ctk]), or load the site's CUDA module and set CUDA_PATH"
            ) from error


def require_bfloat16(numpy_version: str) -> None:
    """Refuse a NumPy with which CuPy has no bfloat16: a `UserError` with the remedy."""
    if np.lib.NumpyVersion(numpy_version) < BFLOAT16_NUMPY:
        raise _refused(
            f"CuPy has no bfloat16 with NumPy {numpy_version}: pip install 'numpy>={BFLOAT16_NUMPY}', or use another "
            "--dtype"
        )


def driver_version() -> int:
    """The newest CUDA that this node's driver runs, 12040 for 12.4; 0: there is no driver."""
    version = ctypes.c_int(0)
    try:
        ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return 0
    return version.value


def spoken(version: int) -> str:
    """A version of CUDA as people write it: 12.4 for 12040."""
    return f"{version // 1000}.{version % 1000 // 10}"


def _install(driver: int) -> str:
    """How CuPy is installed for a driver; 0 is none."""
    if not driver:
        return "pip install 'gridnn[cuda12]' or 'gridnn[cuda13]', whichever the node's driver runs (nvidia-smi says)"
    if driver // 1000 < OLDEST:
        return f"update the driver, which runs CUDA {spoken(driver)} at the most, to one for CUDA {OLDEST} or newer"
    return f"pip install 'gridnn[cuda{min(driver // 1000, 13)}]' (the driver runs CUDA {spoken(driver)})"


def _refused(text: str) -> UserError:
    return UserError(f"--backend cupy: {text}")
