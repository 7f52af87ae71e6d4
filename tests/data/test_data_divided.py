"""Every kind of data on every grid: each rank reads its box, and the losses are those of the serial run."""

from __future__ import annotations

import numpy as np
import pytest
from running import folder, job_of
from test_data_hdf5 import write as write_hdf5
from test_images import write as write_images

from gridnn.data.order import batches, epoch_order
from gridnn.layers import Conv3d, GlobalAvgPool, Linear, ReLU
from gridnn.network import Network
from gridnn.train.config import RunConfig
from gridnn.train.session import Session

STEPS = 4


def a_number_each(input_shape, outputs):
    net = Network(input_shape)
    net.add("conv", Conv3d(4, 3, stride=2, padding=1))
    net.add("relu", ReLU())
    net.add("pool", GlobalAvgPool())
    net.add("fc", Linear(outputs))
    return net


def a_place_each(input_shape, outputs):
    net = Network(input_shape)
    net.add("conv1", Conv3d(5, 3, padding=1))
    net.add("relu", ReLU())
    net.add("conv2", Conv3d(outputs, 1))
    return net


def volume_arrays(like="numbers"):
    random = np.random.default_rng(0)
    content = {}
    for part, count in (("train", 9), ("test", 4)):
        x = content[f"x_{part}"] = random.random((count, 9, 12, 8, 2)).astype("float32")
        targets = {"numbers": x.mean((1, 2, 3)), "places": x[..., :1] * 2, "labels": (x[..., 0] * 3).astype("int8")}
        content[f"y_{part}"] = np.concatenate([targets[like]] * 2, -1) if like == "numbers" else targets[like]
    return content


def hdf5(folder, like="numbers", **options):
    return write_hdf5(folder, volume_arrays(like), **options)


def npy(folder):
    for name, array in volume_arrays().items():
        np.save(folder / f"{name}.npy", array)
    return str(folder)


NUMBER, PLACE = (f"{__file__}:{function}" for function in ("a_number_each", "a_place_each"))
CASES = {
    "hdf5": (hdf5, {"model": NUMBER, "loss": "mse"}),
    "hdf5 compressed": (lambda folder: hdf5(folder, chunks=True, compression="gzip"), {"model": NUMBER, "loss": "mse"}),
    "npy": (npy, {"model": NUMBER, "loss": "mse"}),
    "a number for every place": (lambda folder: hdf5(folder, "places"), {"model": PLACE, "loss": "mse"}),
    "a label for every place": (lambda folder: hdf5(folder, "labels"), {"model": PLACE, "classes": 3}),
    "volumes": (lambda folder: "volumes", {"model": NUMBER, "loss": "mse", "shape": "9x12x8x1", "samples": 14}),
    "images": (write_images, {"model": "lenet", "resize": 40, "crop": 32, "flip": True}),
    "digits resized": (lambda folder: "digits", {"model": "lenet", "resize": 32}),
}


def losses(config, comm):
    session = Session(config, job_of(comm))
    order = list(batches(epoch_order(len(session.data.train), 0, 1, True), session.batch))[:STEPS]
    seen = [session.step(b, i, after)[0] for i, (b, after) in enumerate(zip(order, [*order[1:], None], strict=True), 1)]
    return [*seen, *session.evaluate(session.data.test)]


@pytest.mark.mpi
@pytest.mark.parametrize("case", CASES)
def test_losses_are_those_of_the_serial_run(comm, case):
    from mpi4py import MPI

    make, options = CASES[case]
    with folder(comm) as place:
        path = comm.bcast(make(place) if comm.rank == 0 else None)
        config = RunConfig.of(dataset=path, batch=4, dtype="float64", strategy="domain", replicas=True, **options)
        config.validate()
        alone = losses(config, MPI.COMM_SELF)
        for rows in {comm.size, 2 if comm.size % 2 == 0 else 1}:
            grid = config.replaced(grid=f"{rows}x{comm.size // rows}")
            np.testing.assert_allclose(losses(grid, comm), alone, rtol=1e-10, err_msg=f"{case} {grid.plan.grid}")
