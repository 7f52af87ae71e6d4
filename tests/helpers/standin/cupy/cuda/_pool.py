"""The pool of device memory: a freed block is used again at once by the stream it was allocated on.

New memory is filled with NaN on the current stream, so that what was read too late, or never written, shows.
"""

from __future__ import annotations

import threading
from typing import Any

from cupy import _engine
from cupy.cuda import memory_hook, runtime
from cupy.cuda import stream as streams
from cupy.cuda._pointer import BaseMemory, Memory, MemoryPointer, OutOfMemoryError

UNIT = 512


class Chunk:
    """A part of a `Memory`, free or in use, and its neighbours in it."""

    def __init__(self, memory: Memory, offset: int, size: int, stream: int):
        self.memory, self.offset, self.size, self.stream = memory, offset, size, stream
        self.before: Chunk | None = None
        self.after: Chunk | None = None
        self.free = False


class PooledMemory(BaseMemory):
    """What an array holds of the pool; its chunk is free again as soon as nobody refers to this."""

    def __init__(self, chunk: Chunk, pool: MemoryPool):
        self._chunk, self.pool, self.size = chunk, pool, chunk.size
        self.ptr, self.device_id = chunk.memory.ptr + chunk.offset, chunk.memory.device_id

    def free(self) -> None:
        if self.ptr:
            facts = {"device_id": self.device_id, "mem_size": self.size, "mem_ptr": self.ptr, "pmem_id": id(self)}
            memory_hook.call("free_preprocess", **facts)
            self.ptr = 0
            self.pool._take_back(self._chunk)
            memory_hook.call("free_postprocess", **facts)

    def __del__(self) -> None:
        if _engine is not None:
            self.free()


class MemoryPool:
    """Blocks of 512 bytes and their multiples, kept per stream, split and joined, the best fitting first."""

    def __init__(self, allocator: Any = None):
        self._allocator = allocator or (lambda size: MemoryPointer(Memory(size), 0))
        self._lock, self._free = threading.RLock(), {}
        self._total = self._used = self._limit = 0
        self._searching, self._late = False, []
        self._memories: set[Memory] = set()  # so that none is ever garbage together with the arrays in it

    def malloc(self, size: int) -> MemoryPointer:
        rounded, device = -(-size // UNIT) * UNIT, runtime.getDevice()
        facts = {"device_id": device, "size": size, "mem_size": rounded}
        memory_hook.call("malloc_preprocess", **facts)
        if not rounded:
            memory_hook.call("malloc_postprocess", **facts, mem_ptr=0, pmem_id=0)
            return MemoryPointer(BaseMemory(), 0)
        queue = runtime.queue_of(streams.get_current_stream().ptr)
        with self._lock:
            self._searching = True
            try:
                chunk = self._found(rounded, (device, queue.handle)) or self._taken(rounded, device, queue.handle)
            finally:
                self._searching = False
            self._used += chunk.size
            while self._late:
                self._take_back(self._late.pop())
        memory = PooledMemory(chunk, self)
        memory_hook.call("malloc_postprocess", **facts, mem_ptr=memory.ptr, pmem_id=id(memory))
        if queue.capture is None:
            spoilt = runtime.raw(memory.ptr, memory.size)
            queue.push("", lambda: spoilt.fill(0xFF))
        return MemoryPointer(memory, 0)

    def _found(self, size: int, arena: tuple[int, int]) -> Chunk | None:
        chunks = self._free.get(arena, [])
        chunk = min((c for c in chunks if c.size >= size), key=lambda c: c.size, default=None)
        if chunk is None:
            return None
        chunks.remove(chunk)
        chunk.free = False
        if chunk.size > size:
            rest = Chunk(chunk.memory, chunk.offset + size, chunk.size - size, chunk.stream)
            rest.before, rest.after, rest.free = chunk, chunk.after, True
            if rest.after:
                rest.after.before = rest
            chunk.after, chunk.size = rest, size
            chunks.append(rest)
        return chunk

    def _taken(self, size: int, device: int, stream: int) -> Chunk:
        facts = {"device_id": device, "mem_size": size}
        memory_hook.call("alloc_preprocess", **facts)
        memory = None
        try:
            if self._limit and self._total + size > self._limit:
                raise OutOfMemoryError(size, self._total, self._limit)
            try:
                memory = self._allocator(size).mem
            except OutOfMemoryError:
                self.free_all_blocks()
                memory = self._allocator(size).mem
        finally:
            memory_hook.call("alloc_postprocess", **facts, mem_ptr=memory.ptr if memory else 0)
        self._total += size
        self._memories.add(memory)
        return Chunk(memory, 0, size, stream)

    def _take_back(self, chunk: Chunk) -> None:
        with self._lock:
            if self._searching:  # the collector of garbage came in between
                self._late.append(chunk)
                return
            self._used -= chunk.size
            chunks = self._free.setdefault((chunk.memory.device_id, chunk.stream), [])
            chunk.free = True
            if chunk.after and chunk.after.free:
                chunks.remove(chunk.after)
                chunk = self._joined(chunk, chunk.after)
            if chunk.before and chunk.before.free:
                chunks.remove(chunk.before)
                chunk = self._joined(chunk.before, chunk)
            chunks.append(chunk)

    @staticmethod
    def _joined(chunk: Chunk, after: Chunk) -> Chunk:
        chunk.size += after.size
        chunk.after = after.after
        if chunk.after:
            chunk.after.before = chunk
        return chunk

    def free_all_blocks(self, stream: Any = None) -> None:
        """Give whole free blocks back to the device."""
        with self._lock:
            for (_, handle), chunks in self._free.items():
                for chunk in [c for c in chunks if c.size == c.memory.size and stream in (None, handle)]:
                    chunks.remove(chunk)
                    self._total -= chunk.size
                    self._memories.remove(chunk.memory)
                    chunk.memory.release()

    def used_bytes(self) -> int:
        return self._used

    def total_bytes(self) -> int:
        return self._total

    def free_bytes(self) -> int:
        return self._total - self._used

    def n_free_blocks(self) -> int:
        return sum(len(chunks) for chunks in self._free.values())

    def set_limit(self, size: int | None = None, fraction: float | None = None) -> None:
        self._limit = size if fraction is None else int(fraction * runtime.memory_limit())

    def get_limit(self) -> int:
        return self._limit
