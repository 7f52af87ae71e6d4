"""Norms, activations and updates by numba: one compiled pass over the arrays where NumPy makes several.

What is not float32 or float64, or has channels that are not contiguous, is left to the reference. The compiled loops
are serial: a second pool of threads would fight with that of the BLAS.
"""

from __future__ import annotations

import math

import numpy as np

from gridnn.kernels.cpu import compiled_rows
from gridnn.kernels.cpu.strided import RowView
from gridnn.kernels.table import may_decline

# -- activations -------------------------------------------------------------------------------------------


@may_decline
def relu(kernels, x, out):
    view = RowView(x, out, flat=True)
    if not view.possible:
        return NotImplemented
    compiled_rows.relu(*view.arguments, *view.extents)


@may_decline
def relu_grad(kernels, y, dy, out):
    view = RowView(y, dy, out, flat=True)
    if not view.possible:
        return NotImplemented
    compiled_rows.relu_grad(*view.arguments, *view.extents)


@may_decline
def tanh_grad(kernels, y, dy, out):
    view = RowView(y, dy, out, flat=True)
    if not view.possible:
        return NotImplemented
    compiled_rows.tanh_grad(*view.arguments, *view.extents)


# -- norms -------------------------------------------------------------------------------------------------


@may_decline
def sum_rows(kernels, x, out):
    view = RowView(x)
    if not view.possible:
        return NotImplemented
    sums = np.zeros(out.size)
    compiled_rows.sum_rows(*view.arguments, sums, *view.extents)
    out[...] = sums


@may_decline
def moments(kernels, x, shift, out, workspace):
    view = RowView(x)
    if not view.possible:
        return NotImplemented
    out[...] = 0
    compiled_rows.moments(*view.arguments, shift, out, *view.extents)


@may_decline
def moments_grad(kernels, x, dy, mean, out, workspace):
    view = RowView(x, dy)
    if not view.possible:
        return NotImplemented
    out[...] = 0
    compiled_rows.moments_grad(*view.arguments, mean, out, *view.extents)


@may_decline
def affine(kernels, x, scale, offset, out):
    view = RowView(x, out)
    if not view.possible:
        return NotImplemented
    source, target = view.views
    compiled_rows.affine(*source, scale, offset, *target, *view.extents)


@may_decline
def add_scaled(kernels, x, scale, out, workspace):
    view = RowView(x, out)
    if not view.possible:
        return NotImplemented
    source, target = view.views
    compiled_rows.add_scaled(*source, scale, *target, *view.extents)


# -- updates -----------------------------------------------------------------------------------------------


@may_decline
def sgd(kernels, p, g, m, lr, momentum, nesterov, weight_decay, scratch):
    arrays = (p, g) if not momentum else (p, g, m)
    if not RowView(*arrays, flat=True).one_run:
        return NotImplemented
    number = p.dtype.type
    if momentum:
        compiled_rows.sgd(p, g, m, number(lr), number(momentum), bool(nesterov), number(weight_decay))
    else:
        compiled_rows.plain_sgd(p, g, number(lr), number(weight_decay))


@may_decline
def adamw(kernels, p, g, m, v, step, lr, beta1, beta2, eps, weight_decay, scratch):
    if not RowView(p, g, m, v, flat=True).one_run:
        return NotImplemented
    factors = (lr / (1 - beta1**step), 1 / math.sqrt(1 - beta2**step), beta1, 1 - beta1, beta2, 1 - beta2, eps)
    compiled_rows.adamw(p, g, m, v, *map(p.dtype.type, (*factors, 1 - lr * weight_decay)))
