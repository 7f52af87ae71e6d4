"""Windows over padded inputs: which elements their taps meet, and whether the input is large enough; pure integers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from gridnn.kernels.tiles import Tile

Sizes = tuple[int, ...]  # one entry per space axis: (w,), (h, w) or (d, h, w)
TILE_WORDS = 1 << 16  # a tile of the output stays in the cache while the taps pass over it


def taps_of(kernel: Sizes) -> Iterator[Sizes]:
    """The taps of a kernel in ascending order."""
    return itertools.product(*(range(size) for size in kernel))


def tap_view(tile: Tile, tap: Sizes, stride: Sizes, dilation: Sizes) -> Tile:
    """Where the padded input meets ``tap`` of the windows of ``tile``."""
    n, *space = tile
    views = []
    for part, offset, step, apart in zip(space, tap, stride, dilation, strict=True):
        start = part.start * step + offset * apart
        views.append(slice(start, start + max(0, (part.stop - part.start - 1) * step + 1), step))
    return n, *views


def check_windows(padded, kernel: Sizes, stride: Sizes, dilation: Sizes, output) -> None:
    """Refuse a padded input that ends before the last window does: a `ValueError` with the equation that fails."""
    sizes = zip("dhw"[-len(kernel) :], padded[1:-1], kernel, stride, dilation, output[1:-1], strict=True)
    for axis, size, taps, step, apart, count in sizes:
        needed = (count - 1) * step + (taps - 1) * apart + 1
        if count and size < needed:
            equation = f"({count} - 1) * {step} + ({taps} - 1) * {apart} + 1 = {needed}"
            raise ValueError(f"{count} windows over {axis} need {equation} elements, the padded input has {size}")
