"""Memory of the device, and pointers into it."""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

import numpy as np

from cupy import _engine
from cupy.cuda import runtime
from cupy.cuda import stream as streams


class OutOfMemoryError(MemoryError):
    """The device or the pool's limit has no room."""

    def __init__(self, size: int, total: int, limit: int = 0):
        text = f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes"
        super().__init__(text + (f", limit set to: {limit:,} bytes)." if limit else ")."))


class BaseMemory:
    """``ptr``, ``size``, ``device_id``."""

    ptr = size = device_id = 0

    @property
    def device(self) -> Any:
        from cupy.cuda import Device

        return Device(self.device_id)


GUARD = mmap.PAGESIZE


def _mapped(size: int) -> np.ndarray:
    """Room for ``size`` bytes at its end, but for a page that may not be touched: who runs over the end is killed."""
    whole = np.frombuffer(mmap.mmap(-1, -(-size // GUARD) * GUARD + GUARD), np.uint8)
    ctypes.CDLL(None).mprotect(ctypes.c_void_p(whole.ctypes.data + len(whole) - GUARD), GUARD, 0)
    return whole


class Memory(BaseMemory):
    """Memory taken from the device, without a pool."""

    def __init__(self, size: int):
        self.size, self.device_id = size, runtime.getDevice()
        free, total = runtime.memGetInfo()
        if size > free:
            raise OutOfMemoryError(size, total - free)
        if size:
            self._bytes = _mapped(size)
            self.ptr = self._bytes.ctypes.data + len(self._bytes) - GUARD - size
            runtime._device[self.ptr] = size

    def release(self) -> None:
        """Give it back to the device, which finishes everything first (not a method of CuPy)."""
        if self.ptr:
            _engine.synchronize()
            runtime._device.pop(self.ptr)
            self.ptr = 0

    def __del__(self) -> None:
        if getattr(self, "ptr", 0) and runtime._device is not None:
            self.release()


class UnownedMemory(BaseMemory):
    """Memory of somebody else; ``owner`` is kept."""

    def __init__(self, ptr: int, size: int, owner: Any, device_id: int = -1):
        self.ptr, self.size, self._owner = ptr, size, owner
        self.device_id = runtime.getDevice() if device_id < 0 else device_id


class MemoryPointer:
    """An address in device memory that keeps the memory."""

    def __init__(self, mem: BaseMemory, offset: int):
        self.mem, self.ptr, self.device_id = mem, mem.ptr + offset, mem.device_id

    @property
    def device(self) -> Any:
        return self.mem.device

    def __add__(self, offset: int) -> MemoryPointer:
        return MemoryPointer(self.mem, self.ptr - self.mem.ptr + offset)

    def __int__(self) -> int:
        return self.ptr

    def copy_from_device_async(self, src: MemoryPointer, size: int, stream: Any = None) -> None:
        runtime.memcpyAsync(self.ptr, src.ptr, size, runtime.memcpyDeviceToDevice, _stream(stream))

    def copy_from_host_async(self, mem: Any, size: int, stream: Any = None) -> None:
        runtime.memcpyAsync(self.ptr, _address(mem), size, runtime.memcpyHostToDevice, _stream(stream))

    def copy_to_host_async(self, mem: Any, size: int, stream: Any = None) -> None:
        runtime.memcpyAsync(_address(mem), self.ptr, size, runtime.memcpyDeviceToHost, _stream(stream))

    def memset_async(self, value: int, size: int, stream: Any = None) -> None:
        runtime.memsetAsync(self.ptr, value, size, _stream(stream))

    def copy_from_device(self, src: MemoryPointer, size: int) -> None:
        runtime.memcpy(self.ptr, src.ptr, size, runtime.memcpyDeviceToDevice)

    def copy_from_host(self, mem: Any, size: int) -> None:
        runtime.memcpy(self.ptr, _address(mem), size, runtime.memcpyHostToDevice)

    def copy_to_host(self, mem: Any, size: int) -> None:
        runtime.memcpy(_address(mem), self.ptr, size, runtime.memcpyDeviceToHost)

    def memset(self, value: int, size: int) -> None:
        runtime.memset(self.ptr, value, size)


def _stream(stream: Any) -> int:
    return (streams.get_current_stream() if stream is None else stream).ptr


def _address(mem: Any) -> int:
    return mem if isinstance(mem, int) else mem.value
