"""Products of matrices, and convolution over 1 to 3 space axes by them, in tiles that the workspace holds.

Shapes: ``x`` [n, *padded, c], with its padding, so that the first window starts at index 0; ``w`` [*kernel, c, k];
``out`` and ``dy`` [n, *space, k]. What ``x`` has beyond the last window is ignored. All may be parts of larger arrays,
``w`` of its channels. ``stride`` and ``dilation`` have one entry per space axis. ``workspace`` must hold
prod(kernel) * c + k elements at the least.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

from gridnn.kernels.table import Kernels
from gridnn.kernels.taps import Sizes, check_windows, tap_view, taps_of
from gridnn.kernels.tiles import Array, Tile, carve, chunks, evenly_spaced, matrix, output_matrix, tiles


def matmul(kernels: Kernels, a: Array, b: Array, out: Array) -> None:
    """Write the product of the matrices ``a`` and ``b`` to ``out``."""
    kernels.xp.matmul(a, b, out=out)


def conv(kernels: Kernels, x: Array, w: Array, stride: Sizes, dilation: Sizes, out: Array, workspace: Array) -> None:
    """Write the convolution of ``x`` with ``w`` to ``out``: the im2col matrix of one tile at a time."""
    kernel = w.shape[:-2]
    check_windows(x.shape, kernel, stride, dilation, out.shape)
    weights = matrix(w)
    if is_pointwise(x, w.shape, stride, out):
        kernels.matmul(matrix(x), weights, matrix(out))
        return
    row, even = max(1, len(weights)), evenly_spaced(out)
    for tile in tiles(out.shape[:-1], workspace.size // (row if even else row + w.shape[-1])):
        columns = kernels.im2col(x, tile, kernel, stride, dilation, workspace)
        target = out[tile]
        if evenly_spaced(target):
            kernels.matmul(columns, weights, matrix(target))
            continue
        product = carve(workspace, target.shape, columns.size)
        kernels.matmul(columns, weights, matrix(product))
        target[...] = product


def conv_grad_weight(
    kernels: Kernels, x: Array, dy: Array, stride: Sizes, dilation: Sizes, out: Array, workspace: Array
) -> None:
    """Write the gradient of the weights to ``out`` [*kernel, c, k]."""
    check_windows(x.shape, out.shape[:-2], stride, dilation, dy.shape)
    if is_pointwise(x, out.shape, stride, dy):
        kernels.matmul(matrix(x).T, matrix(dy), output_matrix(out))
        return
    half = workspace.size if kernels.adds_directly else workspace.size // 2
    for first, taps in tap_blocks(out.shape, dy.shape, half, kernels.weight_rows):
        block = output_matrix(out[tuple(slice(i, i + n) for i, n in zip(first, taps, strict=True))])
        corner = x[(slice(None), *(slice(i * apart, None) for i, apart in zip(first, dilation, strict=True)))]
        block[...] = 0
        for tile in tiles(dy.shape[:-1], half // max(1, len(block))):
            columns = kernels.im2col(corner, tile, taps, stride, dilation, workspace[:half])
            kernels.add_product(columns.T, matrix(dy[tile]), block, workspace[half:])


def conv_grad_input(
    kernels: Kernels, dy: Array, w: Array, stride: Sizes, dilation: Sizes, out: Array, workspace: Array
) -> None:
    """Write the gradient of the padded input to ``out`` [n, *padded, c]: one GEMM a tap, added where it belongs."""
    *kernel, channels, _ = w.shape
    check_windows(out.shape, kernel, stride, dilation, dy.shape)
    if is_pointwise(out, w.shape, stride, dy):
        kernels.matmul(matrix(dy), matrix(w).T, matrix(out))
        return
    out[...] = 0
    for tile in tiles(dy.shape[:-1], workspace.size // max(1, channels)):
        part = dy[tile]
        share = carve(workspace, (*part.shape[:-1], channels))
        for tap in taps_of(kernel):
            kernels.matmul(matrix(part), w[tap].T, matrix(share))
            target = out[tap_view(tile, tap, stride, dilation)]
            target += share


def im2col(
    kernels: Kernels, x: Array, tile: Tile, kernel: Sizes, stride: Sizes, dilation: Sizes, workspace: Array
) -> Array:
    """The matrix [rows, prod(kernel) * c] of the windows of ``tile`` of the outputs, made in ``workspace``."""
    n, *space = tile
    channels = x.shape[-1]
    shape = (*(part.stop - part.start for part in tile), *kernel, channels)
    sn, *apart, sc = x.strides
    steps = (size * step for size, step in zip(apart, stride, strict=True))
    taps = (size * step for size, step in zip(apart, dilation, strict=True))
    corner = x[(n, *(slice(part.start * step, None) for part, step in zip(space, stride, strict=True)))]
    columns = carve(workspace, shape)
    columns[...] = kernels.xp.lib.stride_tricks.as_strided(corner, shape=shape, strides=(sn, *steps, *taps, sc))
    return columns.reshape(math.prod(shape[: len(tile)]), math.prod(kernel) * channels)


def add_product(kernels: Kernels, a: Array, b: Array, out: Array, workspace: Array) -> None:
    """``out += a @ b`` through ``workspace``, as many columns at a time as it holds."""
    for part in chunks(out.shape[1], workspace.size // max(1, out.shape[0])):
        columns = out[:, part]
        share = carve(workspace, columns.shape)
        kernels.matmul(a, b[:, part], share)
        columns += share


def is_pointwise(padded: Array, weights: tuple[int, ...], stride: Sizes, output: Array) -> bool:
    """Whether a convolution is one GEMM on the whole arrays, as they are."""
    one_tap = math.prod(weights[:-2]) == 1 and set(stride) == {1} and padded.shape[:-1] == output.shape[:-1]
    return one_tap and evenly_spaced(padded) and evenly_spaced(output)


def tap_blocks(
    weights: tuple[int, ...], output: tuple[int, ...], space: int, least: int
) -> Iterator[tuple[Sizes, Sizes]]:
    """The taps of a kernel in blocks (first tap, extents): all, or those of a plane or a line, or each by itself.

    The fewer taps, the more rows fit into a tile, and the fewer results are added up; ``least`` are enough.
    """
    kernel, channels = weights[:-2], weights[-2]
    rows = min(least, math.prod(output[:-1]))
    for single in range(len(kernel) + 1):
        extents = (1,) * single + kernel[single:]
        if space // max(1, math.prod(extents) * channels) >= rows:
            break
    for first in itertools.product(*(range(0, size, step) for size, step in zip(kernel, extents, strict=True))):
        yield first, extents
