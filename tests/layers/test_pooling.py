"""Pooling on one rank against PyTorch for y and dx."""

from __future__ import annotations

import numpy as np
import pytest
import torch.nn.functional as F
from regions import check_regions
from serial import Serial
from torches import check_against, close, nchw, nhwc

from gridnn import layers as L

RNG = np.random.default_rng

POOLS = [(2, None, 0), (3, 2, 0), (3, 2, 1), (3, 1, 1), ((2, 3), (1, 2), (1, 0)), (2, 3, 0), (4, 1, 2), (1, 2, 0)]
SEQUENCES = [(2, None, 0), (3, 2, 1), (4, 1, 2), ((3,), (4,), (1,))]
VOLUMES = [(2, None, 0), (3, 2, 1), (3, 1, 1), ((1, 2, 3), (3, 1, 2), (0, 1, 1))]
IMAGES, SERIES, BLOCKS = (3, 9, 8, 4), (3, 13, 4), (2, 6, 7, 5, 3)


ALL = [
    (dims, options, shape)
    for dims, pools, shape in (("1d", SEQUENCES, SERIES), ("2d", POOLS, IMAGES), ("3d", VOLUMES, BLOCKS))
    for options in pools
]


@pytest.mark.parametrize(("dims", "options", "shape"), ALL)
@pytest.mark.parametrize("ties", [False, True])
def test_max_pool(dims, options, shape, ties):
    rng = RNG(2)
    x = rng.integers(-2, 3, size=shape).astype(float) if ties else rng.normal(size=shape)
    run = Serial(getattr(L, f"MaxPool{dims}")(*options), shape)
    check_against(run, lambda t: getattr(F, f"max_pool{dims}")(t, *options), x)


@pytest.mark.parametrize(("dims", "options", "shape"), ALL)
@pytest.mark.parametrize("count_padding", [True, False])
def test_avg_pool(dims, options, shape, count_padding):
    run = Serial(getattr(L, f"AvgPool{dims}")(*options, count_padding=count_padding), shape)
    function = getattr(F, f"avg_pool{dims}")
    check_against(run, lambda t: function(t, *options, count_include_pad=count_padding), RNG(3).normal(size=shape))


def test_pool_with_asymmetric_padding():
    x = RNG(4).normal(size=(2, 5, 6, 3))
    y = Serial(L.MaxPool2d(3, 2, ((0, 1), (1, 0))), x.shape).forward(x)
    padded = F.pad(nchw(x), (1, 0, 0, 1), value=-np.inf)
    close(y, nhwc(F.max_pool2d(padded, 3, 2)), 0)
    ones = np.ones(x.shape)
    y = Serial(L.AvgPool2d(3, 2, ((0, 1), (1, 0)), count_padding=False), x.shape).forward(ones)
    close(y, np.ones(y.shape))


def test_max_pool_keeps_nan():
    x = np.zeros((1, 4, 4, 1))
    x[0, 1, 1, 0] = np.nan
    y = Serial(L.MaxPool2d(2), x.shape).forward(x)
    assert np.isnan(y[0, 0, 0, 0]) and np.isfinite(y).sum() == 3


REGIONS = [
    (L.MaxPool1d(3, 2, 1), (3, 17, 2)),
    (L.MaxPool2d(3, 2, 1), (3, 12, 13, 4)),
    (L.MaxPool3d(2), (2, 8, 6, 7, 3)),
    (L.AvgPool2d(3, 1, 1), (3, 8, 9, 4)),
    (L.AvgPool3d(3, (2, 1, 1), 1, count_padding=False), (2, 7, 5, 6, 3)),
]


@pytest.mark.parametrize(("layer", "shape"), REGIONS, ids=str)
def test_pool_in_pieces(layer, shape):
    check_regions(layer, shape)


@pytest.mark.parametrize("shape", [(3, 7, 6), (3, 4, 5, 6), (3, 4, 2, 5, 6)])
def test_global_avg_pool(shape):
    space = tuple(range(1, len(shape) - 1))
    run = Serial(L.GlobalAvgPool(), shape)
    x = RNG(5).normal(size=shape)
    check_against(run, lambda t: t.mean(dim=[axis + 1 for axis in space]), x)
