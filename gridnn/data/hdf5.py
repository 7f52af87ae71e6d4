"""Arrays in HDF5 files, of which every rank reads its hyperslab."""

from __future__ import annotations

import itertools
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gridnn.data.base import Box
from gridnn.data.files import open_regular, reading
from gridnn.data.hdf5_files import FORM, check_storage, locate, names, open_file
from gridnn.data.sources import Source
from gridnn.errors import UserError

SUFFIXES = (".h5", ".hdf5", ".hdf", ".he5")
SIGNATURE = b"\x89HDF\r\n\x1a\n"


def is_hdf5(path: Path) -> bool:
    """Whether a file is meant to be of this format: by its name, or by how it begins."""
    if path.suffix in SUFFIXES:
        return True
    with open_regular(path) as file, reading(path):
        return file.read(len(SIGNATURE)) == SIGNATURE


class Hyperslabs(Source):
    """One data set of an HDF5 file, its ``name`` with the groups that it is in: ``group/x``.

    The file is opened at the first read, by every process for itself: read-only, and without a lock where the file
    system has none. `UserError` if the file is none, truncated, or has no such data set (the text names those it has),
    or not all of its numbers; see `check_storage`.
    """

    def __init__(self, path: Path, name: str):
        self.path, self.name = locate(path, name) or (path, name)
        self.where = f"{self.path}: {self.name}"
        with open_file(self.path) as file, reading(self.path, self.name, FORM):
            found = file.get(self.name)
            if not hasattr(found, "shape") or found.shape is None:
                what = "is a group" if hasattr(found, "keys") else "is not there" if found is None else "is empty"
                raise UserError(f"{path}: data set {name} {what}; the file has {', '.join(names(path))}")
            self.shape, self.dtype = found.shape, found.dtype
            check_storage(self.path, found)

    @cached_property
    def _dataset(self) -> Any:
        file = open_file(self.path)
        with reading(self.path, self.name, FORM):
            found = file[self.name]
            if (found.shape, found.dtype) != (self.shape, self.dtype):
                raise UserError(
                    f"{self.where} was {self.dtype} of shape {self.shape}, but is now {found.dtype} of shape "
                    f"{found.shape}: leave the file as it is while a run reads it"
                )
            return found

    def read(self, rows: np.ndarray, box: Box, out: np.ndarray, places: np.ndarray) -> None:
        if not out.size:
            return
        within = tuple(slice(*interval) for interval in box)
        for start, stop in runs(rows, places):
            row, place = int(rows[start]), int(places[start])
            here = out[place : place + stop - start]
            which = f"{self.name}[{row}]" if stop - start == 1 else f"{self.name}[{row}:{row + stop - start}]"
            with reading(self.path, which):
                self._read((slice(row, row + stop - start), *within), here)

    def _read(self, slab: tuple[slice, ...], out: np.ndarray) -> None:
        if self.dtype.kind == "b":  # HDF5 has them as an enumeration, which it does not convert
            out[...] = self._dataset[slab]
        else:
            self._dataset.read_direct(out, slab)


def runs(rows: np.ndarray, places: np.ndarray) -> list[tuple[int, int]]:
    """Where ``rows`` and ``places`` both go up one by one, as (start, stop): each run is one hyperslab."""
    breaks = np.flatnonzero((np.diff(rows) != 1) | (np.diff(places) != 1)) + 1
    ends = [0, *breaks.tolist(), len(rows)]
    return list(itertools.pairwise(ends))
