"""Page-locked host memory; a freed block is used again at once, even if a copy still reads or writes it."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from cupy.cuda import runtime

PAGE = 512


class PooledPinnedMemory:
    """A block, given back to its pool as soon as nobody refers to it."""

    def __init__(self, block: np.ndarray, pool: PinnedMemoryPool):
        self._block, self.pool, self.ptr, self.size = block, pool, block.ctypes.data, block.size

    def __del__(self) -> None:
        self.pool._blocks.setdefault(self.size, []).append(self._block)


class Block(np.ndarray):
    """Of another class than the views of it: NumPy would refer them to the block, past the pointer that holds it."""


class PinnedMemoryPointer(np.ndarray):
    """The bytes of a block (as a buffer, to which CuPy's class also converts), with ``ptr`` and ``mem``."""

    mem: PooledPinnedMemory

    @property
    def ptr(self) -> int:
        return self.ctypes.data


class PinnedMemoryPool:
    """Blocks of a power of two of bytes, at least 512."""

    def __init__(self, allocator: Any = None):
        self._blocks: dict[int, list[np.ndarray]] = {}
        self._lock = threading.Lock()

    def malloc(self, size: int) -> PinnedMemoryPointer:
        rounded = max(PAGE, 1 << (size - 1).bit_length())
        with self._lock:
            free = self._blocks.setdefault(rounded, [])
            block = free.pop() if free else self._new(rounded)
        pointer = block.view(PinnedMemoryPointer)
        pointer.mem = PooledPinnedMemory(block, self)
        return pointer

    def _new(self, size: int) -> np.ndarray:
        block = np.empty(size, np.uint8).view(Block)
        runtime._pinned[block.ctypes.data] = size
        return block

    def free_all_blocks(self) -> None:
        """The stand-in keeps them: a copy that was not waited for must not crash the process."""

    def n_free_blocks(self) -> int:
        return sum(len(blocks) for blocks in self._blocks.values())


_POOL = PinnedMemoryPool()


def get_default_pinned_memory_pool() -> PinnedMemoryPool:
    return _POOL


def alloc_pinned_memory(size: int) -> PinnedMemoryPointer:
    return _POOL.malloc(size)
