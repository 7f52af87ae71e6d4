"""Convolutions and GEMM by oneDNN: float32 as PyTorch computes it, on dense arrays or on dense copies of tiles."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from gridnn.arrays.numba_kernels import NumbaKernels
from gridnn.arrays.onednn import OneDnn, order_of
from gridnn.arrays.onednn_convolution import Convolution
from gridnn.arrays.taps import Sizes, check_frame
from gridnn.arrays.tiles import Array, Tile, carve

FEW_CHANNELS = 8  # of the input: its gradient is faster by a GEMM and col2im
SPARE_WORDS = 1 << 16  # of the workspace, for what a primitive needs beside its weights


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
        self._convolutions: dict[tuple, Convolution] = {}
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
        if not walk.possible or is_narrow(w, out):
            super().conv(x, w, stride, dilation, out, workspace)
            return
        self._output(walk, x, w, out)

    def conv_grad_weight(
        self, x: Array, dy: Array, stride: Sizes, dilation: Sizes, out: Array, workspace: Array
    ) -> None:
        walk = Walk(x, out, dy, stride, dilation, workspace)
        if not walk.possible or is_narrow(out, dy):
            super().conv_grad_weight(x, dy, stride, dilation, out, workspace)
            return
        self._weight(walk, x, out, dy)

    def conv_grad_input(
        self, dy: Array, w: Array, stride: Sizes, dilation: Sizes, out: Array, workspace: Array
    ) -> None:
        walk = Walk(out, w, dy, stride, dilation, workspace)
        if not walk.possible or w.shape[-2] <= FEW_CHANNELS or is_narrow(w, dy):
            super().conv_grad_input(dy, w, stride, dilation, out, workspace)
            return
        self._input(walk, out, w, dy)

    def depthwise(self, x: Array, w: Array, stride: Sizes, dilation: Sizes, out: Array, workspace: Array) -> None:
        walk = Walk(x, w, out, stride, dilation, workspace, depthwise=True)
        if not walk.possible:
            super().depthwise(x, w, stride, dilation, out, workspace)
            return
        self._output(walk, x, w, out)

    def depthwise_grad_weight(
        self, x: Array, dy: Array, stride: Sizes, dilation: Sizes, out: Array, workspace: Array
    ) -> None:
        walk = Walk(x, out, dy, stride, dilation, workspace, depthwise=True)
        if not walk.possible:
            super().depthwise_grad_weight(x, dy, stride, dilation, out, workspace)
            return
        self._weight(walk, x, out, dy)

    def depthwise_grad_input(
        self, dy: Array, w: Array, stride: Sizes, dilation: Sizes, out: Array, workspace: Array
    ) -> None:
        walk = Walk(out, w, dy, stride, dilation, workspace, depthwise=True)
        if not walk.possible:
            super().depthwise_grad_input(dy, w, stride, dilation, out, workspace)
            return
        self._input(walk, out, w, dy)

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

    def _convolution(self, direction: str, x: Array, w: Array, y: Array, walk: Walk) -> Convolution:
        """The compiled computation for these shapes, made at the first call."""
        key = (direction, x.shape, w.shape, w.strides, y.shape, *walk.steps)
        if key not in self._convolutions:
            strides = tuple(size // w.itemsize for size in w.strides)
            shapes = (x.shape, w.shape, y.shape)
            self._convolutions[key] = Convolution(self._library, direction, shapes, strides, *walk.steps)
        return self._convolutions[key]


class Walk:
    """Through a convolution in pieces (where of the frame, where of the output) that are dense or fit the workspace.

    Attributes
    ----------
    possible : bool
        Whether oneDNN can do it.
    whole : bool
        Whether all of it is one piece, the frame and the output as they are.
    steps : tuple
        stride, dilation, and whether it is a depthwise convolution.
    """

    def __init__(
        self, x: Array, w: Array, y: Array, stride: Sizes, dilation: Sizes, workspace: Array, depthwise: bool = False
    ) -> None:
        self.steps = (tuple(stride), tuple(dilation), depthwise)
        check_frame(x.shape, w.shape[:-2], stride, dilation, y.shape)
        self._reach = [(taps - 1) * apart + 1 for taps, apart in zip(w.shape[:-2], dilation, strict=True)]
        fits = zip(x.shape[1:-1], self._reach, stride, y.shape[1:-1], strict=True)
        exact = all((size - reach) // step + 1 == count for size, reach, step, count in fits)
        self.whole = exact and x.flags.c_contiguous and y.flags.c_contiguous
        self._x, self._y, self._workspace, self._used = x, y, workspace, 0
        weights = math.prod(w.shape[:-2]) * _padded(w.shape[-2]) * _padded(w.shape[-1]) + SPARE_WORDS
        self._room = workspace.size - weights if 2 * weights < workspace.size else workspace.size
        same = x.dtype == w.dtype == y.dtype == np.float32
        self.possible = same and all(a.size and min(a.strides) > 0 for a in (x, w, y)) and self._smallest_fits()

    def __iter__(self) -> Iterator[tuple[Tile, Tile]]:
        if self.whole:
            yield (...,), (...,)
            return
        for tile in halves(tuple(slice(0, size) for size in self._y.shape[:-1]), self._fits):
            self._used = 0
            yield self._frame(tile), tile

    @property
    def rest(self) -> Array:
        """What of the workspace the copies leave."""
        return self._workspace[self._used :]

    def take(self, shape: tuple[int, ...]) -> Array:
        """A dense array in the workspace, for this piece."""
        taken = carve(self._workspace, shape, self._used)
        self._used += -(-taken.size // 16) * 16
        return taken

    def room(self, view: Array) -> Array:
        """``view`` where it is dense, else as much of the workspace."""
        return view if view.flags.c_contiguous else self.take(view.shape)

    def copied(self, view: Array) -> Array:
        """``view`` where it is dense, else a copy in the workspace."""
        if view.flags.c_contiguous:
            return view
        copy = self.take(view.shape)
        copy[...] = view
        return copy

    def _frame(self, tile: Tile) -> Tile:
        space = zip(tile[1:], self.steps[0], self._reach, strict=True)
        return tile[0], *(slice(part.start * step, (part.stop - 1) * step + reach) for part, step, reach in space)

    def _fits(self, tile: Tile) -> bool:
        return sum(part.size + 16 for part in (self._x[self._frame(tile)], self._y[tile])) <= self._room

    def _smallest_fits(self) -> bool:
        return self.whole or self._fits(tuple(slice(0, 1) for _ in self._y.shape[:-1]))


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


def halves(tile: Tile, fits: Callable[[Tile], bool]) -> Iterator[Tile]:
    """``tile`` halved along its first long axis until the parts fit, so that few different shapes arise."""
    axis = next((i for i, part in enumerate(tile) if part.stop - part.start > 1), None)
    if axis is None or fits(tile):
        yield tile
        return
    start, stop = tile[axis].start, tile[axis].stop
    middle = (start + stop) // 2
    for part in (slice(start, middle), slice(middle, stop)):
        yield from halves((*tile[:axis], part, *tile[axis + 1 :]), fits)


def _padded(channels: int) -> int:
    """Channels as oneDNN pads them in its blocked weights, at the most."""
    return -(-channels // 64) * 64
