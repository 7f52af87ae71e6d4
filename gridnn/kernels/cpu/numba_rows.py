"""Kernels over rows of channels and flat arrays that numba compiles: norms, activations and updates."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gridnn.kernels.cpu.strided import Rows
from gridnn.kernels.reference.kernels import ReferenceKernels
from gridnn.kernels.tiles import Array


class NumbaRows(ReferenceKernels):
    """Compiled forms of `Elementwise` and `Updates`.

    Attributes
    ----------
    row_loops : module
        `compiled_rows`, once numba is loaded.
    """

    row_loops: Any

    # -- activations -------------------------------------------------------------------------------------------

    def relu(self, x: Array, out: Array) -> None:
        view = Rows(x, out, flat=True)
        if not view.possible:
            super().relu(x, out)
            return
        self.row_loops.relu(*view.spans, *view.extents)

    def relu_grad(self, y: Array, dy: Array, out: Array) -> None:
        view = Rows(y, dy, out, flat=True)
        if not view.possible:
            super().relu_grad(y, dy, out)
            return
        self.row_loops.relu_grad(*view.spans, *view.extents)

    def tanh_grad(self, y: Array, dy: Array, out: Array) -> None:
        view = Rows(y, dy, out, flat=True)
        if not view.possible:
            super().tanh_grad(y, dy, out)
            return
        self.row_loops.tanh_grad(*view.spans, *view.extents)

    # -- norms -------------------------------------------------------------------------------------------------

    def sum_rows(self, x: Array, out: Array) -> None:
        view = Rows(x)
        if not view.possible:
            super().sum_rows(x, out)
            return
        sums = np.zeros(out.size)
        self.row_loops.sum_rows(*view.spans, sums, *view.extents)
        out[...] = sums

    def moments(self, x: Array, shift: Array, out: Array, workspace: Array) -> None:
        view = Rows(x)
        if not view.possible:
            super().moments(x, shift, out, workspace)
            return
        out[...] = 0
        self.row_loops.moments(*view.spans, shift, out, *view.extents)

    def moments_grad(self, x: Array, dy: Array, mean: Array, out: Array, workspace: Array) -> None:
        view = Rows(x, dy)
        if not view.possible:
            super().moments_grad(x, dy, mean, out, workspace)
            return
        out[...] = 0
        self.row_loops.moments_grad(*view.spans, mean, out, *view.extents)

    def affine(self, x: Array, scale: Array, offset: Array, out: Array) -> None:
        view = Rows(x, out)
        if not view.possible:
            super().affine(x, scale, offset, out)
            return
        source, target = view.pairs
        self.row_loops.affine(*source, scale, offset, *target, *view.extents)

    def add_scaled(self, x: Array, scale: Array, out: Array, workspace: Array) -> None:
        view = Rows(x, out)
        if not view.possible:
            super().add_scaled(x, scale, out, workspace)
            return
        source, target = view.pairs
        self.row_loops.add_scaled(*source, scale, *target, *view.extents)

    # -- updates -----------------------------------------------------------------------------------------------

    def sgd(
        self, p: Array, g: Array, m: Array | None, lr: float, momentum: float, nesterov: bool, weight_decay: float,
        scratch: Array,
    ) -> None:  # fmt: skip
        arrays = (p, g) if not momentum else (p, g, m)
        if not Rows(*arrays, flat=True).one_run:
            super().sgd(p, g, m, lr, momentum, nesterov, weight_decay, scratch)
            return
        number = p.dtype.type
        if momentum:
            self.row_loops.sgd(p, g, m, number(lr), number(momentum), bool(nesterov), number(weight_decay))
        else:
            self.row_loops.plain_sgd(p, g, number(lr), number(weight_decay))

    def adamw(
        self, p: Array, g: Array, m: Array, v: Array, step: int, lr: float, beta1: float, beta2: float, eps: float,
        weight_decay: float, scratch: Array,
    ) -> None:  # fmt: skip
        if not Rows(p, g, m, v, flat=True).one_run:
            super().adamw(p, g, m, v, step, lr, beta1, beta2, eps, weight_decay, scratch)
            return
        factors = (lr / (1 - beta1**step), 1 / math.sqrt(1 - beta2**step), beta1, 1 - beta1, beta2, 1 - beta2, eps)
        self.row_loops.adamw(p, g, m, v, *map(p.dtype.type, (*factors, 1 - lr * weight_decay)))
