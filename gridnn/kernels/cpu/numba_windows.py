"""Pooling, depthwise convolution and the sums of a convolution's gradient by numba; see `numba_rows`."""

from __future__ import annotations

import math

import numpy as np

from gridnn.kernels.cpu import compiled_windows
from gridnn.kernels.cpu.strided import WindowView
from gridnn.kernels.reference.convolution import is_pointwise
from gridnn.kernels.table import may_decline
from gridnn.kernels.taps import Sizes
from gridnn.kernels.tiles import Array, carve, matrix, tiles

COLUMN_WORDS = 1 << 18  # of a tile of columns, which stays in the cache between the GEMM and the sum
LONGEST_ROW = 640  # of such a tile: with longer ones it has too few rows for the GEMM


# -- pooling -----------------------------------------------------------------------------------------------


@may_decline
def max_pool(kernels, x, kernel, stride, out, index, workspace):
    window = WindowView(x, out, kernel, stride, index=index)
    if not window.possible:
        return NotImplemented
    marks = np.arange(math.prod(kernel), dtype=index.dtype)
    compiled_windows.max_pool(*window.padded, *window.output, *window.index, *window.extents, marks)


@may_decline
def max_pool_grad(kernels, dy, index, kernel, stride, out, workspace):
    window = WindowView(out, dy, kernel, stride, index=index)
    if not window.possible:
        return NotImplemented
    out[...] = 0
    compiled_windows.max_pool_grad(*window.output, *window.index, *window.padded, *window.extents)


@may_decline
def avg_pool(kernels, x, kernel, stride, out):
    window = WindowView(x, out, kernel, stride)
    if not window.possible:
        return NotImplemented
    compiled_windows.sum_windows(*window.padded, *window.output, *window.extents, _share(kernel, out))


@may_decline
def avg_pool_grad(kernels, dy, kernel, stride, out, workspace):
    window = WindowView(out, dy, kernel, stride)
    if not window.possible:
        return NotImplemented
    out[...] = 0
    compiled_windows.spread_windows(*window.output, *window.padded, *window.extents, _share(kernel, out))


# -- convolution -------------------------------------------------------------------------------------------


@may_decline
def conv_grad_input(kernels, dy, w, stride, dilation, out, workspace):
    """Where a GEMM for one tap is thin: one for all taps of a tile, added where it belongs by one compiled pass."""
    kernel = w.shape[:-2]
    row = math.prod(w.shape[:-1])
    simple = is_pointwise(out, w.shape, stride, dy) or row > min(LONGEST_ROW, workspace.size)
    if simple or not WindowView(out, dy, kernel, stride, dilation=dilation).possible:
        return NotImplemented
    out[...] = 0
    weights = matrix(w).T
    for tile in tiles(dy.shape[:-1], min(COLUMN_WORDS, workspace.size) // row):
        part = dy[tile]
        columns = carve(workspace, (math.prod(part.shape[:-1]), row))
        kernels.matmul(matrix(part), weights, columns)
        corner = out[(tile[0], *(slice(p.start * s, None) for p, s in zip(tile[1:], stride, strict=True)))]
        window = WindowView(corner, part, kernel, stride, dilation=dilation)
        compiled_windows.add_columns(columns.reshape(-1), *window.lines)


@may_decline
def depthwise(kernels, x, w, stride, dilation, out, workspace):
    window = WindowView(x, out, w.shape[:-2], stride, dilation=dilation)
    if not window.possible:
        return NotImplemented
    compiled_windows.depthwise(*window.padded, _filters(w), *window.output, *window.extents)


@may_decline
def depthwise_grad_weight(kernels, x, dy, stride, dilation, out, workspace):
    window = WindowView(x, dy, out.shape[:-2], stride, dilation=dilation)
    if not window.possible:
        return NotImplemented
    sums = np.zeros(out.size)
    compiled_windows.depthwise_grad_weight(*window.padded, *window.output, sums, *window.extents)
    out[...] = sums.reshape(out.shape)


@may_decline
def depthwise_grad_input(kernels, dy, w, stride, dilation, out, workspace):
    window = WindowView(out, dy, w.shape[:-2], stride, dilation=dilation)
    if not window.possible:
        return NotImplemented
    out[...] = 0
    compiled_windows.depthwise_grad_input(*window.output, _filters(w), *window.padded, *window.extents)


def _share(kernel: Sizes, like: Array) -> np.floating:
    """One over the size of a window, in the type of the array."""
    return like.dtype.type(1 / math.prod(kernel))


def _filters(w: Array) -> Array:
    """Filters [*kernel, 1, c], one tap after the other."""
    return np.ascontiguousarray(w).reshape(-1)
