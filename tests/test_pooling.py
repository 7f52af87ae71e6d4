"""Pooling on one rank against PyTorch for y and dx."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from serial import Serial
from torches import close, nchw, nhwc

from gridnn import layers as L

RNG = np.random.default_rng

POOLS = [(2, None, 0), (3, 2, 0), (3, 2, 1), (3, 1, 1), ((2, 3), (1, 2), (1, 0)), (2, 3, 0), (4, 1, 2), (1, 2, 0)]


@pytest.mark.parametrize(("kernel", "stride", "padding"), POOLS)
@pytest.mark.parametrize("ties", [False, True])
def test_max_pool(kernel, stride, padding, ties):
    rng = RNG(2)
    x = rng.integers(-2, 3, size=(3, 9, 8, 4)).astype(float) if ties else rng.normal(size=(3, 9, 8, 4))
    run = Serial(L.MaxPool2d(kernel, stride, padding), x.shape)
    y = run.forward(x)
    dy = rng.normal(size=y.shape)
    (dx,) = run.backward(dy)
    tx = nchw(x)
    ty = F.max_pool2d(tx, kernel, stride, padding)
    ty.backward(torch.from_numpy(np.moveaxis(dy, -1, 1).copy()))
    close(y, nhwc(ty), 0)
    close(dx, nhwc(tx.grad))


@pytest.mark.parametrize(("kernel", "stride", "padding"), POOLS)
def test_avg_pool(kernel, stride, padding):
    rng = RNG(3)
    x = rng.normal(size=(3, 9, 8, 4))
    run = Serial(L.AvgPool2d(kernel, stride, padding), x.shape)
    y = run.forward(x)
    dy = rng.normal(size=y.shape)
    (dx,) = run.backward(dy)
    tx = nchw(x)
    ty = F.avg_pool2d(tx, kernel, stride, padding)
    ty.backward(torch.from_numpy(np.moveaxis(dy, -1, 1).copy()))
    close(y, nhwc(ty))
    close(dx, nhwc(tx.grad))


def test_pool_with_asymmetric_padding():
    x = RNG(4).normal(size=(2, 5, 6, 3))
    y = Serial(L.MaxPool2d(3, 2, ((0, 1), (1, 0))), x.shape).forward(x)
    padded = F.pad(nchw(x), (1, 0, 0, 1), value=-np.inf)
    close(y, nhwc(F.max_pool2d(padded, 3, 2)), 0)


def test_max_pool_keeps_nan():
    x = np.zeros((1, 4, 4, 1))
    x[0, 1, 1, 0] = np.nan
    y = Serial(L.MaxPool2d(2), x.shape).forward(x)
    assert np.isnan(y[0, 0, 0, 0]) and np.isfinite(y).sum() == 3


def test_global_avg_pool():
    rng = RNG(5)
    x, dy = rng.normal(size=(3, 4, 5, 6)), rng.normal(size=(3, 6))
    run = Serial(L.GlobalAvgPool(), x.shape)
    close(run.forward(x), x.mean(axis=(1, 2)))
    close(run.backward(dy)[0], np.broadcast_to(dy[:, None, None] / 20, x.shape))
