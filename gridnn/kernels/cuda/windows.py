"""Pooling and depthwise convolution on the GPU: one launch each."""

from __future__ import annotations

import math

from gridnn.kernels.cuda.convolution import CupyConvolution
from gridnn.kernels.cuda.descriptors import spread, steps_of, windows
from gridnn.kernels.taps import Sizes
from gridnn.kernels.tiles import Array

CHUNKS = 256  # of lines, in a sum over all outputs: few enough for one thread to add them up
THREADS = 1 << 18  # keep a large device busy
INDEX_TYPES = {1: "unsigned char", 4: "unsigned int"}


class CupyWindows(CupyConvolution):
    """The kernels of ``windows.cu`` that compute; those over whole space are windows as large as it."""

    # -- pooling -----------------------------------------------------------------------------------------------

    def max_pool(self, x: Array, kernel: Sizes, stride: Sizes, out: Array, index: Array, workspace: Array) -> None:
        told = windows(x, out, kernel, stride, index=spread(steps_of(index), 0))
        types = (x.dtype, INDEX_TYPES[index.itemsize])
        self._windows.launch("max_pool", types, out.size, x, out, index, told, out.size)

    def max_pool_grad(
        self, dy: Array, index: Array, kernel: Sizes, stride: Sizes, out: Array, workspace: Array
    ) -> None:
        told = windows(out, dy, kernel, stride, index=spread(steps_of(index), 0))
        types = (out.dtype, INDEX_TYPES[index.itemsize])
        self._windows.launch("max_pool_grad", types, out.size, dy, index, out, told, out.size)

    def avg_pool(self, x: Array, kernel: Sizes, stride: Sizes, out: Array) -> None:
        self._sum_windows(x, kernel, stride, out, math.prod(kernel))

    def avg_pool_grad(self, dy: Array, kernel: Sizes, stride: Sizes, out: Array, workspace: Array) -> None:
        self._spread_windows(dy, kernel, stride, out, math.prod(kernel))

    def mean_space(self, x: Array, count: int, out: Array) -> None:
        space = x.shape[1:-1]
        self._sum_windows(x, space, space, _over_space(out, x), count)

    def mean_space_grad(self, dy: Array, count: int, out: Array) -> None:
        space = out.shape[1:-1]
        self._spread_windows(_over_space(dy, out), space, space, out, count)

    def _sum_windows(self, x: Array, kernel: Sizes, stride: Sizes, out: Array, count: int) -> None:
        told = windows(x, out, kernel, stride)
        self._windows.launch("sum_windows", (x.dtype,), out.size, x, out, float(count), told, out.size)

    def _spread_windows(self, dy: Array, kernel: Sizes, stride: Sizes, out: Array, count: int) -> None:
        told = windows(out, dy, kernel, stride)
        self._windows.launch("spread_windows", (out.dtype,), out.size, dy, out, float(count), told, out.size)

    # -- depthwise convolution ---------------------------------------------------------------------------------

    def depthwise(self, x: Array, w: Array, stride: Sizes, dilation: Sizes, out: Array, workspace: Array) -> None:
        told = windows(x, out, w.shape[:-2], stride, dilation, w=_filter_steps(w))
        self._windows.launch("depthwise", (x.dtype,), out.size, x, w, out, told, out.size)

    def depthwise_grad_input(
        self, dy: Array, w: Array, stride: Sizes, dilation: Sizes, out: Array, workspace: Array
    ) -> None:
        told = windows(out, dy, w.shape[:-2], stride, dilation, w=_filter_steps(w))
        self._windows.launch("depthwise_grad_input", (out.dtype,), out.size, dy, w, out, told, out.size)

    def depthwise_grad_weight(
        self, x: Array, dy: Array, stride: Sizes, dilation: Sizes, out: Array, workspace: Array
    ) -> None:
        """In two steps: float64 sums over chunks of the lines into ``workspace``, and over the chunks."""
        told = windows(x, dy, out.shape[:-2], stride, dilation, w=_filter_steps(out))
        lines, most = math.prod(dy.shape[:-2]), workspace.nbytes // 8 // max(1, out.size)
        if not most:
            raise ValueError(f"workspace of {workspace.nbytes} bytes, but {out.size} sums of 8 are needed")
        chunks = max(1, min(lines, most, CHUNKS, THREADS // max(1, out.size)))
        sums = chunks * out.size
        self._windows.launch("depthwise_partial", (x.dtype,), sums, x, dy, workspace, chunks, told, sums)
        self._windows.launch("depthwise_total", (out.dtype,), out.size, workspace, out, chunks, told, out.size)


def _over_space(array: Array, like: Array) -> Array:
    """[n, c] as [n, 1, ..., c]."""
    return array.reshape(array.shape[0], *(1 for _ in like.shape[1:-1]), array.shape[-1])


def _filter_steps(w: Array) -> Sizes:
    """The steps of filters [*kernel, 1, c] along three space axes and from channel to channel."""
    *kernel, _, channel = steps_of(w)
    return (*(0,) * (3 - len(kernel)), *kernel, channel)
