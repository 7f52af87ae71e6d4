"""The GPU's kernels with cuDNN's convolutions: frames and weights as cuDNN wants them, and what is left to cuBLAS."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from gridnn.kernels.cuda.cudnn import ALIGNMENT, TYPES, Cudnn, Operand, Plan, Problem, operand, pair
from gridnn.kernels.cuda.kernels import CupyKernels
from gridnn.kernels.reference.convolution import is_pointwise
from gridnn.kernels.taps import Sizes, check_frame
from gridnn.kernels.tiles import Array

ROOM_ALIGNMENT = 256  # bytes, as of memory that CUDA allocates


@dataclass
class Solved:
    """A plan, and the memory it runs in.

    Attributes
    ----------
    weights : int
        Bytes of the weights in cuDNN's order, rounded up; the plan's workspace follows them.
    beyond : bool
        Whether ``x`` goes on after the part that cuDNN is told of.
    room : array or None
        Memory, if the caller's workspace is too small: kept, since a captured graph of CUDA may run in it again.
    """

    plan: Plan
    weights: int
    beyond: bool
    room: Array | None = None

    @property
    def size(self) -> int:
        """Bytes of memory, wherever it begins."""
        return self.weights + self.plan.workspace + ROOM_ALIGNMENT


class CudnnKernels(CupyKernels):
    """`CupyKernels` whose convolutions, depthwise ones too, are cuDNN's where that has a plan.

    Left to the inherited kernels are types that cuDNN does not convolve, arrays that it cannot be told of, and
    convolutions that are one product of matrices as they are.

    cuDNN wants weights as [k, *kernel, c]; here they are [*kernel, c, k]. So every call copies them, turned, to its
    workspace, or the gradient from there. The latter is computed in the type of ``x``: cuDNN writes no float32 from 16
    bits.
    """

    def __init__(self, xp: Any, gemm: Any, cudnn: Cudnn) -> None:
        super().__init__(xp, gemm)
        self._cudnn = cudnn
        self._solved: dict[tuple, Solved | None] = {}
        self._large: Array | None = None

    def described(self, dtype: Any) -> str:
        rest = super().described(dtype)
        known = str(dtype) in TYPES
        return f"cuDNN {self._cudnn.version} (convolutions that it has a plan for), {rest}" if known else rest

    def conv(self, x: Array, w: Array, stride: Sizes, dilation: Sizes, out: Array, workspace: Array) -> None:
        if not self._solve("output", x, w, out, stride, dilation, workspace):
            super().conv(x, w, stride, dilation, out, workspace)

    def conv_grad_weight(
        self, x: Array, dy: Array, stride: Sizes, dilation: Sizes, out: Array, workspace: Array
    ) -> None:
        if not self._solve("weight", x, out, dy, stride, dilation, workspace):
            super().conv_grad_weight(x, dy, stride, dilation, out, workspace)

    def conv_grad_input(
        self, dy: Array, w: Array, stride: Sizes, dilation: Sizes, out: Array, workspace: Array
    ) -> None:
        if not self._solve("input", out, w, dy, stride, dilation, workspace):
            super().conv_grad_input(dy, w, stride, dilation, out, workspace)

    def depthwise(self, x: Array, w: Array, stride: Sizes, dilation: Sizes, out: Array, workspace: Array) -> None:
        if not self._solve("output", x, w, out, stride, dilation, workspace):
            super().depthwise(x, w, stride, dilation, out, workspace)

    def depthwise_grad_weight(
        self, x: Array, dy: Array, stride: Sizes, dilation: Sizes, out: Array, workspace: Array
    ) -> None:
        if not self._solve("weight", x, out, dy, stride, dilation, workspace):
            super().depthwise_grad_weight(x, dy, stride, dilation, out, workspace)

    def depthwise_grad_input(
        self, dy: Array, w: Array, stride: Sizes, dilation: Sizes, out: Array, workspace: Array
    ) -> None:
        if not self._solve("input", out, w, dy, stride, dilation, workspace):
            super().depthwise_grad_input(dy, w, stride, dilation, out, workspace)

    def _solve(
        self, direction: str, x: Array, w: Array, y: Array, stride: Sizes, dilation: Sizes, workspace: Array
    ) -> bool:
        """Whether cuDNN has computed ``direction`` (see `Problem`) from the other two."""
        check_frame(x.shape, w.shape[:-2], stride, dilation, y.shape)
        if any(self.address(array) % ALIGNMENT for array in (x, y)):
            return False
        turned = w.dtype == x.dtype or direction == "weight"
        key = (direction, turned, *((a.shape, a.strides, a.dtype) for a in (x, y)), w.shape, stride, dilation)
        if key not in self._solved:
            self._solved[key] = self._planned(direction, x, w, y, stride, dilation) if turned else None
        solved = self._solved[key]
        if solved is None:
            return False
        self._run(solved, direction, x, w, y, workspace)
        return True

    def _planned(self, direction: str, x: Array, w: Array, y: Array, stride: Sizes, dilation: Sizes) -> Solved | None:
        if x.dtype.name not in TYPES or x.dtype != y.dtype or not (x.size and w.size and y.size):
            return None
        if x.shape[-1] == w.shape[-2] and is_pointwise(x, w.shape, stride, y):
            return None
        space = told_of(x.shape[1:-1], w.shape[:-2], stride, dilation, y.shape[1:-1])
        frame, result = operand(x, space), operand(y, y.shape[1:-1])
        if frame is None or result is None:
            return None
        weights = turned_weights(w.shape)
        problem = Problem(direction, x.dtype.name, frame, weights, result, pair(stride), pair(dilation))
        plan = self._cudnn.plan(problem)
        size = -(-math.prod(w.shape) * x.itemsize // ROOM_ALIGNMENT) * ROOM_ALIGNMENT
        return None if plan is None else Solved(plan, size, space != x.shape[1:-1])

    def _run(self, solved: Solved, direction: str, x: Array, w: Array, y: Array, workspace: Array) -> None:
        room = self._room(solved, workspace)
        start = -self.address(room) % ROOM_ALIGNMENT
        *kernel, channels, outputs = w.shape
        bytes_of_weights = room[start : start + w.size * x.itemsize]
        turned = bytes_of_weights.view(x.dtype).reshape(outputs, *kernel, channels)
        if direction != "weight":
            self.convert(self.xp.moveaxis(w, -1, 0), turned)
        if direction == "input" and solved.beyond:
            x[...] = 0
        places = self.address(x), self.address(turned), self.address(y), self.address(turned) + solved.weights
        self._cudnn.run(solved.plan, *places)
        if direction == "weight":
            self.convert(self.xp.moveaxis(turned, 0, -1), w)

    def _room(self, solved: Solved, workspace: Array) -> Array:
        """Memory as bytes: the caller's, if it is large enough, else one that all large plans share."""
        if workspace.nbytes >= solved.size:
            return workspace.view(self.xp.uint8)
        if solved.room is None:
            if self._large is None or self._large.nbytes < solved.size:
                self._large = self.xp.empty(solved.size, self.xp.uint8)
            solved.room = self._large
        return solved.room


def told_of(frame: Sizes, kernel: Sizes, stride: Sizes, dilation: Sizes, output: Sizes) -> Sizes:
    """The sizes of a frame that cuDNN is told: all of it, if no further window fits, else up to the last window."""
    told = []
    for size, taps, step, apart, count in zip(frame, kernel, stride, dilation, output, strict=True):
        window = (taps - 1) * apart + 1
        told.append(size if (size - window) // step + 1 == count else (count - 1) * step + window)
    return tuple(told)


def turned_weights(shape: tuple[int, ...]) -> Operand:
    """Weights of ``shape`` [*kernel, c, k] as they lie in the workspace, [k, *kernel, c]."""
    *kernel, channels, outputs = shape
    kernel = pair(tuple(kernel))
    strides, step = [], channels
    for size in reversed(kernel):
        strides.insert(0, step)
        step *= size
    return Operand((outputs, channels, *kernel), (step, 1, *strides))
