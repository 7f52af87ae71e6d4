"""Kernels over windows that numba compiles: pooling, depthwise convolution and the sums of a convolution's gradient."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gridnn.kernels.cpu.strided import Windows
from gridnn.kernels.reference.convolution import is_pointwise
from gridnn.kernels.reference.kernels import ReferenceKernels
from gridnn.kernels.taps import Sizes
from gridnn.kernels.tiles import Array, carve, matrix, tiles

COLUMN_WORDS = 1 << 18  # of a tile of columns, which stays in the cache between the GEMM and the sum
LONGEST_ROW = 640  # of such a tile: with longer ones it has too few rows for the GEMM


class NumbaWindows(ReferenceKernels):
    """Compiled forms of `Pooling` and `Depthwise`, and of the gradient of a convolution's input.

    Attributes
    ----------
    window_loops : module
        `compiled_windows`, once numba is loaded.
    """

    window_loops: Any

    # -- pooling -----------------------------------------------------------------------------------------------

    def max_pool(self, x: Array, kernel: Sizes, stride: Sizes, out: Array, index: Array, workspace: Array) -> None:
        window = Windows(x, out, kernel, stride, index=index)
        if not window.possible:
            super().max_pool(x, kernel, stride, out, index, workspace)
            return
        marks = np.arange(math.prod(kernel), dtype=index.dtype)
        self.window_loops.max_pool(*window.frame, *window.output, *window.index, *window.extents, marks)

    def max_pool_grad(
        self, dy: Array, index: Array, kernel: Sizes, stride: Sizes, out: Array, workspace: Array
    ) -> None:
        window = Windows(out, dy, kernel, stride, index=index)
        if not window.possible:
            super().max_pool_grad(dy, index, kernel, stride, out, workspace)
            return
        out[...] = 0
        self.window_loops.max_pool_grad(*window.output, *window.index, *window.frame, *window.extents)

    def avg_pool(self, x: Array, kernel: Sizes, stride: Sizes, out: Array) -> None:
        window = Windows(x, out, kernel, stride)
        if not window.possible:
            super().avg_pool(x, kernel, stride, out)
            return
        self.window_loops.sum_windows(*window.frame, *window.output, *window.extents, _share(kernel, out))

    def avg_pool_grad(self, dy: Array, kernel: Sizes, stride: Sizes, out: Array, workspace: Array) -> None:
        window = Windows(out, dy, kernel, stride)
        if not window.possible:
            super().avg_pool_grad(dy, kernel, stride, out, workspace)
            return
        out[...] = 0
        self.window_loops.spread_windows(*window.output, *window.frame, *window.extents, _share(kernel, out))

    # -- convolution -------------------------------------------------------------------------------------------

    def conv_grad_input(
        self, dy: Array, w: Array, stride: Sizes, dilation: Sizes, out: Array, workspace: Array
    ) -> None:
        """Where a GEMM for one tap is thin: one for all taps of a tile, added where it belongs by one compiled pass."""
        kernel = w.shape[:-2]
        row = math.prod(w.shape[:-1])
        simple = is_pointwise(out, w.shape, stride, dy) or row > min(LONGEST_ROW, workspace.size)
        if simple or not Windows(out, dy, kernel, stride, dilation=dilation).possible:
            super().conv_grad_input(dy, w, stride, dilation, out, workspace)
            return
        out[...] = 0
        weights = matrix(w).T
        for tile in tiles(dy.shape[:-1], min(COLUMN_WORDS, workspace.size) // row):
            part = dy[tile]
            columns = carve(workspace, (math.prod(part.shape[:-1]), row))
            self.matmul(matrix(part), weights, columns)
            corner = out[(tile[0], *(slice(p.start * s, None) for p, s in zip(tile[1:], stride, strict=True)))]
            window = Windows(corner, part, kernel, stride, dilation=dilation)
            self.window_loops.add_columns(columns.reshape(-1), *window.lines)

    def depthwise(self, x: Array, w: Array, stride: Sizes, dilation: Sizes, out: Array, workspace: Array) -> None:
        window = Windows(x, out, w.shape[:-2], stride, dilation=dilation)
        if not window.possible:
            super().depthwise(x, w, stride, dilation, out, workspace)
            return
        self.window_loops.depthwise(*window.frame, _filters(w), *window.output, *window.extents)

    def depthwise_grad_weight(
        self, x: Array, dy: Array, stride: Sizes, dilation: Sizes, out: Array, workspace: Array
    ) -> None:
        window = Windows(x, dy, out.shape[:-2], stride, dilation=dilation)
        if not window.possible:
            super().depthwise_grad_weight(x, dy, stride, dilation, out, workspace)
            return
        sums = np.zeros(out.size)
        self.window_loops.depthwise_grad_weight(*window.frame, *window.output, sums, *window.extents)
        out[...] = sums.reshape(out.shape)

    def depthwise_grad_input(
        self, dy: Array, w: Array, stride: Sizes, dilation: Sizes, out: Array, workspace: Array
    ) -> None:
        window = Windows(out, dy, w.shape[:-2], stride, dilation=dilation)
        if not window.possible:
            super().depthwise_grad_input(dy, w, stride, dilation, out, workspace)
            return
        out[...] = 0
        self.window_loops.depthwise_grad_input(*window.output, _filters(w), *window.frame, *window.extents)


def _share(kernel: Sizes, like: Array) -> np.floating:
    """One over the size of a window, in the type of the array."""
    return like.dtype.type(1 / math.prod(kernel))


def _filters(w: Array) -> Array:
    """Filters [*kernel, 1, c], one tap after the other."""
    return np.ascontiguousarray(w).reshape(-1)
