"""Every layer under every split that it admits, on real ranks, against the serial layer: y, dx, dW, db.

The serial layers are held against PyTorch in test_layers.py.
"""

from __future__ import annotations

import random

import numpy as np
import pytest
from backends import on_backend
from divided import Divided, Shift, serial_results
from splits import admitted_splits

from gridnn import layers as L
from gridnn.comm.grid import Grid
from gridnn.layers.base import Shapes
from gridnn.layout.gridshape import GridShape
from gridnn.layout.split import Split
from gridnn.network import Network

CASES = {
    "linear": (L.Linear(7), (5, 9)),
    "linear without bias": (L.Linear(6, bias=False), (6, 8)),
    "conv 3x3": (L.Conv2d(7, 3, padding=1), (5, 9, 7, 6)),
    "conv 5x4 strided": (L.Conv2d(6, (5, 4), stride=(2, 3), padding=((2, 1), (0, 3))), (6, 13, 17, 7)),
    "conv dilated": (L.Conv2d(6, (2, 3), dilation=(3, 2), padding=2), (6, 10, 9, 6)),
    "conv 11x11 stride 4": (L.Conv2d(6, 11, stride=4, padding=2, bias=False), (6, 31, 31, 6)),
    "conv with holes": (L.Conv2d(6, 1, stride=3), (6, 19, 16, 6)),
    "conv 1x1": (L.Conv2d(7, 1), (6, 7, 6, 6)),
    "conv grouped": (L.Conv2d(12, 3, padding=1, groups=3), (6, 6, 7, 9)),
    "conv depthwise": (L.Conv2d(7, 3, padding=1, groups=7, stride=2), (6, 11, 12, 7)),
    "conv by two filters a channel": (L.Conv2d(12, 3, padding=1, groups=6), (6, 6, 7, 6)),
    "conv of sequences": (L.Conv1d(7, 4, padding=((2, 1),)), (6, 13, 6)),
    "conv of sequences with wide halos": (L.Conv1d(6, 5, dilation=3, padding=6), (6, 9, 6)),
    "conv of sequences with long strides": (L.Conv1d(6, 2, stride=5, padding=1), (6, 29, 6)),
    "conv of volumes": (L.Conv3d(6, 3, padding=1), (6, 6, 7, 6, 6)),
    "conv of volumes 2x3x4 strided": (L.Conv3d(6, (2, 3, 4), (2, 1, 3), (1, 1, 2)), (6, 10, 6, 16, 6)),
    "conv of volumes dilated, grouped": (L.Conv3d(6, (3, 1, 2), 1, 2, (2, 1, 3), groups=2), (6, 6, 6, 7, 6)),
    "conv of volumes depthwise": (L.Conv3d(6, (3, 2, 3), padding=1, groups=6), (6, 6, 6, 7, 6)),
    "transposed conv": (L.ConvTranspose2d(7, 3, 2, 1, 1), (6, 6, 7, 6)),
    "transposed conv that tiles": (L.ConvTranspose3d(6, 2, 2), (6, 6, 6, 7, 6)),
    "transposed conv with wide halos": (L.ConvTranspose2d(6, (7, 4), (1, 3), (2, 1), (0, 2)), (6, 6, 6, 6)),
    "transposed conv of sequences with holes": (L.ConvTranspose1d(6, 2, 5, 1, 4), (6, 6, 6)),
    "transposed conv dilated, grouped": (L.ConvTranspose1d(6, 3, 2, 1, dilation=3, groups=3), (6, 7, 6)),
    "transposed conv depthwise": (L.ConvTranspose2d(6, 3, (2, 1), groups=6, bias=False), (6, 6, 7, 6)),
    "max pool": (L.MaxPool2d(2), (6, 13, 12, 7)),
    "max pool overlapping": (L.MaxPool2d(3, 2, 1), (6, 12, 13, 7)),
    "average pool": (L.AvgPool2d(3, 2, 1), (6, 13, 11, 7)),
    "average pool without padding": (L.AvgPool2d((3, 2), (2, 1), 1, count_padding=False), (6, 11, 6, 7)),
    "max pool of sequences": (L.MaxPool1d(5, 2, 2), (6, 17, 7)),
    "average pool of sequences": (L.AvgPool1d(3), (6, 19, 7)),
    "max pool of volumes": (L.MaxPool3d((2, 3, 2), (1, 2, 2), (1, 1, 0)), (6, 6, 12, 13, 6)),
    "average pool of volumes": (L.AvgPool3d(2, count_padding=False), (6, 12, 12, 13, 6)),
    "up-sampling": (L.Upsample(2), (6, 6, 7, 6)),
    "up-sampling unevenly": (L.Upsample((3, 1), "nearest"), (6, 5, 7, 6)),
    "up-sampling, bilinear": (L.Upsample((2, 3), "linear"), (6, 6, 7, 6)),
    "up-sampling, trilinear": (L.Upsample(2, "linear"), (6, 6, 6, 7, 6)),
    "adaptive average": (L.AdaptiveAvgPool((6, 8)), (6, 13, 7, 6)),
    "adaptive average of volumes": (L.AdaptiveAvgPool(6), (6, 6, 12, 7, 6)),
    "global average of volumes": (L.GlobalAvgPool(), (7, 6, 7, 6, 6)),
    "local response norm": (L.LocalResponseNorm(5, 0.5), (6, 6, 6, 7)),
    "local response norm with wide halos": (L.LocalResponseNorm(8, 1.0, 0.5, 2.0), (6, 6, 7)),
    "global average": (L.GlobalAvgPool(), (7, 6, 7, 6)),
    "relu": (L.ReLU(), (7, 6, 7, 6)),
    "relu flat": (L.ReLU(), (7, 9)),
    "leaky relu": (L.LeakyReLU(0.1), (7, 6, 7, 6)),
    "gelu": (L.GELU(), (7, 9)),
    "tanh": (L.Tanh(), (7, 9)),
    "dropout": (L.Dropout(0.4), (6, 6, 7, 6)),
    "batch norm": (L.BatchNorm(), (6, 6, 7, 6)),
    "batch norm flat": (L.BatchNorm(), (9, 7)),
    "batch norm of volumes": (L.BatchNorm(), (6, 6, 6, 7, 6)),
    "group norm": (L.GroupNorm(3), (6, 6, 7, 6)),
    "group norm of volumes": (L.GroupNorm(2), (6, 6, 6, 7, 6)),
    "group norm of everything": (L.GroupNorm(1), (7, 6, 7)),
    "flatten of volumes": (L.Flatten(), (7, 6, 3, 4, 2)),
    "flatten": (L.Flatten(), (7, 6, 3, 4)),
}

EMPTY_PARTS = {
    "conv": (L.Conv2d(3, 3, 4), (6, 9, 8, 3)),
    "conv depthwise": (L.Conv2d(3, 3, 4, 1, groups=3), (6, 9, 8, 3)),
    "conv of volumes": (L.Conv3d(2, (1, 3, 2), (1, 4, 1)), (6, 3, 9, 3, 2)),
    "max pool": (L.MaxPool2d(3, 4, 1), (6, 9, 8, 3)),
    "transposed conv": (L.ConvTranspose2d(2, 2, 2), (6, 1, 7, 6)),
    "transposed conv with holes": (L.ConvTranspose2d(2, 1, 4, 0, 1), (6, 1, 7, 6)),
    "adaptive average": (L.AdaptiveAvgPool(2), (6, 9, 8, 3)),
    "up-sampling": (L.Upsample((1, 2), "linear"), (6, 2, 3, 3)),
    "local response norm": (L.LocalResponseNorm(5), (6, 3, 4, 3)),
    "group norm": (L.GroupNorm(3), (6, 3, 4, 3)),
}


@pytest.fixture(scope="module")
def grid(comm) -> Grid:
    """One grid for all cases: communicators are dear."""
    shape = GridShape.square(comm.size)
    return Grid(comm, shape.rows, shape.cols, **on_backend())


def some_splits(name, layer, shapes, ranks, limit):
    """All splits, or with many of them a fixed random choice."""
    splits = list(admitted_splits(layer, shapes, ranks))
    return splits if len(splits) <= limit else random.Random(name).sample(splits, limit)


@pytest.mark.mpi
@pytest.mark.parametrize("name", CASES)
def test_layer_under_every_split(comm, grid, name):
    layer, shape = CASES[name]
    shapes = Shapes((shape,), (shape[0], *layer.infer(shape[1:])))
    limit = 70 if comm.size < 6 else 40
    check_splits(comm, grid, name, layer, shape, some_splits(name, layer, shapes, comm.size, limit))


@pytest.mark.mpi
@pytest.mark.parametrize("axis", ["h", "co"])
@pytest.mark.parametrize("name", EMPTY_PARTS)
def test_more_parts_than_outputs(comm, grid, name, axis):
    """Plans refuse such splits; the layers and transfers could do it."""
    layer, shape = EMPTY_PARTS[name]
    check_splits(comm, grid, name, layer, shape, [Split.of(**{axis: comm.size})])


def check_splits(comm, grid, name, layer, shape, chosen):
    """The layer under the splits ``chosen`` equals the serial one, and its ledger the prediction."""
    network = Network(shape[1:])
    network.add("shift", Shift())
    network.add("layer", layer)
    node = network.nodes[1]
    shapes = network.sizes(node, shape[0])
    rng = np.random.default_rng(2)
    x, dy = rng.normal(size=shape), rng.normal(size=shapes.output)
    before = list(admitted_splits(Shift(), network.sizes(network.nodes[0], shape[0]), comm.size))
    serial = None
    for number, split in enumerate(chosen):
        splits = {"shift": before[number % len(before)], "layer": split}
        divided = Divided(comm, grid, network, splits, shape[0])
        y, gradients = divided.step(x, dy)
        if serial is None:
            serial = serial_results(divided, layer, shapes, x, dy)
        message = f"{name}: {splits}"
        np.testing.assert_allclose(y, serial["y"], rtol=1e-10, atol=1e-11, err_msg=message)
        for key, value in gradients.items():
            np.testing.assert_allclose(value, serial[key], rtol=1e-10, atol=1e-10, err_msg=f"{message}: {key}")
        divided.check_ledger()
