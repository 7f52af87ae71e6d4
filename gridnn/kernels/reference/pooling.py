"""Maximum and average over sliding windows: one pass over strided views for each tap.

Shapes: ``x`` [n, *padded, c], with its padding, the first window at index 0; ``out`` and ``dy`` [n, *space, c];
``index`` like ``out``, of an unsigned integer type that holds prod(kernel) - 1. One, two or three space axes; windows
may overlap.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from gridnn.kernels.table import Kernels
from gridnn.kernels.taps import TILE_WORDS, Sizes, check_windows, tap_view, taps_of
from gridnn.kernels.tiles import Array, Tile, carve, tiles


def max_pool(
    kernels: Kernels, x: Array, kernel: Sizes, stride: Sizes, out: Array, index: Array, workspace: Array
) -> None:
    """Write the maximum of every window to ``out``, and which tap had it first to ``index``.

    A NaN in a window makes its maximum NaN.
    """
    xp = kernels.xp
    for tile, taps in tap_tiles(x.shape, kernel, stride, out.shape):
        best, winner = out[tile], index[tile]
        later = carve(workspace.view(index.dtype), winner.shape)
        for tap, view in taps:
            if tap == 0:
                best[...] = x[view]
                winner[...] = 0
                continue
            # Taps come in ascending order: the last one that beat all before it is the first maximum.
            xp.greater(x[view], best, out=later)
            later *= index.dtype.type(tap)
            xp.maximum(winner, later, out=winner)
            xp.maximum(best, x[view], out=best)


def max_pool_grad(
    kernels: Kernels, dy: Array, index: Array, kernel: Sizes, stride: Sizes, out: Array, workspace: Array
) -> None:
    """Write the gradient of the padded input to ``out``: every ``dy`` goes to the tap that ``index`` names."""
    out[...] = 0
    for tile, taps in tap_tiles(out.shape, kernel, stride, dy.shape):
        gradient, winner = dy[tile], index[tile]
        share = carve(workspace, gradient.shape)
        for tap, view in taps:
            kernels.xp.equal(winner, index.dtype.type(tap), out=share)
            share *= gradient
            target = out[view]
            target += share


def avg_pool(kernels: Kernels, x: Array, kernel: Sizes, stride: Sizes, out: Array) -> None:
    """Write the mean of every window, its padding included, to ``out``."""
    for tile, taps in tap_tiles(x.shape, kernel, stride, out.shape):
        total = out[tile]
        total[...] = 0
        for _, view in taps:
            total += x[view]
        total /= math.prod(kernel)


def avg_pool_grad(kernels: Kernels, dy: Array, kernel: Sizes, stride: Sizes, out: Array, workspace: Array) -> None:
    """Write the gradient of the padded input to ``out``."""
    out[...] = 0
    for tile, taps in tap_tiles(out.shape, kernel, stride, dy.shape):
        share = carve(workspace, dy[tile].shape)
        kernels.xp.divide(dy[tile], math.prod(kernel), out=share)
        for _, view in taps:
            target = out[view]
            target += share


def mean_space(kernels: Kernels, x: Array, count: int, out: Array) -> None:
    """Write the sums of ``x`` [n, *space, c] over space, divided by ``count``, to ``out`` [n, c]."""
    kernels.xp.sum(x, axis=tuple(range(1, x.ndim - 1)), out=out)
    out /= count


def mean_space_grad(kernels: Kernels, dy: Array, count: int, out: Array) -> None:
    """Write ``dy`` [n, c], divided by ``count``, to all places of ``out`` [n, *space, c]."""
    share = dy / count
    out[...] = share.reshape(out.shape[0], *(1 for _ in out.shape[1:-1]), out.shape[-1])


def tap_tiles(padded, kernel: Sizes, stride: Sizes, output) -> Iterator[tuple[Tile, list[tuple[int, Tile]]]]:
    """The output in tiles, each with its taps (number, where the padded input meets it) in ascending order."""
    dense = (1,) * len(kernel)
    check_windows(padded, kernel, stride, dense, output)
    for tile in tiles(output[:-1], TILE_WORDS // max(1, output[-1])):
        yield tile, [(number, tap_view(tile, tap, stride, dense)) for number, tap in enumerate(taps_of(kernel))]
