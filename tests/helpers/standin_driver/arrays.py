"""Arrays in the stand-in's device memory: NumPy's descriptions, contents that only the driver's copies reach."""

from __future__ import annotations

import math
import weakref

import numpy as np

from standin_driver.library import Driver


class DriverArray:
    """A contiguous array in device memory.

    It has what moving needs: shape, dtype, pieces of a flat array and conversions between types; mathematics is done
    by reading back. Reading an element, or handing the array to NumPy, is a TypeError.
    """

    __array_priority__ = 1000.0

    def __init__(self, driver: Driver, shape, dtype, memory: Memory | None = None, offset: int = 0) -> None:
        self.driver, self.shape, self.dtype = driver, tuple(shape), np.dtype(dtype)
        self.size, self.ndim, self.itemsize = math.prod(self.shape), len(self.shape), self.dtype.itemsize
        self.nbytes = self.size * self.itemsize
        self.memory = memory or Memory(driver, self.nbytes)
        self.offset = offset

    @property
    def ptr(self) -> int:
        """The address of the first element."""
        return self.memory.pointer + self.offset

    @property
    def flags(self):
        """Those of a contiguous NumPy array."""
        return np.empty(self.shape, np.uint8).flags

    def __array__(self, *args, **kwargs):
        raise TypeError("an array in device memory cannot become a NumPy array by itself: ask for host()")

    def __len__(self) -> int:
        return self.shape[0]

    def host(self) -> np.ndarray:
        """A copy in host memory."""
        copy = np.empty(self.shape, self.dtype)
        if self.nbytes:
            self.driver.copy(copy.ctypes.data, self.ptr, self.nbytes)
        return copy

    def fill(self, values) -> DriverArray:
        """Copy host values in, and return the array."""
        values = np.ascontiguousarray(np.broadcast_to(values, self.shape), dtype=self.dtype)
        if self.nbytes:
            self.driver.copy(self.ptr, values.ctypes.data, self.nbytes)
        return self

    def reshape(self, *shape) -> DriverArray:
        """The same memory in another shape."""
        shape = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
        shape = np.empty(self.shape, np.uint8).reshape(shape).shape
        return DriverArray(self.driver, shape, self.dtype, self.memory, self.offset)

    def ravel(self) -> DriverArray:
        """The same memory, flat."""
        return self.reshape(-1)

    def view(self, dtype) -> DriverArray:
        """The same memory as another type; the last axis changes its length."""
        dtype = np.dtype(dtype)
        shape = (*self.shape[:-1], self.shape[-1] * self.itemsize // dtype.itemsize)
        return DriverArray(self.driver, shape, dtype, self.memory, self.offset)

    def __getitem__(self, piece: slice) -> DriverArray:
        start, stop, step = piece.indices(self.shape[0])
        if self.ndim != 1 or step != 1:
            raise TypeError(f"only pieces of flat arrays, not {piece} of {self.shape}")
        offset = self.offset + start * self.itemsize
        return DriverArray(self.driver, (max(0, stop - start),), self.dtype, self.memory, offset)

    def __setitem__(self, piece, values) -> None:
        target = self if piece is Ellipsis else self[piece]
        target.fill(values.host() if isinstance(values, DriverArray) else values)

    def astype(self, dtype, copy: bool = True) -> DriverArray:
        """The values as another type, in memory of their own."""
        return DriverArray(self.driver, self.shape, dtype).fill(self.host())


class Memory:
    """A piece of device memory, given back with the last array that lies in it."""

    def __init__(self, driver: Driver, size: int) -> None:
        self.pointer = driver.allocate(size)
        weakref.finalize(self, driver.free, self.pointer).atexit = False
