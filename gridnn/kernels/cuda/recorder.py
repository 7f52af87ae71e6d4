"""CUDA graphs of the compute stream."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from gridnn.errors import UserError
from gridnn.kernels.device import Graph


class CupyRecorder:
    """Graphs of what is asked of the compute ``stream``, a non-blocking one: others cannot be captured.

    A graph repeats its kernels on the addresses that they were asked for with. What kernels allocate while they are
    recorded comes from a pool of its own. What that has taken from the device it keeps, since graphs write there.
    """

    def __init__(self, cupy: Any, stream: Any) -> None:
        self._cuda, self._stream = cupy.cuda, stream
        self._taken: list[Any] = []
        self._pool = cupy.cuda.MemoryPool(self._take)

    def _take(self, size: int) -> Any:
        """New memory of the device."""
        self._taken.append(self._cuda.MemoryPointer(self._cuda.Memory(size), 0))
        return self._taken[-1]

    @property
    def taken(self) -> int:
        """Bytes that graphs hold for what kernels allocate."""
        return self._pool.total_bytes()

    def record(self, calls: Sequence[Callable[[], Any]]) -> Graph:
        """Record what ``calls`` ask of the compute stream, in place of doing it; what is returned does it when called.

        `UserError` if something was asked for that cannot be recorded.
        """
        gc.collect()  # what waits to be collected may be memory of the device, whose end breaks a capture
        try:
            with self._cuda.using_allocator(self._pool.malloc):
                self._stream.begin_capture()  # relaxed: other threads go on with their streams
                for call in calls:
                    call()
                graph = self._end()
        except BaseException:
            self._abandon()
            raise
        return lambda: graph.launch(self._stream)

    def _end(self) -> Any:
        try:
            return self._stream.end_capture()
        except self._cuda.runtime.CUDARuntimeError as error:
            raise UserError(f"--graphs: the device does not capture these layers ({error}): leave it out") from error

    def _abandon(self) -> None:
        """Stop after a mistake."""
        try:
            recording = self._stream.is_capturing()
        except RuntimeError:  # so CuPy says that a mistake has made the capture invalid
            recording = True
        if recording:
            with suppress(self._cuda.runtime.CUDARuntimeError):  # what went wrong is told already
                self._stream.end_capture()
