"""``cupy.cuda`` of the stand-in."""

from cupy.cuda import memory, memory_hook, nvrtc, pinned_memory, runtime, stream
from cupy.cuda.device import Device, get_device_id
from cupy.cuda.memory import (
    BaseMemory,
    Memory,
    MemoryPointer,
    MemoryPool,
    UnownedMemory,
    alloc,
    get_allocator,
    set_allocator,
    using_allocator,
)
from cupy.cuda.memory_hook import MemoryHook
from cupy.cuda.pinned_memory import PinnedMemoryPointer, PinnedMemoryPool, alloc_pinned_memory
from cupy.cuda.stream import Event, ExternalStream, Graph, Stream, get_current_stream, get_elapsed_time

__all__ = [
    "BaseMemory", "Device", "Event", "ExternalStream", "Graph", "Memory", "MemoryHook", "MemoryPointer", "MemoryPool",
    "PinnedMemoryPointer", "PinnedMemoryPool", "Stream", "UnownedMemory", "alloc", "alloc_pinned_memory",
    "get_allocator", "get_current_stream", "get_device_id", "get_elapsed_time", "is_available", "memory",
    "memory_hook", "nvrtc", "pinned_memory", "runtime", "set_allocator", "stream", "using_allocator",
]  # fmt: skip


def is_available() -> bool:
    """Whether there is a device."""
    try:
        return runtime.getDeviceCount() > 0
    except runtime.CUDARuntimeError:
        return False
