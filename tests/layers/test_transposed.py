"""Transposed convolutions on one rank against PyTorch for y, dx, dW and db."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from serial import Serial
from torches import close, nchw, nhwc

from gridnn import layers as L
from gridnn.errors import UserError

IMAGES = [
    (L.ConvTranspose2d(4, kernel, stride, padding, dilation=dilation), (2, 5, 4, 6))
    for kernel, stride, padding, dilation in itertools.product((1, 2, 3, 4), (1, 2, 3), (0, 1), (1, 2))
]
OTHERS = [
    (L.ConvTranspose2d(4, (3, 2), (2, 3), (1, 0), (1, 2), (1, 3)), (2, 5, 4, 6)),
    (L.ConvTranspose2d(4, 3, 2, 1, 1, groups=2, bias=False), (2, 5, 4, 6)),
    (L.ConvTranspose2d(6, 3, 2, 1, groups=6), (2, 5, 4, 6)),
    (L.ConvTranspose2d(3, 1, 4, output_padding=3), (2, 3, 2, 2)),
    (L.ConvTranspose2d(3, 5, padding=3), (2, 4, 6, 2)),
    (L.ConvTranspose1d(4, 4, 2, 1), (3, 6, 5)),
    (L.ConvTranspose1d(4, 3, 2, 2, 1, 3, groups=2), (3, 6, 4)),
    (L.ConvTranspose3d(4, 2, 2), (2, 3, 2, 4, 5)),
    (L.ConvTranspose3d(4, (3, 2, 1), (2, 1, 3), (1, 0, 0), (1, 0, 2), groups=2), (2, 3, 4, 2, 6)),
    (L.ConvTranspose3d(4, 3, groups=4), (1, 3, 2, 3, 4)),
]


def torch_weight(w, layer, inputs):
    """W [*kernel, co / groups, ci] as PyTorch's [ci, co / groups, *kernel]."""
    assert w.shape == (*layer.kernel, layer.channels // layer.groups, inputs)
    return torch.from_numpy(np.moveaxis(w, (-1, -2), (0, 1)).copy()).requires_grad_()


@pytest.mark.parametrize(("layer", "shape"), IMAGES + OTHERS, ids=str)
def test_transposed_convolution(layer, shape):
    rng = np.random.default_rng(1)
    x, b = rng.normal(size=shape), rng.normal(size=layer.channels)
    w = rng.normal(size=(*layer.kernel, layer.channels // layer.groups, shape[-1]))
    run = Serial(layer, shape, weights={"weight": w, "bias": b} if layer.bias else {"weight": w})
    y = run.forward(x)
    dy = rng.normal(size=y.shape)
    (dx,) = run.backward(dy)
    tx, tw, tb = nchw(x), torch_weight(w, layer, shape[-1]), torch.from_numpy(b).requires_grad_()
    function = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}[len(layer.kernel)]
    ty = function(
        tx,
        tw,
        tb if layer.bias else None,
        stride=layer.stride,
        padding=tuple(before for before, _ in layer.padding),
        output_padding=layer.output_padding,
        groups=layer.groups,
        dilation=layer.dilation,
    )
    ty.backward(torch.from_numpy(np.moveaxis(dy, -1, 1).copy()))
    close(y, nhwc(ty))
    close(dx, nhwc(tx.grad))
    close(run.gradient("weight"), np.moveaxis(tw.grad.numpy(), (0, 1), (-1, -2)))
    if layer.bias:
        close(run.gradient("bias"), tb.grad)


def test_it_is_the_adjoint_of_a_convolution():
    """Asymmetric padding too, which PyTorch has not."""
    rng = np.random.default_rng(2)
    options = {"stride": (2, 1), "padding": ((2, 0), (1, 3)), "dilation": (1, 2)}
    w, x = rng.normal(size=(4, 3, 2, 5)), rng.normal(size=(3, 6, 7, 5))
    run = Serial(L.ConvTranspose2d(2, (4, 3), **options, bias=False), x.shape, weights={"weight": w})
    y = run.forward(x)
    other = Serial(L.Conv2d(5, (4, 3), **options, bias=False), y.shape, weights={"weight": w})
    z = rng.normal(size=y.shape)
    np.testing.assert_allclose((other.forward(z) * x).sum(), (z * y).sum(), rtol=1e-12)


def test_flops_and_first_values():
    run = Serial(L.ConvTranspose3d(4, 2, 2), (5, 3, 4, 5, 6))
    assert run.layer.flops(run.shapes) == 2 * (5 * 3 * 4 * 5 * 6) * 8 * 4
    weight = run.layer.weights(run.shapes)["weight"]
    assert weight.shape == (2, 2, 2, 4, 6) and weight.fan_in == 6  # each output is the sum of six products


def test_refused():
    for make, text in [
        (
            lambda: L.ConvTranspose2d(4, 3, 2, output_padding=2),
            r"output_padding 2 over h >= max\(stride 2, dilation 1\)",
        ),
        (lambda: L.ConvTranspose1d(4, 2, padding=3).infer((4, 2)), r"\(4 - 1\) \* 1 - 6 \+ 2 \+ 0 = -1 outputs"),
        (lambda: L.ConvTranspose1d(4, 2).infer((4, 4, 2)), r"samples of shape \(w, channels\)"),
        (lambda: L.ConvTranspose2d(4, 2, groups=2).infer((4, 4, 3)), "3 input channels / 2 groups = 1.5"),
        (lambda: L.ConvTranspose3d(4, 2, groups=3), "4 output channels / 3 groups"),
    ]:
        with pytest.raises(UserError, match=text):
            make()
