"""Depthwise convolution, one filter a channel: one pass over strided views for each tap.

Shapes: ``x`` [n, *padded, c], with its padding, the first window at index 0; ``w`` [*kernel, 1, c]; ``out`` and ``dy``
[n, *space, c]. What ``x`` has beyond the last window is ignored. One, two or three space axes.
"""

from __future__ import annotations

from gridnn.kernels.table import Kernels
from gridnn.kernels.taps import TILE_WORDS, Sizes, check_windows, tap_view, taps_of
from gridnn.kernels.tiles import Array, carve, matrix, tiles


def depthwise(
    kernels: Kernels, x: Array, w: Array, stride: Sizes, dilation: Sizes, out: Array, workspace: Array
) -> None:
    """Write the convolution of every channel of ``x`` with its filter to ``out``."""
    check_windows(x.shape, w.shape[:-2], stride, dilation, out.shape)
    for tile in depthwise_tiles(out.shape, workspace):
        total = out[tile]
        share = carve(workspace, total.shape)
        total[...] = 0
        for tap in taps_of(w.shape[:-2]):
            total += kernels.xp.multiply(x[tap_view(tile, tap, stride, dilation)], w[tap][0], out=share)


def depthwise_grad_weight(
    kernels: Kernels, x: Array, dy: Array, stride: Sizes, dilation: Sizes, out: Array, workspace: Array
) -> None:
    """Write the gradient of the filters to ``out`` [*kernel, 1, c]."""
    check_windows(x.shape, out.shape[:-2], stride, dilation, dy.shape)
    out[...] = 0
    for tile in depthwise_tiles(dy.shape, workspace):
        gradient = dy[tile]
        share = carve(workspace, gradient.shape)
        for tap in taps_of(out.shape[:-2]):
            kernels.xp.multiply(x[tap_view(tile, tap, stride, dilation)], gradient, out=share)
            filters = out[tap]
            filters += matrix(share).sum(axis=0)


def depthwise_grad_input(
    kernels: Kernels, dy: Array, w: Array, stride: Sizes, dilation: Sizes, out: Array, workspace: Array
) -> None:
    """Write the gradient of the padded input to ``out`` [n, *padded, c]."""
    check_windows(out.shape, w.shape[:-2], stride, dilation, dy.shape)
    out[...] = 0
    for tile in depthwise_tiles(dy.shape, workspace):
        gradient = dy[tile]
        share = carve(workspace, gradient.shape)
        for tap in taps_of(w.shape[:-2]):
            target = out[tap_view(tile, tap, stride, dilation)]
            target += kernels.xp.multiply(gradient, w[tap][0], out=share)


def depthwise_tiles(output: tuple[int, ...], workspace: Array):
    """The output in tiles that the cache and the workspace hold."""
    return tiles(output[:-1], min(TILE_WORDS, workspace.size) // max(1, output[-1]))
