"""Arrays of samples of which parts are read: in memory, or in files."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np

from gridnn.data.base import Box, whole
from gridnn.data.files import load_npy
from gridnn.layout.layout import box_shape

SINGLE = 4096  # from so many elements of a sample on, samples are copied one by one, without an array in between


class Source(ABC):
    """An array with one row per sample.

    Attributes
    ----------
    shape : tuple of int
        (samples, ...).
    dtype : dtype
    """

    shape: tuple[int, ...]
    dtype: np.dtype

    @abstractmethod
    def read(self, rows: np.ndarray, box: Box, out: np.ndarray, places: np.ndarray) -> None:
        """Write the part ``box`` (one range per dimension after the first) of ``rows`` into ``out[places]``.

        Nothing else is read. ``out`` has the shape (at least n, *extents of box) and any type; `UserError` if a file
        cannot be read.
        """

    def all(self) -> np.ndarray:
        """The whole array, in memory."""
        out, rows = np.empty(self.shape, self.dtype), np.arange(self.shape[0])
        if out.size:
            self.read(rows, whole(self.shape[1:]), out, rows)
        return out


class Held(Source):
    """An array in memory, or a view of a mapped one with any strides."""

    def __init__(self, array: np.ndarray):
        self._array = np.asarray(array)  # a view of a map becomes a plain array, which is quicker to index
        self.shape, self.dtype = array.shape, array.dtype

    def read(self, rows: np.ndarray, box: Box, out: np.ndarray, places: np.ndarray) -> None:
        within = tuple(slice(*interval) for interval in box)
        if math.prod(box_shape(box)) < SINGLE:
            out[places] = self._array[(slice(None), *within)][rows]  # the view first: only the box is read
            return
        for row, place in zip(rows, places, strict=True):
            out[place] = self._array[(row, *within)]


class Mapped(Source):
    """The array in a .npy file. It is mapped for the time of a read, so that what was read does not stay resident."""

    def __init__(self, path: Path):
        array = load_npy(path)
        self.shape, self.dtype = array.shape, array.dtype
        self._map = {"filename": path, "dtype": array.dtype, "offset": array.offset, "shape": array.shape}
        self._map["order"] = "C" if array.flags.c_contiguous else "F"

    def read(self, rows: np.ndarray, box: Box, out: np.ndarray, places: np.ndarray) -> None:
        Held(np.memmap(mode="r", **self._map)).read(rows, box, out, places)


class OneMore(Source):
    """Another source with a last dimension of one."""

    def __init__(self, source: Source):
        self.shape, self.dtype = (*source.shape, 1), source.dtype
        self._source = source

    def read(self, rows: np.ndarray, box: Box, out: np.ndarray, places: np.ndarray) -> None:
        if out.size:
            self._source.read(rows, box[:-1], out[..., 0], places)
