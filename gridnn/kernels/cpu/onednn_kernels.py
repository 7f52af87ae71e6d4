"""Convolutions and GEMM by oneDNN: float32 as PyTorch computes it, on dense arrays or on dense copies of tiles."""

from __future__ import annotations

from typing import Any

import numpy as np

from gridnn.kernels.cpu.numba_kernels import NumbaKernels
from gridnn.kernels.cpu.onednn import OneDnn, order_of
from gridnn.kernels.cpu.onednn_convolution import OneDnnConvolution
from gridnn.kernels.cpu.onednn_tiles import Walk
from gridnn.kernels.taps import Sizes
from gridnn.kernels.tiles import Array

FEW_CHANNELS = 8  # of the input: its gradient is faster by a GEMM and col2im


class OneDnnKernels(NumbaKernels):
    """float32 convolutions and products of matrices by oneDNN, everything else as in `NumbaKernels`.

    oneDNN is fast on dense channels-last arrays only. Where one is a view (a part of a frame while halos are in flight,
    the channels of a group), tiles of it are copied to the workspace: one pass over the array, where im2col makes one
    for every tap.

    Raises
    ------
    ImportError
        If oneDNN or numba is not installed.
    """

    name = "onednn"

    def __init__(self, xp: Any):
        self._library = OneDnn()
        super().__init__(xp)
        self._convolutions: dict[tuple, OneDnnConvolution] = {}
        self._large = np.empty(0, np.float32)  # scratch for weights that the workspace does not hold

    def parts(self, dtype: Any) -> dict[str, str]:
        mine = {f"oneDNN {self._library.version}": "convolutions and GEMM"} if np.dtype(dtype) == np.float32 else {}
        return {**mine, **super().parts(dtype)}

    def matmul(self, a: Array, b: Array, out: Array) -> None:
        if multiplies(a, b, out):
            self._library.sgemm(a, b, out, add=False)
        else:
            super().matmul(a, b, out)

    def add_product(self, a: Array, b: Array, out: Array, workspace: Array) -> None:
        if multiplies(a, b, out):
            self._library.sgemm(a, b, out, add=True)
        else:
            super().add_product(a, b, out, workspace)

    def conv(self, x: Array, w: Array, stride: Sizes, dilation: Sizes, out: Array, workspace: Array) -> None:
        walk = Walk(x, w, out, stride, dilation, workspace)
        if walk.possible and not is_narrow(w, out):
            self._output(walk, x, w, out)
        else:
            super().conv(x, w, stride, dilation, out, workspace)

    def conv_grad_weight(
        self, x: Array, dy: Array, stride: Sizes, dilation: Sizes, out: Array, workspace: Array
    ) -> None:
        walk = Walk(x, out, dy, stride, dilation, workspace)
        if walk.possible and not is_narrow(out, dy):
            self._weight(walk, x, out, dy)
        else:
            super().conv_grad_weight(x, dy, stride, dilation, out, workspace)

    def conv_grad_input(
        self, dy: Array, w: Array, stride: Sizes, dilation: Sizes, out: Array, workspace: Array
    ) -> None:
        walk = Walk(out, w, dy, stride, dilation, workspace)
        if walk.possible and w.shape[-2] > FEW_CHANNELS and not is_narrow(w, dy):
            self._input(walk, out, w, dy)
        else:
            super().conv_grad_input(dy, w, stride, dilation, out, workspace)

    def depthwise(self, x: Array, w: Array, stride: Sizes, dilation: Sizes, out: Array, workspace: Array) -> None:
        walk = Walk(x, w, out, stride, dilation, workspace, depthwise=True)
        if walk.possible:
            self._output(walk, x, w, out)
        else:
            super().depthwise(x, w, stride, dilation, out, workspace)

    def depthwise_grad_weight(
        self, x: Array, dy: Array, stride: Sizes, dilation: Sizes, out: Array, workspace: Array
    ) -> None:
        walk = Walk(x, out, dy, stride, dilation, workspace, depthwise=True)
        if walk.possible:
            self._weight(walk, x, out, dy)
        else:
            super().depthwise_grad_weight(x, dy, stride, dilation, out, workspace)

    def depthwise_grad_input(
        self, dy: Array, w: Array, stride: Sizes, dilation: Sizes, out: Array, workspace: Array
    ) -> None:
        walk = Walk(out, w, dy, stride, dilation, workspace, depthwise=True)
        if walk.possible:
            self._input(walk, out, w, dy)
        else:
            super().depthwise_grad_input(dy, w, stride, dilation, out, workspace)

    def _output(self, walk: Walk, x: Array, w: Array, y: Array) -> None:
        for frame, tile in walk:
            target = y[tile]
            dense = walk.room(target)
            self._run("output", walk.copied(x[frame]), w, dense, walk)
            if dense is not target:
                target[...] = dense

    def _weight(self, walk: Walk, x: Array, w: Array, y: Array) -> None:
        for number, (frame, tile) in enumerate(walk):
            self._run("weight", walk.copied(x[frame]), w, walk.copied(y[tile]), walk, add=number > 0)

    def _input(self, walk: Walk, x: Array, w: Array, y: Array) -> None:
        if walk.whole:
            self._run("input", x, w, y, walk)
            return
        x[...] = 0
        for frame, tile in walk:
            target = x[frame]
            share = walk.take(target.shape)
            self._run("input", share, w, walk.copied(y[tile]), walk)
            target += share

    def _run(self, direction: str, x: Array, w: Array, y: Array, walk: Walk, add: bool = False) -> None:
        convolution = self._convolution(direction, x, w, y, walk)
        scratch = walk.rest
        if scratch.size < convolution.words:
            if self._large.size < convolution.words:
                self._large = np.empty(convolution.words, np.float32)
            scratch = self._large
        convolution.run(x, w, y, scratch, add)

    def _convolution(self, direction: str, x: Array, w: Array, y: Array, walk: Walk) -> OneDnnConvolution:
        """The compiled computation for these shapes, made at the first call."""
        key = (direction, x.shape, w.shape, w.strides, y.shape, *walk.steps)
        if key not in self._convolutions:
            strides = tuple(size // w.itemsize for size in w.strides)
            shapes = (x.shape, w.shape, y.shape)
            self._convolutions[key] = OneDnnConvolution(self._library, direction, shapes, strides, *walk.steps)
        return self._convolutions[key]


def multiplies(a: Array, b: Array, out: Array) -> bool:
    """Whether oneDNN's GEMM takes these matrices."""
    floats = a.dtype == b.dtype == out.dtype == np.float32
    orders = [order_of(array) for array in (a, b, out)]
    return bool(floats and a.size and b.size and None not in orders and orders[2][0] == b"N")


def is_narrow(w: Array, y: Array) -> bool:
    """Whether tiles of GEMMs are faster: oneDNN works line by line, and short lines of many channels waste it.

    The border was measured (docs/kernels.md): 7 outputs with 512 x 512 channels, 4 with 128 x 256, 1 with 64 x 64.
    """
    return y.shape[-2] < (w.shape[-2] * w.shape[-1]).bit_length() - 11
