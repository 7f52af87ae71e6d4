"""Several boxes of an array at once, one after the other in flat memory of the same dtype: packed, added, filled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gridnn.kernels.table import Kernels
from gridnn.kernels.tiles import Array

Box = tuple[slice, ...]


def pack(kernels: Kernels, array: Array, boxes: Sequence[Box], flat: Array) -> None:
    """Copy the ``boxes`` of ``array`` into ``flat``."""
    for part, view in _pairs(array, boxes, flat):
        view[...] = part


def unpack(kernels: Kernels, flat: Array, array: Array, boxes: Sequence[Box]) -> None:
    """Copy ``flat`` into the ``boxes`` of ``array``, which do not overlap."""
    for part, view in _pairs(array, boxes, flat):
        part[...] = view


def add(kernels: Kernels, flat: Array, array: Array, boxes: Sequence[Box]) -> None:
    """Add ``flat`` to the ``boxes`` of ``array``, one after the other where they overlap."""
    for part, view in _pairs(array, boxes, flat):
        part += view


def fill(kernels: Kernels, array: Array, boxes: Sequence[Box], value: float) -> None:
    """Write ``value`` to the ``boxes`` of ``array``."""
    for box in boxes:
        array[box] = value


def _pairs(array: Array, boxes: Sequence[Box], flat: Array) -> Iterator[tuple[Array, Array]]:
    """Every box of ``array``, and where it lies in ``flat``, in the same shape."""
    start = 0
    for box in boxes:
        part = array[box]
        yield part, flat[start : start + part.size].reshape(part.shape)
        start += part.size
