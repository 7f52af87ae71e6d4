"""Flat memory into which boxes of arrays are packed: explicit packing, no derived datatypes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gridnn.layout.layout import Box, box_size, within

Array = Any


class Scratch:
    """Flat memory that all movers pack into, one after the other: as large as the largest needs, not as all together.

    Parameters
    ----------
    backend : kernels.Backend
        Where it lies.
    dtype : dtype
        Of the tensors that are moved.
    """

    def __init__(self, backend: Any, dtype: Any) -> None:
        self.backend, self.dtype, self.size = backend, dtype, 0
        self._array: Array | None = None

    def reserve(self, size: int) -> None:
        """Say that ``size`` elements will be used at once."""
        self.size = max(self.size, size)

    @property
    def array(self) -> Array:
        """The memory; another one after somebody has reserved more. Contents last until the next mover runs."""
        if self._array is None or self._array.size < self.size:
            self._array = self.backend.empty((self.size,), self.dtype)
        return self._array


class Packing:
    """Boxes of an array, one behind the other in flat memory: explicit packing, no derived datatypes.

    Parameters
    ----------
    boxes : sequence of Box
        The pieces, in global coordinates.
    outer : Box
        What the array holds.
    scratch : Scratch
        The memory, of which the elements from ``start`` on are used.
    """

    def __init__(self, boxes: Sequence[Box], outer: Box, scratch: Scratch, start: int = 0) -> None:
        self.boxes, self.sizes = boxes, [box_size(box) for box in boxes]
        self.slices = [within(box, outer) for box in boxes]
        self.scratch, self.start, self.stop = scratch, start, start + sum(self.sizes)
        scratch.reserve(self.stop)

    @property
    def buffer(self) -> Array:
        """All pieces, flat."""
        return self.scratch.array[self.start : self.stop]

    @property
    def flats(self) -> list[Array]:
        """Every piece, flat."""
        array, start, found = self.scratch.array, self.start, []
        for size in self.sizes:
            found.append(array[start : start + size])
            start += size
        return found

    def pack(self, array: Array) -> None:
        """Copy every box of ``array`` into the memory."""
        self.scratch.backend.kernels.pack(array, self.slices, self.buffer)

    def unpack(self, array: Array) -> None:
        """Copy the memory into the boxes of ``array``."""
        self.scratch.backend.kernels.unpack(self.buffer, array, self.slices)

    def add(self, array: Array) -> None:
        """Add the memory to the boxes of ``array``, which may overlap."""
        self.scratch.backend.kernels.add(self.buffer, array, self.slices)
