"""Arrays of samples of which parts are read: in memory, or in files."""

from __future__ import annotations

import math
import os
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gridnn.data.base import Box, whole
from gridnn.data.files import Stretch, check_memory, open_regular, read_header, reading
from gridnn.layout.layout import box_shape

SINGLE = 4096  # from so many elements of a sample on, samples are copied one by one, without an array in between


class Source(ABC):
    """An array with one row per sample.

    Attributes
    ----------
    shape : tuple of int
        (samples, ...).
    dtype : dtype
    where : str
        What messages call it.
    """

    where: str = "the array"
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
        check_memory(self.where, math.prod(self.shape) * self.dtype.itemsize)
        with reading(self.where):
            out = np.empty(self.shape, self.dtype)
            rows = np.arange(self.shape[0] if out.size else 0)  # (10^12, 0) has no samples worth counting
        if out.size:
            self.read(rows, whole(self.shape[1:]), out, rows)
        return out


class Held(Source):
    """An array in memory, or a view of a mapped one with any strides."""

    def __init__(self, array: np.ndarray):
        self._array = np.asarray(array)  # a view of a map becomes a plain array, which is quicker to index
        self.shape, self.dtype = array.shape, array.dtype

    def all(self) -> np.ndarray:
        return self._array

    def read(self, rows: np.ndarray, box: Box, out: np.ndarray, places: np.ndarray) -> None:
        within = tuple(slice(*interval) for interval in box)
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is refused by name afterwards
            if math.prod(box_shape(box)) < SINGLE:
                out[places] = self._array[(slice(None), *within)][rows]  # the view first: only the box is read
                return
            for row, place in zip(rows, places, strict=True):
                out[place] = self._array[(row, *within)]


class Mapped(Source):
    """An array in a file, which stays open.

    It is mapped for the time of a read, so that what was read does not stay resident, and a file that has become too
    short since is told by name; one that is cut off in the very moment of a read ends the process (SIGBUS).

    Parameters
    ----------
    path : Path
        The file; with a header of NumPy's, if no ``stored`` is given.
    stored : Stretch, optional
        Which array lies where in the file.
    seen : callable
        Which view of it is meant, with one row per sample.

    Raises
    ------
    UserError
        If the file is empty, truncated, or holds Python objects.
    """

    def __init__(self, path: Path, stored: Stretch | None = None, seen: Callable[[Any], Any] = np.asarray):
        self.where, self._file, self._seen = str(path), open_regular(path), seen
        weakref.finalize(self, self._file.close)
        with reading(path, form="" if stored else ".npy file of numbers"):
            self._stored = stored or read_header(self._file, self.where, os.fstat(self._file.fileno()).st_size)
            array = seen(np.broadcast_to(np.empty((), self._stored.dtype), self._stored.shape))
        self.shape, self.dtype = array.shape, array.dtype

    def read(self, rows: np.ndarray, box: Box, out: np.ndarray, places: np.ndarray) -> None:
        if out.size:
            with reading(self.where, rows_text(rows)):
                Held(self._seen(self._stored.view(self._file))).read(rows, box, out, places)


def rows_text(rows: np.ndarray) -> str:
    """What messages call some samples."""
    return f"sample {rows[0]}" if len(rows) == 1 else f"samples {rows.min()} to {rows.max()}"


class OneMore(Source):
    """Another source with a last dimension of one."""

    def __init__(self, source: Source):
        self.shape, self.dtype, self.where = (*source.shape, 1), source.dtype, source.where
        self._source = source

    def read(self, rows: np.ndarray, box: Box, out: np.ndarray, places: np.ndarray) -> None:
        if out.size:
            self._source.read(rows, box[:-1], out[..., 0], places)
