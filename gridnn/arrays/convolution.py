"""Convolution as GEMMs on tiles: no im2col matrix larger than the workspace."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gridnn.arrays.tiles import Array, Tile, carve, chunks, matrix, output_matrix, tiles

Pair = tuple[int, int]
ROWS = 4096  # a weight-gradient GEMM over fewer rows loses against adding its result up


class Convolution:
    """Forward and backward of a convolution on framed arrays.

    Shapes: ``x`` [n, hf, wf, c], framed, so that the first window starts at index 0; ``w`` [kh, kw, c, k];
    ``out`` and ``dy`` [n, h, w, k]. What ``x`` has beyond the last window is ignored. ``x``, ``w``, ``out`` and ``dy``
    may be channel slices of contiguous arrays. ``workspace`` must hold kh * kw * c elements at the least.
    """

    xp: Any

    def conv2d(self, x: Array, w: Array, stride: Pair, dilation: Pair, out: Array, workspace: Array) -> None:
        """Write the convolution of ``x`` with ``w`` to ``out``: the im2col matrix of one tile at a time."""
        check_frame(x.shape, w.shape[:2], stride, dilation, out.shape)
        weights = matrix(w)
        if is_pointwise(x.shape, w.shape, stride, out.shape):
            self.xp.matmul(matrix(x), weights, out=output_matrix(self.xp, out))
            return
        for tile in tiles(out.shape[:3], workspace.size // max(1, len(weights))):
            columns = self._columns(x, tile, w.shape[:2], stride, dilation, workspace)
            self.xp.matmul(columns, weights, out=output_matrix(self.xp, out[tile]))

    def conv2d_grad_weight(
        self, x: Array, dy: Array, stride: Pair, dilation: Pair, out: Array, workspace: Array
    ) -> None:
        """Write the gradient of the weights to ``out`` [kh, kw, c, k]."""
        check_frame(x.shape, out.shape[:2], stride, dilation, dy.shape)
        if is_pointwise(x.shape, out.shape, stride, dy.shape):
            self.xp.matmul(matrix(x).T, matrix(dy), out=output_matrix(self.xp, out))
            return
        half = workspace.size // 2
        for (i, j), taps in tap_blocks(out.shape, dy.shape, half):
            block = output_matrix(self.xp, out[i : i + taps[0], j : j + taps[1]])
            corner = x[:, i * dilation[0] :, j * dilation[1] :]
            block[...] = 0
            for tile in tiles(dy.shape[:3], half // max(1, len(block))):
                columns = self._columns(corner, tile, taps, stride, dilation, workspace[:half])
                self._add_product(columns.T, matrix(dy[tile]), block, workspace[half:])

    def conv2d_grad_input(
        self, dy: Array, w: Array, stride: Pair, dilation: Pair, out: Array, workspace: Array
    ) -> None:
        """Write the gradient of the framed input to ``out`` [n, hf, wf, c]: one GEMM a tap, added where it belongs."""
        kh, kw, channels, _ = w.shape
        check_frame(out.shape, (kh, kw), stride, dilation, dy.shape)
        if is_pointwise(out.shape, w.shape, stride, dy.shape):
            self.xp.matmul(matrix(dy), w[0, 0].T, out=output_matrix(self.xp, out))
            return
        out[...] = 0
        for tile in tiles(dy.shape[:3], workspace.size // max(1, channels)):
            part = dy[tile]
            product = carve(workspace, (*part.shape[:3], channels))
            for i in range(kh):
                for j in range(kw):
                    self.xp.matmul(matrix(part), w[i, j].T, out=matrix(product))
                    target = out[tap_view(tile, (i, j), stride, dilation)]
                    target += product

    def _columns(self, x: Array, tile: Tile, kernel: Pair, stride: Pair, dilation: Pair, workspace: Array) -> Array:
        """The im2col matrix [rows, kh * kw * c] of the outputs of ``tile``, in ``workspace``."""
        n, h, w = tile
        channels = x.shape[3]
        shape = (n.stop - n.start, h.stop - h.start, w.stop - w.start, *kernel, channels)
        sn, sh, sw, sc = x.strides
        strides = (sn, sh * stride[0], sw * stride[1], sh * dilation[0], sw * dilation[1], sc)
        corner = x[n, h.start * stride[0] :, w.start * stride[1] :]
        columns = carve(workspace, shape)
        columns[...] = self.xp.lib.stride_tricks.as_strided(corner, shape=shape, strides=strides)
        return columns.reshape(shape[0] * shape[1] * shape[2], kernel[0] * kernel[1] * channels)

    def _add_product(self, a: Array, b: Array, out: Array, workspace: Array) -> None:
        """``out += a @ b`` through ``workspace``, as many columns at a time as it holds."""
        for part in chunks(out.shape[1], workspace.size // max(1, out.shape[0])):
            columns = out[:, part]
            product = carve(workspace, columns.shape)
            self.xp.matmul(a, b[:, part], out=product)
            columns += product


def is_pointwise(frame: tuple[int, ...], weights: tuple[int, ...], stride: Pair, output: tuple[int, ...]) -> bool:
    """Whether a convolution is one GEMM on the whole arrays."""
    return weights[:2] == (1, 1) and stride == (1, 1) and frame[:3] == output[:3]


def tap_blocks(weights: tuple[int, ...], output: tuple[int, ...], space: int) -> Iterator[tuple[Pair, Pair]]:
    """The taps of a kernel in blocks (first tap, extents): all, or those of a line, or each by itself.

    The fewer taps, the more rows fit into a tile, and the fewer results are added up.
    """
    kh, kw, channels, _ = weights
    rows = min(ROWS, output[0] * output[1] * output[2])
    for extents in ((kh, kw), (1, kw), (1, 1)):
        if space // max(1, extents[0] * extents[1] * channels) >= rows:
            break
    for i in range(0, kh, extents[0]):
        for j in range(0, kw, extents[1]):
            yield (i, j), extents


def tap_view(tile: Tile, tap: Pair, stride: Pair, dilation: Pair) -> Tile:
    """Where the frame meets ``tap`` of the windows of ``tile``."""
    n, *space = tile
    views = []
    for part, offset, step, apart in zip(space, tap, stride, dilation, strict=True):
        start = part.start * step + offset * apart
        views.append(slice(start, start + max(0, (part.stop - part.start - 1) * step + 1), step))
    return n, *views


def check_frame(frame, kernel: Pair, stride: Pair, dilation: Pair, output) -> None:
    """Refuse a frame that ends before the last window does.

    Raises
    ------
    ValueError
        With the equation that fails.
    """
    sizes = zip("hw", frame[1:3], kernel, stride, dilation, output[1:3], strict=True)
    for axis, size, taps, step, apart, count in sizes:
        needed = (count - 1) * step + (taps - 1) * apart + 1
        if count and size < needed:
            equation = f"({count} - 1) * {step} + ({taps} - 1) * {apart} + 1 = {needed}"
            raise ValueError(f"{count} windows over {axis} need {equation} elements, the frame has {size}")
