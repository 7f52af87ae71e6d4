"""``cupy.cuda.memory``: which function allocates."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import Any

from cupy.cuda._pointer import BaseMemory, Memory, MemoryPointer, OutOfMemoryError, UnownedMemory
from cupy.cuda._pool import MemoryPool, PooledMemory

__all__ = [
    "BaseMemory", "Memory", "MemoryPointer", "MemoryPool", "OutOfMemoryError", "PooledMemory", "UnownedMemory", "alloc",
    "get_allocator", "get_default_memory_pool", "set_allocator", "using_allocator",
]  # fmt: skip


class Allocator:
    """Which function allocates, for all threads or, inside `using_allocator`, for one."""

    def __init__(self) -> None:
        self.pool = MemoryPool()
        self.function, self.local = self.pool.malloc, threading.local()


_STATE = Allocator()


def get_default_memory_pool() -> MemoryPool:
    return _STATE.pool


def get_allocator() -> Any:
    return getattr(_STATE.local, "function", None) or _STATE.function


def set_allocator(allocator: Any = None) -> None:
    if getattr(_STATE.local, "function", None):
        raise ValueError("Can't change the global allocator inside `using_allocator` context manager")
    _STATE.function = allocator or (lambda size: MemoryPointer(Memory(size), 0))


@contextmanager
def using_allocator(allocator: Any = None) -> Any:
    before = getattr(_STATE.local, "function", None)
    _STATE.local.function = allocator or (lambda size: MemoryPointer(Memory(size), 0))
    try:
        yield
    finally:
        _STATE.local.function = before


def alloc(size: int) -> MemoryPointer:
    return get_allocator()(size)
