"""What reading the next batch in the background gains: seconds a step with and without, in turns.

    mpirun -n 1 python scripts/prefetch_check.py [--side 128] [--gzip]

Volumes of 4 side^3 bytes are written into an HDF5 file and trained on, divided by depth over the ranks. The gain is at
its best where a step takes as long as reading does and a core is free; it is none where the ranks keep all cores busy.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
from mpi4py import MPI

from gridnn.layers import Conv3d, GlobalAvgPool, Linear, ReLU
from gridnn.network import Network
from gridnn.train.config import RunConfig
from gridnn.train.session import Session

SAMPLES, BATCH = 12, 2


def network(input_shape: tuple[int, ...], outputs: int) -> Network:
    """A small one, so that reading is no small part of a step."""
    net = Network(input_shape)
    net.add("conv1", Conv3d(16, 5, stride=4, padding=2))
    net.add("relu", ReLU())
    net.add("conv2", Conv3d(32, 3, padding=1))
    net.add("pool", GlobalAvgPool())
    net.add("fc", Linear(outputs))
    return net


def write(path: Path, side: int, packed: bool) -> None:
    random = np.random.default_rng(0)
    options = {"chunks": (1, side // 4, side, side, 1), "compression": "gzip"} if packed else {}
    with h5py.File(path, "w") as file:
        x = file.create_dataset("x", (SAMPLES + SAMPLES // 3, side, side, side, 1), "float32", **options)
        for i in range(len(x)):
            x[i] = random.random(x.shape[1:], "float32").round(2)
        file["y"] = random.random((len(x), 4))


def seconds_a_step(session: Session, ahead: bool) -> float:
    batches = np.arange(SAMPLES).reshape(-1, BATCH)
    started = time.perf_counter()
    for step, batch in enumerate(batches, 1):
        session.step(batch, step, batches[step] if ahead and step < len(batches) else None)
    return (time.perf_counter() - started) / len(batches)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=128, help="voxels along an edge")
    parser.add_argument("--gzip", action="store_true", help="compressed chunks, instead of a contiguous file")
    parser.add_argument("--turns", type=int, default=10)
    options = parser.parse_args()
    comm = MPI.COMM_WORLD
    with tempfile.TemporaryDirectory() as folder:
        path = Path(comm.bcast(folder), "volumes.h5")
        if comm.rank == 0:
            write(path, options.side, options.gzip)
        comm.Barrier()
        model, grid = f"{__file__}:network", f"{comm.size}x1"
        config = RunConfig.of(model=model, dataset=str(path), loss="mse", batch=BATCH, grid=grid, strategy="domain")
        session = Session(config, SimpleNamespace(comm=comm, size=comm.size, nodes=1, threads=1, library=""))
        seconds_a_step(session, True)
        turns = [(seconds_a_step(session, False), seconds_a_step(session, True)) for _ in range(options.turns)]
        without, ahead = (statistics.median(column) for column in zip(*turns, strict=True))
        if comm.rank == 0:
            kind = "gzip" if options.gzip else "contiguous"
            times = f"{1000 * without:.0f} ms a step, read ahead {1000 * ahead:.0f} ms"
            gain = f"{without / ahead:.2f} times as fast (median of {options.turns})"
            print(f"{comm.size} ranks, {options.side}^3 {kind}: {times}: {gain}")
        comm.Barrier()


if __name__ == "__main__":
    main()
