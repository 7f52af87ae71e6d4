"""One block of memory for all schedules of a model, which run one after the other."""

from __future__ import annotations

import math
from typing import Any

from gridnn.program.arena import Arena

Array = Any


class Memory:
    """The block, as large as the largest schedule needs.

    Attributes
    ----------
    size : int
        Bytes.
    generation : int
        How often it was taken anew: arrays of an earlier one are to be made again.
    """

    def __init__(self, backend: Any) -> None:
        self.backend, self.size, self.generation = backend, 0, 0
        self._block: Array = None  # until `reserve`
        self._start = 0

    def reserve(self, size: int) -> None:
        """Make the block at least ``size`` bytes large; its contents are lost if it grows."""
        if self._block is None or size > self.size:
            self._block = None  # the old one goes before the new one is taken
            self.size, self.generation = size, self.generation + 1
            alignment = 512
            self._block = self.backend.empty((size + alignment,), "uint8")
            self._start = -self.backend.address(self._block) % alignment

    def array(self, arena: Arena, name: str, dtype: Any) -> Array:
        """The array of a buffer that is no view."""
        shape = arena.schedule.buffers[name].shape
        start = self._start + arena.address(name)
        size = math.prod(shape) * dtype.itemsize
        return self._block[start : start + size].view(dtype).reshape(shape)
