"""Tiles of a convolution that oneDNN can take: dense, in place or copied to the workspace."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from gridnn.kernels.taps import Sizes, check_windows
from gridnn.kernels.tiles import Array, Tile, carve

SPARE_WORDS = 1 << 16  # of the workspace, for what a primitive needs beside its weights


class DenseTiles:
    """Tiles of a convolution, pairs (part of the padded input, part of the output), dense or as the workspace holds.

    ``possible`` says whether oneDNN can do it; ``whole`` whether all of it is one tile, the padded input and the output
    as they are; ``is_depthwise`` whether every channel has a filter of its own. ``is_narrow`` says whether tiles of
    GEMMs are faster: oneDNN works line by line, and short lines of many channels waste it. The border was measured
    (docs/kernels.md): 7 outputs with 512 x 512 channels, 4 with 128 x 256, 1 with 64 x 64.
    """

    def __init__(self, x: Array, w: Array, y: Array, stride: Sizes, dilation: Sizes, workspace: Array) -> None:
        self.is_depthwise = x.shape[-1] != w.shape[-2]
        self.is_narrow = not self.is_depthwise and y.shape[-2] < (w.shape[-2] * w.shape[-1]).bit_length() - 11
        self.geometry = (tuple(stride), tuple(dilation), self.is_depthwise)
        check_windows(x.shape, w.shape[:-2], stride, dilation, y.shape)
        self._extent = [(taps - 1) * apart + 1 for taps, apart in zip(w.shape[:-2], dilation, strict=True)]
        fits = zip(x.shape[1:-1], self._extent, stride, y.shape[1:-1], strict=True)
        exact = all((size - extent) // step + 1 == count for size, extent, step, count in fits)
        self.whole = exact and x.flags.c_contiguous and y.flags.c_contiguous
        self._x, self._y, self._workspace, self._used = x, y, workspace, 0
        weights = math.prod(w.shape[:-2]) * _padded(w.shape[-2]) * _padded(w.shape[-1]) + SPARE_WORDS
        self._available = workspace.size - weights if 2 * weights < workspace.size else workspace.size
        same = x.dtype == w.dtype == y.dtype == np.float32
        self.possible = same and all(a.size and min(a.strides) > 0 for a in (x, w, y)) and self._smallest_fits()

    def __iter__(self) -> Iterator[tuple[Tile, Tile]]:
        if self.whole:
            yield (...,), (...,)
            return
        for tile in halves(tuple(slice(0, size) for size in self._y.shape[:-1]), self._fits):
            self._used = 0
            yield self._window(tile), tile

    @property
    def rest(self) -> Array:
        """What of the workspace the copies leave."""
        return self._workspace[self._used :]

    def take(self, shape: tuple[int, ...]) -> Array:
        """A dense array in the workspace, for this tile."""
        taken = carve(self._workspace, shape, self._used)
        self._used += -(-taken.size // 16) * 16
        return taken

    def buffer(self, view: Array) -> Array:
        """``view`` where it is dense, else as much of the workspace."""
        return view if view.flags.c_contiguous else self.take(view.shape)

    def dense(self, view: Array) -> Array:
        """``view`` where it is dense, else a copy in the workspace."""
        if view.flags.c_contiguous:
            return view
        copy = self.take(view.shape)
        copy[...] = view
        return copy

    def _window(self, tile: Tile) -> Tile:
        space = zip(tile[1:], self.geometry[0], self._extent, strict=True)
        return tile[0], *(slice(part.start * step, (part.stop - 1) * step + extent) for part, step, extent in space)

    def _fits(self, tile: Tile) -> bool:
        return sum(part.size + 16 for part in (self._x[self._window(tile)], self._y[tile])) <= self._available

    def _smallest_fits(self) -> bool:
        return self.whole or self._fits(tuple(slice(0, 1) for _ in self._y.shape[:-1]))


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
