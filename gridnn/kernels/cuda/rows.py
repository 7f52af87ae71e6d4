"""Kernels over elements, rows of channels and flat arrays as CUDA kernels of one pass.

The arithmetic of 16-bit types is that of float32. What no kernel takes (types other than float64, float32, float16 and
bfloat16, or more than five axes that no two can be merged of) is left to the reference form, on the GPU in several
passes.
"""

from __future__ import annotations

import math
from typing import Any

from gridnn.kernels.cuda.module import FLOATS
from gridnn.kernels.cuda.strided import StridedView
from gridnn.kernels.table import Kernels, may_decline
from gridnn.kernels.tiles import Array

GELUS = {"none": "GeluExact", "tanh": "GeluTanh"}
ACTIVATIONS = {"none": "Copy", "relu": "Relu", "tanh": "Tanh", "gelu-tanh": "Gelu"}


# -- elements ----------------------------------------------------------------------------------------------


@may_decline
def convert(kernels, x, out):
    return _unary(kernels, "Copy", x, out)


@may_decline
def relu(kernels, x, out):
    return _unary(kernels, "Relu", x, out)


@may_decline
def leaky_relu(kernels, x, slope, out):
    return _unary(kernels, "LeakyRelu", x, out, slope)


@may_decline
def tanh(kernels, x, out):
    return _unary(kernels, "Tanh", x, out)


@may_decline
def relu_grad(kernels, y, dy, out):
    return _gradient(kernels, "ReluGrad", y, dy, out)


@may_decline
def leaky_relu_grad(kernels, y, dy, slope, out):
    return _gradient(kernels, "LeakyReluGrad", y, dy, out, slope)


@may_decline
def tanh_grad(kernels, y, dy, out):
    return _gradient(kernels, "TanhGrad", y, dy, out)


@may_decline
def gelu(kernels, x, out, slope, approximate):
    arrays = (x, out, out if slope is None else slope)
    view = _view(kernels, *arrays) if alike(*arrays) else None
    if view is None:
        return NotImplemented
    types = (GELUS[approximate], x.dtype, view.vector)
    kernels.cuda.elements.launch("gelu", types, view.items, view.items, view.struct, x, out, slope)


@may_decline
def unscale(kernels, g, factor, flag):
    view = _view(kernels, g, fours=False)
    if view is None:
        return NotImplemented
    kernels.cuda.elements.launch(
        "unscale", (g.dtype, flag.dtype), view.items, view.items, view.struct, g, float(factor), flag
    )


# -- channels ----------------------------------------------------------------------------------------------


@may_decline
def affine(kernels, x, scale, offset, out):
    return _channelwise(kernels, "Affine", x, scale, offset, out)


@may_decline
def add_scaled(kernels, x, scale, out, workspace):
    return _channelwise(kernels, "AddScaled", x, scale, None, out)


@may_decline
def bias_activation(kernels, x, bias, activation, out):
    rule = f"Biased<{ACTIVATIONS[activation]}>"
    return _channelwise(kernels, rule, x, bias, None, out)


@may_decline
def sum_rows(kernels, x, out):
    return None if kernels.cuda.sums.add("Sum", (x,), None, out) else NotImplemented


@may_decline
def moments(kernels, x, shift, out, workspace):
    return None if kernels.cuda.sums.add("Moments", (x,), shift, out) else NotImplemented


@may_decline
def moments_grad(kernels, x, dy, mean, out, workspace):
    return None if kernels.cuda.sums.add("MomentsGrad", (x, dy), mean, out) else NotImplemented


@may_decline
def finish(kernels, out, bias, activation):
    if bias is None:
        return NotImplemented
    kernels.bias_activation(out, bias, activation, out)


def activation_grad(kernels, y, activation, out):
    if activation != "none":
        getattr(kernels, f"{activation}_grad")(y, out, out)


# -- updates -----------------------------------------------------------------------------------------------


@may_decline
def sgd(kernels, p, g, m, lr, momentum, nesterov, weight_decay, scratch):
    state = (m,) if momentum else ()
    if not flat(p, g, *state) or not alike(p, *state):
        return NotImplemented
    numbers = (float(lr), float(momentum), int(nesterov), float(weight_decay))
    kernels.cuda.elements.launch("sgd", (p.dtype, g.dtype), p.size, p.size, p, g, *(state or (None,)), *numbers)


@may_decline
def adamw(kernels, p, g, m, v, step, lr, beta1, beta2, eps, weight_decay, scratch):
    if not flat(p, g, m, v) or not alike(p, m, v):
        return NotImplemented
    rate, root = lr / (1 - beta1**step), 1 / math.sqrt(1 - beta2**step)
    numbers = (rate, root, beta1, 1 - beta1, beta2, 1 - beta2, eps, 1 - lr * weight_decay)
    kernels.cuda.elements.launch("adamw", (p.dtype, g.dtype), p.size, p.size, p, g, m, v, *map(float, numbers))


# -- launches ------------------------------------------------------


def _view(kernels: Kernels, *arrays: Array, groups: int = 0, fours: bool = True) -> StridedView | None:
    if not all(array.dtype.name in FLOATS for array in arrays):
        return None
    return kernels.cuda.views.of(*arrays, groups=groups if fours else 1)


def _unary(kernels: Kernels, rule: str, x: Array, out: Array, constant: float = 0.0) -> Any:
    view = _view(kernels, x, out)
    if view is None:
        return NotImplemented
    types = (rule, x.dtype, out.dtype, view.vector)
    kernels.cuda.elements.launch("unary", types, view.items, view.items, view.struct, x, out, float(constant))


def _gradient(kernels: Kernels, rule: str, y: Array, dy: Array, out: Array, constant: float = 0.0) -> Any:
    view = _view(kernels, y, dy, out) if alike(y, dy, out) else None
    if view is None:
        return NotImplemented
    types = (rule, y.dtype, view.vector)
    kernels.cuda.elements.launch("gradient", types, view.items, view.items, view.struct, y, dy, out, float(constant))


def _channelwise(kernels: Kernels, rule: str, x: Array, first: Array, second: Array | None, out: Array) -> Any:
    factors = (first,) if second is None else (first, second)
    channels = x.shape[-1]
    usable = alike(*factors) and all(a.shape == (channels,) and a.flags.c_contiguous for a in factors)
    view = _view(kernels, x, out, groups=channels) if usable and first.dtype.name in FLOATS else None
    if view is None:
        return NotImplemented
    types = (rule, x.dtype, first.dtype, out.dtype, view.vector)
    args = (view.items, view.struct, channels, x, first, second, out)
    kernels.cuda.elements.launch("channelwise", types, view.items, *args)


def alike(*arrays: Array) -> bool:
    """Whether the arrays have one type."""
    return all(array.dtype == arrays[0].dtype for array in arrays)


def flat(*arrays: Array) -> bool:
    """Whether the arrays are contiguous, of one length, and of types that kernels take."""
    same = all(array.ndim == 1 and array.flags.c_contiguous and array.size == arrays[0].size for array in arrays)
    return same and all(array.dtype.name in FLOATS for array in arrays)
