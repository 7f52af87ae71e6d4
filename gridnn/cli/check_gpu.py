"""The GPU part of ``gridnn check``: driver, packages, and how arrays would move between ranks."""

from __future__ import annotations

import os
import re
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gridnn.comm.transports.capabilities import says
from gridnn.comm.transports.choice import AUTO, Transports
from gridnn.errors import UserError
from gridnn.kernels import get_backend
from gridnn.kernels.cuda.setup import driver_version, spoken
from gridnn.layout.gridshape import GridShape
from gridnn.train.agreement import collective_check, shared_devices

# What a run on GPUs uses, and the distributions that bring it.
PACKAGES = {
    "CuPy": ("cupy-cuda13x", "cupy-cuda12x", "cupy"),
    "NCCL wheel": ("nvidia-nccl-cu13", "nvidia-nccl-cu12"),
    "nvmath-python": ("nvmath-python",),
    "cudnn-frontend": ("nvidia-cudnn-frontend",),
    "ml_dtypes": ("ml_dtypes",),
}


def gpu_facts(job: Any) -> tuple[dict[str, str], list[str]]:
    """What is to be shown of GPUs, by name, and what is wrong; all ranks of ``job`` call it together."""
    found = gpus()
    rows = {
        "GPUs": ", ".join(found) or "none",
        "NVIDIA driver": driver(),
        "GPU packages": ", ".join(f"{name} {installed(*wheels)}" for name, wheels in PACKAGES.items()),
        "CUDA-aware MPI": {True: "says yes", False: "says no", None: "says nothing"}[says(os.environ, job.library)],
    }
    problems: list[str] = []
    if all(job.comm.allgather(bool(found) or find_spec("cupy") is not None)):
        try:
            backend = collective_check(job.comm, lambda: get_backend("cupy", local_rank=job.local_rank))
        except UserError as error:
            rows["--backend cupy"] = "cannot run here"
            problems += [str(error)] if found else []  # a node without GPUs needs no CuPy
        else:
            rows["--backend cupy"] = ", ".join(f"{name} {text}" for name, text in backend.facts().items())
            rows["--transport auto"] = str(Transports.choose(AUTO, job, backend.device, GridShape(1, job.size)))
            problems += shared_devices(job, backend)
    return rows, problems


def gpus() -> list[str]:
    """The NVIDIA GPUs of this node, by name where the driver says it."""
    described = [path.read_text() for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))]
    names = [match.group(1).strip() for text in described if (match := re.search(r"^Model:(.*)$", text, re.MULTILINE))]
    devices = [path.name for path in sorted(Path("/dev").glob("nvidia[0-9]*"))]
    return names if len(names) == len(devices) else devices


def driver() -> str:
    """The version of the driver, and the newest CUDA that it runs."""
    newest = driver_version()
    if not newest:
        return "none"
    try:
        said = re.search(r"Module\s+(?:for \S+\s+)?([\d.]+)", Path("/proc/driver/nvidia/version").read_text())
    except OSError:
        said = None
    return f"{said.group(1) if said else 'loaded'}, for CUDA {spoken(newest)} and older"


def installed(*distributions: str) -> str:
    """The version of the first of these distributions that is installed."""
    for name in distributions:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "not installed"
