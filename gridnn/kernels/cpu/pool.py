"""Memory of activations: given out again as soon as nobody refers to it any more."""

from __future__ import annotations

import bisect
import math
from typing import Any

import numpy as np

UNIT = 1 << 16  # bytes; blocks are multiples of it, so that almost equal requests share them
SLACK = 4  # a block is given for a request of at least this fraction of it
SMALL = 1 << 12  # bytes, below which the pool is not worth its bookkeeping


class Lease:
    """A block of the pool while arrays refer to it: NumPy keeps it as the base of the array and of its views."""

    def __init__(self, pool: Pool, block: np.ndarray, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self._pool, self._block, self._dtype = pool, block, dtype
        self.__array_interface__ = {
            "version": 3,
            "shape": shape,
            "typestr": dtype.str if dtype.kind != "V" else f"<u{dtype.itemsize}",  # bfloat16 has no name there
            "data": (block.ctypes.data, False),
        }

    def array(self) -> np.ndarray:
        """An array in the block; it keeps the lease."""
        array = np.asarray(self)
        return array.view(self._dtype) if self._dtype.kind == "V" else array

    def __del__(self) -> None:
        self._pool.give_back(self._block)


class Pool:
    """Blocks of memory that come back by themselves.

    An activation's last user is whoever drops the last reference to it; a step asks for the same sizes in the same
    order every time, so that after the first steps nothing is taken from the system any more.

    Attributes
    ----------
    taken : int
        Bytes taken from the system.
    used, peak : int
        Bytes that arrays refer to, and the most there were.
    """

    def __init__(self) -> None:
        self.taken = self.used = self.peak = 0
        self._free: list[tuple[int, int, np.ndarray]] = []  # by size

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """An array whose contents are arbitrary."""
        dtype = np.dtype(dtype)
        size = math.prod(shape) * dtype.itemsize
        if size < SMALL:
            return np.empty(shape, dtype)
        block = self._block(-(-size // UNIT) * UNIT)
        self.used += block.nbytes
        self.peak = max(self.peak, self.used)
        return Lease(self, block, tuple(shape), dtype).array()

    def give_back(self, block: np.ndarray) -> None:
        """Called when the last array that referred to ``block`` is gone."""
        self.used -= block.nbytes
        bisect.insort(self._free, (block.nbytes, id(block), block))

    def _block(self, size: int) -> np.ndarray:
        place = bisect.bisect_left(self._free, (size,))
        if place < len(self._free) and self._free[place][0] <= SLACK * size:
            return self._free.pop(place)[2]
        self.taken += size
        return np.empty(size, np.uint8)
