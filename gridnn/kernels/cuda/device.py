"""One NVIDIA GPU through CuPy: its streams, its events, page-locked memory, and its pool of memory."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from gridnn.kernels.backend import require_contiguous
from gridnn.kernels.cuda.recorder import CupyRecorder
from gridnn.kernels.device import Array, Device, Event

HOOK = "gridnn"
DEFAULT_STREAMS = (0, 1, 2)  # null, cudaStreamLegacy, cudaStreamPerThread


class CupyPool:
    """CuPy's pool of device memory, and how much of it arrays have used.

    The counting is a hook that CuPy calls in every thread that `watch` was called in. Backends of one process share
    the pool, as they share the device's memory. ``used`` and ``peak`` are the bytes that arrays hold, in blocks of 512,
    since the hook is there, and the most there were; ``allocations`` is how often memory was taken from the device: it
    no longer grows once a step finds all its blocks in the pool.
    """

    def __init__(self, cupy: Any) -> None:
        self.used = self.peak = self.allocations = 0
        self._pool, self._hooks = cupy.get_default_memory_pool(), cupy.cuda.memory_hook
        self._lock = threading.RLock()  # freeing may interrupt counting
        self._hook = hook = cupy.cuda.MemoryHook()
        hook.pool, hook.name = self, HOOK
        hook.alloc_postprocess, hook.malloc_postprocess = self._allocated, self._given
        hook.free_postprocess = self._returned

    @classmethod
    def of(cls, cupy: Any) -> CupyPool:
        """The pool that this thread watches already, or a new one."""
        known = cupy.cuda.memory_hook.get_memory_hooks().get(HOOK)
        pool = known.pool if known else cls(cupy)
        pool.watch()
        return pool

    @property
    def taken(self) -> int:
        """Bytes taken from the device, held by arrays or waiting in the pool."""
        return self._pool.total_bytes()

    def watch(self) -> None:
        """Count what the calling thread allocates and frees."""
        self._hooks.get_memory_hooks()[HOOK] = self._hook

    def _allocated(self, mem_ptr: int, **_: int) -> None:
        with self._lock:
            self.allocations += mem_ptr != 0

    def _given(self, mem_size: int, mem_ptr: int, **_: int) -> None:
        if mem_ptr:
            with self._lock:
                self.used += mem_size
                self.peak = max(self.peak, self.used)

    def _returned(self, mem_size: int, **_: int) -> None:
        with self._lock:
            self.used -= mem_size


class CupyDevice(Device):
    """One GPU of this process, the visible device ``number``."""

    def __init__(self, cupy: Any, number: int = 0) -> None:
        self._cupy, self._cuda, self.number = cupy, cupy.cuda, number
        self._device = self._cuda.Device(number)
        self._device.use()
        self.name = self._cuda.runtime.getDeviceProperties(number)["name"].decode()
        self.identity = self._device.pci_bus_id
        self.pool = CupyPool.of(cupy)
        self._streams = {"compute": self._compute_stream()}
        self._lock = threading.Lock()  # of the making of streams
        self._recorder: CupyRecorder | None = None  # one, so that the graphs of all schedules share its pool
        self.bind()

    def _compute_stream(self) -> Any:
        """The stream that is current in this thread if it can be captured, else a new one.

        So all backends of a process share one, as they share arrays; CuPy's default stream cannot be captured, and
        would wait for all other streams.
        """
        current = self._cuda.get_current_stream()
        taken = current.ptr not in DEFAULT_STREAMS and current.is_non_blocking
        return current if taken else self._cuda.Stream(non_blocking=True)

    def _stream(self, name: str) -> Any:
        with self._lock:
            if name not in self._streams:
                self._streams[name] = self._cuda.Stream(non_blocking=True)
            return self._streams[name]

    def mark(self, stream: str = "compute") -> Event:
        return self._stream(stream).record(self._cuda.Event())

    def hold(self, event: Event, stream: str = "compute") -> None:
        self._stream(stream).wait_event(event)

    def wait(self, event: Event) -> None:
        event.synchronize()

    def seconds(self, start: Event, end: Event) -> float:
        return self._cuda.get_elapsed_time(start, end) / 1000

    def stream(self, name: str) -> int:
        return self._stream(name).ptr

    def pinned(self, size: int) -> np.ndarray:
        return np.frombuffer(self._cuda.alloc_pinned_memory(max(1, size)), np.uint8, size)

    def to_host(self, array: Array, host: np.ndarray, stream: str) -> None:
        self._copy(self.pointer(array), host.ctypes.data, array, host, stream)

    def to_device(self, host: np.ndarray, array: Array, stream: str) -> None:
        self._copy(host.ctypes.data, self.pointer(array), array, host, stream)

    def _copy(self, source: int, target: int, array: Array, host: np.ndarray, stream: str) -> None:
        require_contiguous(array)
        require_contiguous(host)
        if array.nbytes != host.nbytes:
            raise ValueError(f"copy between {array.nbytes} bytes of the device and {host.nbytes} of the host")
        runtime = self._cuda.runtime
        kind = runtime.memcpyDeviceToHost if target == host.ctypes.data else runtime.memcpyHostToDevice
        if array.nbytes:
            runtime.memcpyAsync(target, source, array.nbytes, kind, self.stream(stream))

    def pointer(self, array: Array) -> int:
        return array.data.ptr

    def bind(self) -> None:
        self._device.use()
        self._streams["compute"].use()
        self.pool.watch()

    def recorder(self) -> CupyRecorder:
        if self._recorder is None:
            self._recorder = CupyRecorder(self._cupy, self._streams["compute"])
        return self._recorder
