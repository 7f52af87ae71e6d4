"""Trains a small network on a divided volume, and prints what every rank held and read (run by test_memory.py)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from running import job_of

from gridnn.layers import Conv3d, GlobalAvgPool, Linear, ReLU
from gridnn.network import Network
from gridnn.train.config import RunConfig
from gridnn.train.session import Session

SAMPLES = (1, 0)  # one a step


def tiny(input_shape: tuple[int, ...], outputs: int) -> Network:
    """A network whose activations are small beside the volume: the first kernel is 5^3, with a stride of 4."""
    net = Network(input_shape)
    net.add("conv1", Conv3d(4, 5, stride=4, padding=2))
    net.add("relu1", ReLU())
    net.add("conv2", Conv3d(8, 3, stride=2, padding=1))
    net.add("pool", GlobalAvgPool())
    net.add("fc", Linear(outputs))
    return net


def status(field: str) -> int:
    """A field of /proc/self/status, in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024


def bytes_read() -> int:
    """What this process read from files."""
    return int(Path("/proc/self/io").read_text().split()[1])


def session(comm, domain: str, **options) -> Session:
    config = RunConfig.of(
        model=f"{__file__}:tiny",
        loss="mse",
        grid=f"{comm.size}x1",
        strategy="domain",
        domain=domain,
        batch=1,
        **options,
    )
    config.validate()
    return Session(config, job_of(comm))


def main(dataset: str, domain: str) -> None:
    import h5py  # noqa: F401  (its own size is no matter here)
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    session(comm, domain, dataset="volumes", shape="32x32x32x1").step(np.array([0]), 1)  # nor that of other libraries
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, read = status("VmRSS"), bytes_read()
    trained, losses = session(comm, domain, dataset=dataset), []
    for step, sample in enumerate(SAMPLES, 1):
        upcoming = np.array(SAMPLES[step : step + 1]) if step < len(SAMPLES) else None
        losses.append(trained.step(np.array([sample]), step, upcoming)[0])
    everyone = comm.gather({"held": status("VmHWM") - before, "read": bytes_read() - read, "losses": losses})
    if comm.rank == 0:
        print(json.dumps(everyone))


if __name__ == "__main__":
    main(*sys.argv[1:])
