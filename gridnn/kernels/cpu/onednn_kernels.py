"""Convolutions and products of matrices by oneDNN: float32 as PyTorch computes it.

oneDNN is fast on dense channels-last arrays only. Where one is a view (the interior while halos are in flight, the
channels of a group), tiles of it are copied to the workspace: one pass over the array, where im2col makes one for every
tap.
"""

from __future__ import annotations

import numpy as np

from gridnn.kernels.cpu.onednn import OneDnn, order_of
from gridnn.kernels.cpu.onednn_convolution import OneDnnConvolution
from gridnn.kernels.cpu.onednn_tiles import DenseTiles
from gridnn.kernels.table import Kernels, may_decline
from gridnn.kernels.tiles import Array

FEW_CHANNELS = 8  # of the input: its gradient is faster by a GEMM and col2im


class OneDnnContext:
    """What oneDNN keeps between calls; the implementations find it as ``kernels.onednn``.

    That is the ``library``, and ``convolutions``: computations by direction, shapes, strides and dilations.
    `ImportError` if oneDNN is not installed.
    """

    def __init__(self) -> None:
        self.library = OneDnn()
        self.convolutions: dict[tuple, OneDnnConvolution] = {}
        self._large = np.empty(0, np.float32)

    def run(self, direction: str, x: Array, w: Array, y: Array, tiles: DenseTiles, add: bool = False) -> None:
        """Compute one direction on dense arrays, in what ``tiles`` leaves of the workspace; ``add`` to the weights."""
        key = (direction, x.shape, w.shape, w.strides, y.shape, *tiles.geometry)
        if key not in self.convolutions:
            strides = tuple(size // w.itemsize for size in w.strides)
            shapes = (x.shape, w.shape, y.shape)
            self.convolutions[key] = OneDnnConvolution(self.library, direction, shapes, strides, *tiles.geometry)
        convolution = self.convolutions[key]
        scratch = tiles.rest
        if scratch.size < convolution.words:  # the workspace does not hold the weights
            if self._large.size < convolution.words:
                self._large = np.empty(convolution.words, np.float32)
            scratch = self._large
        convolution.run(x, w, y, scratch, add)


# -- products --------------------------------------------------------------------------------------------------


@may_decline
def matmul(kernels, a, b, out):
    if not multiplies(a, b, out):
        return NotImplemented
    kernels.onednn.library.sgemm(a, b, out, add=False)


@may_decline
def add_product(kernels, a, b, out, workspace):
    if not multiplies(a, b, out):
        return NotImplemented
    kernels.onednn.library.sgemm(a, b, out, add=True)


# -- convolutions ----------------------------------------------------------------------------------------------


@may_decline
def conv(kernels, x, w, stride, dilation, out, workspace):
    tiles = DenseTiles(x, w, out, stride, dilation, workspace)
    return _output(kernels, tiles, x, w, out) if tiles.possible and not tiles.is_narrow else NotImplemented


@may_decline
def conv_grad_weight(kernels, x, dy, stride, dilation, out, workspace):
    tiles = DenseTiles(x, out, dy, stride, dilation, workspace)
    return _weight(kernels, tiles, x, out, dy) if tiles.possible and not tiles.is_narrow else NotImplemented


@may_decline
def conv_grad_input(kernels, dy, w, stride, dilation, out, workspace):
    tiles = DenseTiles(out, w, dy, stride, dilation, workspace)
    faster = tiles.is_depthwise or (w.shape[-2] > FEW_CHANNELS and not tiles.is_narrow)
    return _input(kernels, tiles, out, w, dy) if tiles.possible and faster else NotImplemented


# What is given says which it is: the filters of a depthwise convolution have one channel each, its input several.


depthwise = conv
depthwise_grad_weight = conv_grad_weight
depthwise_grad_input = conv_grad_input


def _output(kernels: Kernels, tiles: DenseTiles, x: Array, w: Array, y: Array) -> None:
    for window, tile in tiles:
        target = y[tile]
        dense = tiles.buffer(target)
        kernels.onednn.run("output", tiles.dense(x[window]), w, dense, tiles)
        if dense is not target:
            target[...] = dense


def _weight(kernels: Kernels, tiles: DenseTiles, x: Array, w: Array, y: Array) -> None:
    for number, (window, tile) in enumerate(tiles):
        kernels.onednn.run("weight", tiles.dense(x[window]), w, tiles.dense(y[tile]), tiles, add=number > 0)


def _input(kernels: Kernels, tiles: DenseTiles, x: Array, w: Array, y: Array) -> None:
    if tiles.whole:
        kernels.onednn.run("input", x, w, y, tiles)
        return
    x[...] = 0
    for window, tile in tiles:
        target = x[window]
        share = tiles.take(target.shape)
        kernels.onednn.run("input", share, w, tiles.dense(y[tile]), tiles)
        target += share


def multiplies(a: Array, b: Array, out: Array) -> bool:
    """Whether oneDNN's GEMM takes these matrices."""
    floats = a.dtype == b.dtype == out.dtype == np.float32
    orders = [order_of(array) for array in (a, b, out)]
    return bool(floats and a.size and b.size and None not in orders and orders[2][0] == b"N")
