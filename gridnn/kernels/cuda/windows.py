"""Pooling and depthwise convolution on the GPU: one launch each; those over whole space are windows as large as it."""

from __future__ import annotations

import math

from gridnn.kernels.cuda.descriptors import five_axes, steps_of, window_descriptor
from gridnn.kernels.table import Kernels
from gridnn.kernels.taps import Sizes
from gridnn.kernels.tiles import Array

CHUNKS = 256  # of lines, in a sum over all outputs: few enough for one thread to add them up
THREADS = 1 << 18  # keep a large device busy
INDEX_TYPES = {1: "unsigned char", 4: "unsigned int"}


# -- pooling -----------------------------------------------------------------------------------------------


def max_pool(kernels, x, kernel, stride, out, index, workspace):
    descriptor = window_descriptor(x, out, kernel, stride, index=five_axes(steps_of(index), 0))
    types = (x.dtype, INDEX_TYPES[index.itemsize])
    kernels.cuda.windows.launch("max_pool", types, out.size, x, out, index, descriptor, out.size)


def max_pool_grad(kernels, dy, index, kernel, stride, out, workspace):
    descriptor = window_descriptor(out, dy, kernel, stride, index=five_axes(steps_of(index), 0))
    types = (out.dtype, INDEX_TYPES[index.itemsize])
    kernels.cuda.windows.launch("max_pool_grad", types, out.size, dy, index, out, descriptor, out.size)


def avg_pool(kernels, x, kernel, stride, out):
    _sum_windows(kernels, x, kernel, stride, out, math.prod(kernel))


def avg_pool_grad(kernels, dy, kernel, stride, out, workspace):
    _spread_windows(kernels, dy, kernel, stride, out, math.prod(kernel))


def mean_space(kernels, x, count, out):
    space = x.shape[1:-1]
    _sum_windows(kernels, x, space, space, _over_space(out, x), count)


def mean_space_grad(kernels, dy, count, out):
    space = out.shape[1:-1]
    _spread_windows(kernels, _over_space(dy, out), space, space, out, count)


def _sum_windows(kernels: Kernels, x: Array, kernel: Sizes, stride: Sizes, out: Array, count: int) -> None:
    descriptor = window_descriptor(x, out, kernel, stride)
    kernels.cuda.windows.launch("sum_windows", (x.dtype,), out.size, x, out, float(count), descriptor, out.size)


def _spread_windows(kernels: Kernels, dy: Array, kernel: Sizes, stride: Sizes, out: Array, count: int) -> None:
    descriptor = window_descriptor(out, dy, kernel, stride)
    kernels.cuda.windows.launch("spread_windows", (out.dtype,), out.size, dy, out, float(count), descriptor, out.size)


# -- depthwise convolution ---------------------------------------------------------------------------------


def depthwise(kernels, x, w, stride, dilation, out, workspace):
    descriptor = window_descriptor(x, out, w.shape[:-2], stride, dilation, w=_filter_steps(w))
    kernels.cuda.windows.launch("depthwise", (x.dtype,), out.size, x, w, out, descriptor, out.size)


def depthwise_grad_input(kernels, dy, w, stride, dilation, out, workspace):
    descriptor = window_descriptor(out, dy, w.shape[:-2], stride, dilation, w=_filter_steps(w))
    kernels.cuda.windows.launch("depthwise_grad_input", (out.dtype,), out.size, dy, w, out, descriptor, out.size)


def depthwise_grad_weight(kernels, x, dy, stride, dilation, out, workspace):
    """In two steps: float64 sums over chunks of the lines into ``workspace``, and over the chunks."""
    descriptor = window_descriptor(x, dy, out.shape[:-2], stride, dilation, w=_filter_steps(out))
    lines, most = math.prod(dy.shape[:-2]), workspace.nbytes // 8 // max(1, out.size)
    if not most:
        raise ValueError(f"workspace of {workspace.nbytes} bytes, but {out.size} sums of 8 are needed")
    chunks = max(1, min(lines, most, CHUNKS, THREADS // max(1, out.size)))
    sums = chunks * out.size
    kernels.cuda.windows.launch("depthwise_partial", (x.dtype,), sums, x, dy, workspace, chunks, descriptor, sums)
    kernels.cuda.windows.launch("depthwise_total", (out.dtype,), out.size, workspace, out, chunks, descriptor, out.size)


def _over_space(array: Array, like: Array) -> Array:
    """[n, c] as [n, 1, ..., c]."""
    return array.reshape(array.shape[0], *(1 for _ in like.shape[1:-1]), array.shape[-1])


def _filter_steps(w: Array) -> Sizes:
    """The steps of filters [*kernel, 1, c] along three space axes and from channel to channel."""
    *kernel, _, channel = steps_of(w)
    return (*(0,) * (3 - len(kernel)), *kernel, channel)
