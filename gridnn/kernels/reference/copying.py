"""Several boxes of an array at once: packed into flat memory and back, added, and filled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from gridnn.kernels.tiles import Array

Box = tuple[slice, ...]


class Copying:
    """Boxes of one array, one behind the other in flat memory of the same dtype."""

    xp: Any

    def pack(self, array: Array, boxes: Sequence[Box], flat: Array) -> None:
        """Copy the ``boxes`` of ``array`` into ``flat``."""
        for part, view in _pairs(array, boxes, flat):
            view[...] = part

    def unpack(self, flat: Array, array: Array, boxes: Sequence[Box]) -> None:
        """Copy ``flat`` into the ``boxes`` of ``array``, which do not overlap."""
        for part, view in _pairs(array, boxes, flat):
            part[...] = view

    def add(self, flat: Array, array: Array, boxes: Sequence[Box]) -> None:
        """Add ``flat`` to the ``boxes`` of ``array``, one after the other where they overlap."""
        for part, view in _pairs(array, boxes, flat):
            part += view

    def fill(self, array: Array, boxes: Sequence[Box], value: float) -> None:
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
