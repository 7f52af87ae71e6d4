"""Up-sampling and adaptive pooling on one rank against PyTorch for y and dx."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch.nn.functional as F
from serial import Serial
from torches import check_against

from gridnn import layers as L
from gridnn.errors import UserError

SHAPES = {1: (2, 5, 3), 2: (2, 4, 5, 3), 3: (2, 3, 4, 2, 3)}
LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape)


@pytest.mark.parametrize(
    ("dims", "factor"), [*itertools.product((1, 2, 3), (1, 2, 3)), (2, (3, 2)), (2, (1, 4)), (3, (2, 1, 3)), (1, (5,))]
)
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_upsample(dims, factor, mode):
    x = normal(*SHAPES[dims])
    factors = (factor,) * dims if isinstance(factor, int) else factor
    options = {"mode": "nearest"} if mode == "nearest" else {"mode": LINEAR[dims], "align_corners": False}
    check_against(
        Serial(L.Upsample(factor, mode), x.shape),
        lambda t: F.interpolate(t, scale_factor=tuple(map(float, factors)), **options),
        x,
    )


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((2, 7, 3), 3),
        ((2, 3, 2), 7),
        ((2, 6, 8, 3), 2),
        ((2, 7, 9, 3), (3, 4)),
        ((2, 7, 9, 3), 7),
        ((2, 5, 5, 3), 5),
        ((2, 5, 4, 3), (1, 6)),
        ((2, 5, 6, 7, 2), (2, 3, 4)),
        ((2, 5, 6, 7, 2), 1),
    ],
)
def test_adaptive_avg_pool(shape, size):
    dims = len(shape) - 2
    function = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}[dims]
    check_against(Serial(L.AdaptiveAvgPool(size), shape), lambda t: function(t, size), normal(*shape))


def test_nothing_is_done_where_the_size_is_right():
    x = normal(2, 7, 7, 3)
    run = Serial(L.AdaptiveAvgPool(7), x.shape)
    assert np.shares_memory(run.calls.forward(x), x)


def test_refused():
    for make, text in [
        (lambda: L.Upsample(0), "factor=0"),
        (lambda: L.Upsample(2, "cubic"), "choose 'nearest' or 'linear'"),
        (lambda: L.Upsample((2, 2)).infer((3, 3, 3, 1)), r"one integer or \(d, h, w\)"),
        (lambda: L.Upsample(2).infer((3,)), r"samples of shape \(\*space, channels\)"),
        (lambda: L.AdaptiveAvgPool((2, 0)), "size=.2, 0."),
        (lambda: L.AdaptiveAvgPool(2).infer((3, 3, 3, 3, 1)), r"samples of shape \(\*space, channels\)"),
    ]:
        with pytest.raises(UserError, match=text):
            make()
