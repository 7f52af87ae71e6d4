"""Streams, events, graphs: what CuPy makes of the runtime's handles."""

from __future__ import annotations

import threading
from typing import Any

from cupy.cuda import runtime

_local = threading.local()


def _currents() -> dict[int, Any]:
    """The current stream of the calling thread on every device."""
    if not hasattr(_local, "streams"):
        _local.streams = {}
    return _local.streams


def get_current_stream(device_id: int = -1) -> Any:
    device = runtime.getDevice() if device_id < 0 else device_id
    return _currents().get(device, Stream.null)


class Event:
    """An event; one that was never recorded counts as done."""

    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False):
        self.ptr = 0
        if interprocess and not disable_timing:
            raise ValueError("Timing must be disabled for interprocess events")
        flags = (block and 1) | (disable_timing and 2) | (interprocess and 4)
        self.ptr = runtime.eventCreateWithFlags(flags)

    def __del__(self, destroy=runtime.eventDestroy) -> None:
        if self.ptr:
            destroy(self.ptr)

    @property
    def done(self) -> bool:
        return runtime.eventQuery(self.ptr) == 0

    def record(self, stream: Any = None) -> None:
        runtime.eventRecord(self.ptr, (get_current_stream() if stream is None else stream).ptr)

    def synchronize(self) -> None:
        runtime.eventSynchronize(self.ptr)


def get_elapsed_time(start_event: Event, end_event: Event) -> float:
    """Milliseconds."""
    return runtime.eventElapsedTime(start_event.ptr, end_event.ptr)


class Graph:
    """A captured graph."""

    def __init__(self, *args: Any, **kwargs: Any):
        raise NotImplementedError("currently this class cannot be initiated by the user")

    @classmethod
    def _of(cls, handle: int) -> Graph:
        graph = cls.__new__(cls)
        graph.graph, graph.graphExec = 0, handle
        return graph

    def __del__(self, destroy=runtime.graphExecDestroy) -> None:
        if getattr(self, "graphExec", 0):
            destroy(self.graphExec)

    def launch(self, stream: Any = None) -> None:
        runtime.graphLaunch(self.graphExec, (get_current_stream() if stream is None else stream).ptr)

    def upload(self, stream: Any = None) -> None:
        runtime.graphUpload(self.graphExec, (get_current_stream() if stream is None else stream).ptr)


class _BaseStream:
    def __init__(self, ptr: int, device_id: int):
        self.ptr, self.device_id = ptr, device_id

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BaseStream) and self.ptr == other.ptr

    def __hash__(self) -> int:
        return self.ptr

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.ptr} (device {self.device_id})>"

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.ptr

    def __enter__(self) -> _BaseStream:
        if not hasattr(_local, "stack"):
            _local.stack = []
        _local.stack.append((self._device(), get_current_stream()))
        return self.use()

    def __exit__(self, *args: object) -> None:
        device, before = _local.stack.pop()
        _currents()[device] = before

    def _device(self) -> int:
        device = runtime.getDevice()
        if self.device_id not in (-1, device):
            raise RuntimeError(
                f"The device that the stream is created on ({self.device_id}) "
                f"does not match with the current device ({device})"
            )
        return device

    def use(self) -> _BaseStream:
        _currents()[self._device()] = self
        return self

    @property
    def done(self) -> bool:
        return runtime.streamQuery(self.ptr) == 0

    def synchronize(self) -> None:
        runtime.streamSynchronize(self.ptr)

    def launch_host_func(self, callback: Any, arg: Any) -> None:
        runtime.launchHostFunc(self.ptr, callback, arg)

    def record(self, event: Event | None = None) -> Event:
        event = Event() if event is None else event
        runtime.eventRecord(event.ptr, self.ptr)
        return event

    def wait_event(self, event: Event) -> None:
        runtime.streamWaitEvent(self.ptr, event.ptr)

    def begin_capture(self, mode: int | None = None) -> None:
        if self.ptr in (0, 1):
            raise RuntimeError("cannot capture on the default (legacy) stream")
        runtime.streamBeginCapture(self.ptr, runtime.streamCaptureModeRelaxed if mode is None else mode)

    def end_capture(self) -> Graph:
        return Graph._of(runtime.streamEndCapture(self.ptr))

    def is_capturing(self) -> bool:
        return runtime.streamIsCapturing(self.ptr)

    @property
    def is_non_blocking(self) -> bool:
        return bool(runtime.streamGetFlags(self.ptr) & runtime.streamNonBlocking)


class Stream(_BaseStream):
    """A new stream, or the legacy default one (``null``)."""

    null: Stream

    def __init__(self, null: bool = False, non_blocking: bool = False, ptds: bool = False, priority: Any = None):
        if null or ptds:
            super().__init__(runtime.streamPerThread if ptds else 0, -1)
        else:
            flags = runtime.streamNonBlocking if non_blocking else runtime.streamDefault
            super().__init__(runtime.streamCreateWithFlags(flags), runtime.getDevice())


class ExternalStream(_BaseStream):
    """A stream that somebody else made."""

    def __init__(self, ptr: int, device_id: int = -1):
        super().__init__(ptr, device_id)


Stream.null = Stream(null=True)
