"""Convolutions, depthwise ones too, by cuDNN where that has a plan.

Declined are types that cuDNN does not convolve, arrays that it cannot describe, and convolutions that are one product
of matrices as they are.

cuDNN wants weights as [k, *kernel, c]; here they are [*kernel, c, k]. So every call copies them, transposed, to its
workspace, or the gradient from there. The latter is computed in the type of ``x``: cuDNN writes no float32 from 16
bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from gridnn.kernels.cuda.cudnn import ALIGNMENT, TYPES, Cudnn, Operand, Plan, Problem, operand, pair
from gridnn.kernels.reference.convolution import is_pointwise
from gridnn.kernels.table import Kernels, may_decline
from gridnn.kernels.taps import Sizes, check_windows
from gridnn.kernels.tiles import Array

MEMORY_ALIGNMENT = 256  # bytes, as of memory that CUDA allocates


@dataclass
class PlannedConvolution:
    """A plan, and the memory it runs in."""

    plan: Plan
    weights: int  # bytes of the weights in cuDNN's order, rounded up; the plan's workspace follows them
    beyond: bool  # whether ``x`` goes on after the part that cuDNN is given
    # memory, if the caller's workspace is too small: kept, since a captured graph of CUDA may run in it again
    memory: Array | None = None

    @property
    def size(self) -> int:
        """Bytes of memory, wherever it begins."""
        return self.weights + self.plan.workspace + MEMORY_ALIGNMENT


class CudnnContext:
    """What cuDNN's convolutions (``library``) keep between calls; the implementations find it as ``kernels.cudnn``."""

    def __init__(self, library: Cudnn) -> None:
        self.library = library
        self._planned: dict[tuple, PlannedConvolution | None] = {}
        self._large: Array | None = None

    def plan(
        self, direction: str, x: Array, w: Array, y: Array, stride: Sizes, dilation: Sizes
    ) -> PlannedConvolution | None:
        """How cuDNN computes ``direction`` (see `Problem`) from the other two; None: it does not."""
        known = w.dtype == x.dtype or direction == "weight"
        key = (direction, known, *((a.shape, a.strides, a.dtype) for a in (x, y)), w.shape, stride, dilation)
        if key not in self._planned:
            self._planned[key] = self._new(direction, x, w, y, stride, dilation) if known else None
        return self._planned[key]

    def _new(
        self, direction: str, x: Array, w: Array, y: Array, stride: Sizes, dilation: Sizes
    ) -> PlannedConvolution | None:
        if x.dtype.name not in TYPES or x.dtype != y.dtype or not (x.size and w.size and y.size):
            return None
        if x.shape[-1] == w.shape[-2] and is_pointwise(x, w.shape, stride, y):
            return None
        space = covered(x.shape[1:-1], w.shape[:-2], stride, dilation, y.shape[1:-1])
        padded, result = operand(x, space), operand(y, y.shape[1:-1])
        if padded is None or result is None:
            return None
        weights = transposed_weights(w.shape)
        problem = Problem(direction, x.dtype.name, padded, weights, result, pair(stride), pair(dilation))
        plan = self.library.plan(problem)
        size = -(-math.prod(w.shape) * x.itemsize // MEMORY_ALIGNMENT) * MEMORY_ALIGNMENT
        return None if plan is None else PlannedConvolution(plan, size, space != x.shape[1:-1])

    def memory(self, planned: PlannedConvolution, workspace: Array, xp: Any) -> Array:
        """Memory as bytes: the caller's workspace, if it is large enough, else one that all large plans share."""
        if workspace.nbytes >= planned.size:
            return workspace.view(xp.uint8)
        if planned.memory is None:
            if self._large is None or self._large.nbytes < planned.size:
                self._large = xp.empty(planned.size, xp.uint8)
            planned.memory = self._large
        return planned.memory


# -- the operations --------------------------------------------------------------------------------------------


@may_decline
def conv(kernels, x, w, stride, dilation, out, workspace):
    return _compute(kernels, "output", x, w, out, stride, dilation, workspace)


@may_decline
def conv_grad_weight(kernels, x, dy, stride, dilation, out, workspace):
    return _compute(kernels, "weight", x, out, dy, stride, dilation, workspace)


@may_decline
def conv_grad_input(kernels, dy, w, stride, dilation, out, workspace):
    return _compute(kernels, "input", out, w, dy, stride, dilation, workspace)


# The shape of the weights says which channels meet: one filter a channel is a convolution in groups of one.
depthwise = conv
depthwise_grad_weight = conv_grad_weight
depthwise_grad_input = conv_grad_input


def _compute(
    kernels: Kernels, direction: str, x: Array, w: Array, y: Array, stride: Sizes, dilation: Sizes, workspace: Array
) -> Any:
    """Compute ``direction`` from the other two, if cuDNN has a plan for it."""
    check_windows(x.shape, w.shape[:-2], stride, dilation, y.shape)
    address = kernels.cuda.address
    if any(address(array) % ALIGNMENT for array in (x, y)):
        return NotImplemented
    planned = kernels.cudnn.plan(direction, x, w, y, stride, dilation)
    if planned is None:
        return NotImplemented
    memory = kernels.cudnn.memory(planned, workspace, kernels.xp)
    start = -address(memory) % MEMORY_ALIGNMENT
    *kernel, channels, outputs = w.shape
    bytes_of_weights = memory[start : start + w.size * x.itemsize]
    transposed = bytes_of_weights.view(x.dtype).reshape(outputs, *kernel, channels)
    if direction != "weight":
        kernels.convert(kernels.xp.moveaxis(w, -1, 0), transposed)
    if direction == "input" and planned.beyond:
        x[...] = 0
    weights = address(transposed)
    kernels.cudnn.library.run(planned.plan, address(x), weights, address(y), weights + planned.weights)
    if direction == "weight":
        kernels.convert(kernels.xp.moveaxis(transposed, 0, -1), w)


def covered(padded: Sizes, kernel: Sizes, stride: Sizes, dilation: Sizes, output: Sizes) -> Sizes:
    """The extents of ``x`` that cuDNN is given: all of it, if no further window fits, else up to the last window."""
    extents = []
    for size, taps, step, apart, count in zip(padded, kernel, stride, dilation, output, strict=True):
        window = (taps - 1) * apart + 1
        extents.append(size if (size - window) // step + 1 == count else (count - 1) * step + window)
    return tuple(extents)


def transposed_weights(shape: tuple[int, ...]) -> Operand:
    """Weights of ``shape`` [*kernel, c, k] as they lie in the workspace, [k, *kernel, c]."""
    *kernel, channels, outputs = shape
    kernel = pair(tuple(kernel))
    strides, step = [], channels
    for size in reversed(kernel):
        strides.insert(0, step)
        step *= size
    return Operand((outputs, channels, *kernel), (step, 1, *strides))
