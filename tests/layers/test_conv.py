"""Convolutions on one rank against PyTorch for y, dx, dW and db."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from regions import check_regions
from serial import Serial
from torches import close, nchw, nhwc

from gridnn import layers as L

RNG = np.random.default_rng

CONVOLUTIONS = [
    {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation}
    for kernel, stride, padding, dilation in itertools.product((1, 2, 3, 5), (1, 2, 3), (0, 1, 2), (1, 2))
] + [
    {"kernel": (3, 2), "stride": (2, 1), "padding": (1, 0), "dilation": (1, 3)},
    {"kernel": (1, 4), "stride": (3, 2), "padding": (0, 2)},
    {"kernel": (9, 11)},
    {"kernel": 3, "padding": ((0, 2), (3, 1)), "stride": 2},
    {"kernel": 4, "padding": ((1, 2), (2, 1)), "dilation": 2},
]
GROUPED = [
    {"kernel": kernel, "stride": stride, "padding": 1, "groups": groups, "dilation": dilation}
    for kernel, stride, groups, dilation in itertools.product((1, 3), (1, 2), (2, 3, 6), (1, 2))
]
SEQUENCES = [
    {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    for kernel, stride, padding, dilation, groups in itertools.product((1, 2, 5), (1, 3), (0, 2), (1, 3), (1, 2))
] + [{"kernel": 4, "padding": ((3, 0),)}, {"kernel": (3,), "stride": (4,), "padding": (1,)}]
VOLUMES = [
    {"kernel": kernel, "stride": stride, "padding": 1, "dilation": dilation, "groups": groups}
    for kernel, stride, dilation, groups in itertools.product((1, 2, 3), (1, 2), (1, 2), (1, 2))
] + [
    {"kernel": (1, 2, 3), "stride": (3, 2, 1), "padding": (0, 2, 1), "dilation": (1, 3, 2)},
    {"kernel": (3, 1, 4), "padding": ((2, 0), (0, 0), (1, 2))},
]
DEPTHWISE = [
    (L.Conv1d(6, 5, 2, 2, groups=6), (2, 11, 6)),
    (L.Conv2d(6, (3, 2), (1, 2), 1, (2, 1), groups=6), (2, 7, 8, 6)),
    (L.Conv2d(12, 3, padding=1, groups=6), (2, 7, 8, 6)),  # two filters a channel
    (L.Conv3d(6, 3, padding=1, groups=6, bias=False), (2, 4, 5, 6, 6)),
]


def torch_convolution(x, w, b, layer):
    padded = F.pad(x, [side for pair in reversed(layer.padding) for side in pair])
    function = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[len(layer.kernel)]
    return function(padded, w, b, stride=layer.stride, dilation=layer.dilation, groups=layer.groups)


def check_convolution(layer, shape, dtype=np.float64, backend=None, tolerance=1e-12):
    rng = RNG(1)
    x = rng.normal(size=shape).astype(dtype)
    w = rng.normal(size=(*layer.kernel, shape[-1] // layer.groups, layer.channels)).astype(dtype)
    b = rng.normal(size=layer.channels).astype(dtype)
    weights = {"weight": w, "bias": b} if layer.bias else {"weight": w}
    run = Serial(layer, shape, dtype=dtype, backend=backend, weights=weights)
    y = run.forward(x)
    dy = rng.normal(size=y.shape).astype(dtype)
    (dx,) = run.backward(dy)
    tx = nchw(x)
    tw = torch.from_numpy(np.moveaxis(w, (-1, -2), (0, 1)).copy()).requires_grad_()
    tb = torch.from_numpy(b).requires_grad_()
    ty = torch_convolution(tx, tw, tb if layer.bias else None, layer)
    ty.backward(torch.from_numpy(np.moveaxis(dy, -1, 1).copy()))
    close(y, nhwc(ty), tolerance)
    close(dx, nhwc(tx.grad), tolerance)
    close(run.gradient("weight"), np.moveaxis(tw.grad.numpy(), (0, 1), (-1, -2)), tolerance)
    if layer.bias:
        close(run.gradient("bias"), tb.grad, tolerance)


@pytest.mark.parametrize("options", CONVOLUTIONS, ids=str)
def test_convolution(options):
    check_convolution(L.Conv2d(4, **options), (3, 9, 11, 5))


@pytest.mark.parametrize("options", GROUPED, ids=str)
def test_grouped_convolution(options):
    check_convolution(L.Conv2d(12, bias=False, **options), (2, 7, 6, 6))


@pytest.mark.parametrize("options", SEQUENCES, ids=str)
def test_convolution_of_sequences(options):
    check_convolution(L.Conv1d(4, **options), (3, 13, 6))


@pytest.mark.parametrize("options", VOLUMES, ids=str)
def test_convolution_of_volumes(options):
    check_convolution(L.Conv3d(6, **options), (2, 5, 6, 7, 4))


@pytest.mark.parametrize(("layer", "shape"), DEPTHWISE, ids=str)
def test_depthwise_convolution(layer, shape):
    check_convolution(layer, shape)


def test_convolution_float32():
    check_convolution(L.Conv2d(33, 3, padding=1), (4, 17, 19, 31), np.float32, tolerance=2e-3)


@pytest.mark.parametrize("words", [60, 100, 500])
@pytest.mark.parametrize(
    "options", [{"kernel": 3, "padding": 1}, {"kernel": (2, 3), "stride": 2, "dilation": 2}, {"kernel": 1}]
)
def test_convolution_in_small_tiles(monkeypatch, words, options):
    monkeypatch.setattr("gridnn.kernels.backend.WORKSPACE_BYTES", words * 8)
    check_convolution(L.Conv2d(4, **options), (3, 9, 11, 3))


REGIONS = [
    (L.Conv1d(4, 5, 2, 1, 2), (3, 23, 3)),
    (L.Conv2d(4, 3, padding=1), (3, 9, 11, 5)),
    (L.Conv2d(4, 1), (3, 9, 8, 5)),
    (L.Conv2d(4, (1, 4), (1, 3), 1, groups=2), (3, 9, 11, 6)),
    (L.Conv2d(6, 3, groups=6, bias=False), (2, 9, 11, 6)),
    (L.Conv3d(3, (3, 2, 4), (1, 2, 1), 1), (2, 5, 8, 7, 2)),
]


@pytest.mark.parametrize(("layer", "shape"), REGIONS, ids=str)
def test_convolution_in_pieces(layer, shape):
    check_regions(layer, shape)


def test_convolution_flops():
    run = Serial(L.Conv2d(6, 3, padding=1, groups=2), (5, 8, 9, 4))
    assert run.layer.flops(run.shapes) == 2 * (5 * 8 * 9 * 6) * 3 * 3 * 2
    run = Serial(L.Conv3d(6, (1, 2, 3), padding=1), (5, 4, 8, 9, 4))
    assert run.layer.flops(run.shapes) == 2 * (5 * 6 * 9 * 9 * 6) * 6 * 4
