"""CUDA graphs of the compute stream, and memory that lies where it lay when they were captured."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

from gridnn.errors import UserError
from gridnn.kernels.device import Graph, Recorder


class CupyRecorder(Recorder):
    """Stream capture by CuPy, with a pool of its own for everything that is allocated in a recorded pass.

    What the pool has taken from the device it keeps, also where memory runs out: graphs write there.

    Parameters
    ----------
    cupy : module
        CuPy.
    stream : cupy.cuda.Stream
        The compute stream: a non-blocking one, others cannot be captured.
    number : int
        The device's.
    """

    def __init__(self, cupy: Any, stream: Any, number: int) -> None:
        self._cupy, self._cuda, self._stream, self._number = cupy, cupy.cuda, stream, number
        self._taken: list[Any] = []
        self._pool = cupy.cuda.MemoryPool(self._take)
        self._unlisted = False

    def _take(self, size: int) -> Any:
        """New memory of the device."""
        self._taken.append(self._cuda.MemoryPointer(self._cuda.Memory(size), 0))
        return self._taken[-1]

    # -- graphs ------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        self._stream.begin_capture()  # relaxed: the pool may take memory, other threads go on with their streams

    def end(self) -> Graph:
        try:
            graph = self._stream.end_capture()
        except self._cuda.runtime.CUDARuntimeError as error:
            raise UserError(f"--graphs: the device does not capture these layers ({error}): leave it out") from error
        return lambda: graph.launch(self._stream)

    def abandon(self) -> None:
        try:
            recording = self._stream.is_capturing()
        except RuntimeError:  # so CuPy says that a mistake has made the capture invalid
            recording = True
        if recording:
            with suppress(self._cuda.runtime.CUDARuntimeError):  # what went wrong is told already
                self._stream.end_capture()

    # -- memory ------------------------------------------------------------------------------------------------

    @property
    def taken(self) -> int:
        return self._pool.total_bytes()

    def keeping(self, places: list) -> AbstractContextManager:
        gc.collect()  # what waits to be collected may be memory of the device, whose end breaks a capture
        self._cupy.get_default_memory_pool().free_all_blocks()  # what passes took before they were recorded

        def allocate(size: int) -> Any:
            pointer = self._pool.malloc(size)
            if not self._unlisted:
                places.append((size, self._pointer(pointer.ptr, size)))
            return pointer

        return self._cuda.using_allocator(allocate)

    def kept(self, places: list) -> AbstractContextManager:
        left = iter(places)

        def allocate(size: int) -> Any:
            known, pointer = next(left, (None, None))
            if known != size:
                raise RuntimeError(f"{size} bytes are asked for where a pass like this one asked for {known}")
            return pointer

        return self._cuda.using_allocator(allocate)

    @contextmanager
    def unlisted(self) -> Iterator[None]:
        self._unlisted = True
        try:
            yield
        finally:
            self._unlisted = False

    def alias(self, value: Any) -> Any:
        if isinstance(value, self._cupy.ndarray):
            pointer = self._pointer(value.data.ptr, value.nbytes)
            return self._cupy.ndarray(value.shape, value.dtype, pointer, value.strides)
        if isinstance(value, tuple | list):
            return type(value)(map(self.alias, value))
        if isinstance(value, dict):
            return {name: self.alias(part) for name, part in value.items()}
        return value

    def _pointer(self, address: int, size: int) -> Any:
        """An address in memory that somebody else holds."""
        return self._cuda.MemoryPointer(self._cuda.UnownedMemory(address, size, self, self._number), 0)
