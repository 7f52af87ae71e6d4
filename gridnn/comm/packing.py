"""Boxes of an array, one behind the other in flat memory: explicit packing, no derived datatypes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from gridnn.layout.layout import Box, box_size, within

Array = Any


class Packing:
    """Boxes of an array that holds ``outer``, and the flat memory that they are packed into.

    The ``buffer`` has as many elements as the boxes, perhaps of another type than the array; the kernels ``pack``,
    ``unpack`` and ``add`` are used.
    """

    def __init__(self, boxes: Sequence[Box], outer: Box, buffer: Array, kernels: Any) -> None:
        self.sizes = [box_size(box) for box in boxes]
        self.slices = [within(box, outer) for box in boxes]
        self.buffer, self._kernels = buffer[: sum(self.sizes)], kernels

    @cached_property
    def flats(self) -> list[Array]:
        """Every piece, flat."""
        start, found = 0, []
        for size in self.sizes:
            found.append(self.buffer[start : start + size])
            start += size
        return found

    def pack(self, array: Array) -> None:
        """Copy every box of ``array`` into the memory."""
        self._kernels.pack(array, self.slices, self.buffer)

    def unpack(self, array: Array) -> None:
        """Copy the memory into the boxes of ``array``."""
        self._kernels.unpack(self.buffer, array, self.slices)

    def add(self, array: Array) -> None:
        """Add the memory to the boxes of ``array``, which may overlap."""
        self._kernels.add(self.buffer, array, self.slices)
