"""Kernels over elements, rows of channels and flat arrays as CUDA kernels of one pass."""

from __future__ import annotations

import math
from typing import Any

from gridnn.kernels.cuda.module import FLOATS, CudaModule
from gridnn.kernels.cuda.reference import CupyReference
from gridnn.kernels.cuda.strided import Box, Boxes
from gridnn.kernels.cuda.sums import RowSums
from gridnn.kernels.tiles import Array

GELUS = {"none": "GeluExact", "tanh": "GeluTanh"}
ACTIVATIONS = {"none": "Copy", "relu": "Relu", "tanh": "Tanh", "gelu-tanh": "Gelu"}


class CupyRows(CupyReference):
    """CUDA forms of `Elementwise` and `Updates`; the arithmetic of 16-bit types is that of float32.

    What no kernel takes (types other than float64, float32, float16 and bfloat16, or more than five axes that no two
    can be merged of) is computed by the reference form on the GPU, in several passes.

    Parameters
    ----------
    xp : module
        CuPy.
    """

    def __init__(self, xp: Any):
        super().__init__(xp)
        self.boxes = Boxes(self.address)
        self._elements = CudaModule(xp, "elements.cu")
        self._sums = RowSums(xp, self.address)

    # -- elements ----------------------------------------------------------------------------------------------

    def convert(self, x: Array, out: Array) -> None:
        self._unary("Copy", x, out) or super().convert(x, out)

    def relu(self, x: Array, out: Array) -> None:
        self._unary("Relu", x, out) or super().relu(x, out)

    def leaky_relu(self, x: Array, slope: float, out: Array) -> None:
        self._unary("LeakyRelu", x, out, slope) or super().leaky_relu(x, slope, out)

    def tanh(self, x: Array, out: Array) -> None:
        self._unary("Tanh", x, out) or super().tanh(x, out)

    def relu_grad(self, y: Array, dy: Array, out: Array) -> None:
        self._gradient("ReluGrad", y, dy, out) or super().relu_grad(y, dy, out)

    def leaky_relu_grad(self, y: Array, dy: Array, slope: float, out: Array) -> None:
        self._gradient("LeakyReluGrad", y, dy, out, slope) or super().leaky_relu_grad(y, dy, slope, out)

    def tanh_grad(self, y: Array, dy: Array, out: Array) -> None:
        self._gradient("TanhGrad", y, dy, out) or super().tanh_grad(y, dy, out)

    def gelu(self, x: Array, out: Array, slope: Array | None, approximate: str) -> None:
        arrays = (x, out, out if slope is None else slope)
        box = self._box(*arrays) if alike(*arrays) else None
        if box is None:
            super().gelu(x, out, slope, approximate)
            return
        types = (GELUS[approximate], x.dtype, box.vector)
        self._elements.launch("gelu", types, box.items, box.items, box.struct, x, out, slope)

    def unscale(self, g: Array, factor: float, flag: Array) -> None:
        box = self._box(g, fours=False)
        if box is None:
            super().unscale(g, factor, flag)
            return
        self._elements.launch(
            "unscale", (g.dtype, flag.dtype), box.items, box.items, box.struct, g, float(factor), flag
        )

    # -- channels ----------------------------------------------------------------------------------------------

    def affine(self, x: Array, scale: Array, offset: Array, out: Array) -> None:
        self._channelwise("Affine", x, scale, offset, out) or super().affine(x, scale, offset, out)

    def add_scaled(self, x: Array, scale: Array, out: Array, workspace: Array) -> None:
        self._channelwise("AddScaled", x, scale, None, out) or super().add_scaled(x, scale, out, workspace)

    def bias_activation(self, x: Array, bias: Array, activation: str, out: Array) -> None:
        rule = f"Biased<{ACTIVATIONS[activation]}>"
        self._channelwise(rule, x, bias, None, out) or super().bias_activation(x, bias, activation, out)

    def sum_rows(self, x: Array, out: Array) -> None:
        self._sums.add("Sum", (x,), None, out) or super().sum_rows(x, out)

    def moments(self, x: Array, shift: Array, out: Array, workspace: Array) -> None:
        self._sums.add("Moments", (x,), shift, out) or super().moments(x, shift, out, workspace)

    def moments_grad(self, x: Array, dy: Array, mean: Array, out: Array, workspace: Array) -> None:
        self._sums.add("MomentsGrad", (x, dy), mean, out) or super().moments_grad(x, dy, mean, out, workspace)

    # -- updates -----------------------------------------------------------------------------------------------

    def sgd(
        self, p: Array, g: Array, m: Array | None, lr: float, momentum: float, nesterov: bool, weight_decay: float,
        scratch: Array,
    ) -> None:  # fmt: skip
        state = (m,) if momentum else ()
        if not flat(p, g, *state) or not alike(p, *state):
            super().sgd(p, g, m, lr, momentum, nesterov, weight_decay, scratch)
            return
        numbers = (float(lr), float(momentum), int(nesterov), float(weight_decay))
        self._elements.launch("sgd", (p.dtype, g.dtype), p.size, p.size, p, g, *(state or (None,)), *numbers)

    def adamw(
        self, p: Array, g: Array, m: Array, v: Array, step: int, lr: float, beta1: float, beta2: float, eps: float,
        weight_decay: float, scratch: Array,
    ) -> None:  # fmt: skip
        if not flat(p, g, m, v) or not alike(p, m, v):
            super().adamw(p, g, m, v, step, lr, beta1, beta2, eps, weight_decay, scratch)
            return
        rate, root = lr / (1 - beta1**step), 1 / math.sqrt(1 - beta2**step)
        numbers = (rate, root, beta1, 1 - beta1, beta2, 1 - beta2, eps, 1 - lr * weight_decay)
        self._elements.launch("adamw", (p.dtype, g.dtype), p.size, p.size, p, g, m, v, *map(float, numbers))

    # -- launches: whether a kernel could take the arrays ------------------------------------------------------

    def _box(self, *arrays: Array, groups: int = 0, fours: bool = True) -> Box | None:
        if not all(array.dtype.name in FLOATS for array in arrays):
            return None
        return self.boxes.of(*arrays, groups=groups if fours else 1)

    def _unary(self, rule: str, x: Array, out: Array, constant: float = 0.0) -> bool:
        box = self._box(x, out)
        if box is not None:
            types = (rule, x.dtype, out.dtype, box.vector)
            self._elements.launch("unary", types, box.items, box.items, box.struct, x, out, float(constant))
        return box is not None

    def _gradient(self, rule: str, y: Array, dy: Array, out: Array, constant: float = 0.0) -> bool:
        box = self._box(y, dy, out) if alike(y, dy, out) else None
        if box is not None:
            types = (rule, y.dtype, box.vector)
            self._elements.launch("gradient", types, box.items, box.items, box.struct, y, dy, out, float(constant))
        return box is not None

    def _channelwise(self, rule: str, x: Array, first: Array, second: Array | None, out: Array) -> bool:
        factors = (first,) if second is None else (first, second)
        channels = x.shape[-1]
        usable = alike(*factors) and all(a.shape == (channels,) and a.flags.c_contiguous for a in factors)
        box = self._box(x, out, groups=channels) if usable and first.dtype.name in FLOATS else None
        if box is not None:
            types = (rule, x.dtype, first.dtype, out.dtype, box.vector)
            args = (box.items, box.struct, channels, x, first, second, out)
            self._elements.launch("channelwise", types, box.items, *args)
        return box is not None


def alike(*arrays: Array) -> bool:
    """Whether the arrays have one type."""
    return all(array.dtype == arrays[0].dtype for array in arrays)


def flat(*arrays: Array) -> bool:
    """Whether the arrays are contiguous, of one length, and of types that kernels take."""
    same = all(array.ndim == 1 and array.flags.c_contiguous and array.size == arrays[0].size for array in arrays)
    return same and all(array.dtype.name in FLOATS for array in arrays)
