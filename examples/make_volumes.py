"""Writes volumes and the numbers that they are made from into an HDF5 file, one after the other.

    python examples/make_volumes.py volumes.h5 --side 64 --samples 128 --chunk 32
    mpirun -n 4 gridnn train --dataset volumes.h5 --names density,parameters --model cosmoflow --loss mse \\
        --grid 4x1 --strategy domain --domain 2x2x1
"""

from __future__ import annotations

import argparse

import h5py
import numpy as np


def sample(random: np.random.Generator, side: int) -> tuple[np.ndarray, np.ndarray]:
    """A volume [d, h, w, c], and the four numbers that it is made from."""
    targets = random.uniform(-1, 1, 4)
    along = np.cos(np.pi * (np.arange(side) + 0.5) / side)
    volume = targets[0] + targets[1] * along[:, None, None] + targets[2] * along[:, None] + targets[3] * along
    volume += random.normal(0, 0.5, volume.shape)
    return volume[..., None].astype("float32"), targets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file")
    parser.add_argument("--side", type=int, default=64, help="voxels along each edge")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--chunk", type=int, help="voxels along each edge of a compressed chunk; default: contiguous")
    options = parser.parse_args()
    random = np.random.default_rng(0)
    shape = (options.samples, *[options.side] * 3, 1)
    packed = {"chunks": (1, *[options.chunk] * 3, 1), "compression": "gzip"} if options.chunk else {}
    with h5py.File(options.file, "w") as file:
        density = file.create_dataset("density", shape, "float32", **packed)
        parameters = file.create_dataset("parameters", (options.samples, 4), "float64")
        for i in range(options.samples):
            density[i], parameters[i] = sample(random, options.side)


if __name__ == "__main__":
    main()
