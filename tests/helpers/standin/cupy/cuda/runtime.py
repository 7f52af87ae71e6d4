"""``cupy.cuda.runtime``: the calls of CUDA's runtime, by handles and addresses."""

from __future__ import annotations

import ctypes
import itertools
import os
import threading

import numpy as np

from cupy import _engine, _record
from cupy._errors import CUDARuntimeError as CUDARuntimeError

eventDefault, eventBlockingSync, eventDisableTiming, eventInterprocess = 0, 1, 2, 4
streamDefault, streamNonBlocking, streamLegacy, streamPerThread = 0, 1, 1, 2
streamCaptureModeGlobal, streamCaptureModeThreadLocal, streamCaptureModeRelaxed = 0, 1, 2
memcpyHostToHost, memcpyHostToDevice, memcpyDeviceToHost, memcpyDeviceToDevice, memcpyDefault = range(5)
COPIES = ("memcpyHostToHost", "memcpyHostToDevice", "memcpyDeviceToHost", "memcpyDeviceToDevice", "memcpyDefault")

is_hip = False
_handles = itertools.count(0x5EED0000, 0x10)
_local = threading.local()
_events: dict[int, Event] = {}
_graphs: dict[int, _engine.Graph] = {}
_pinned: dict[int, int] = {}  # address: bytes, of page-locked memory
_device: dict[int, int] = {}  # address: bytes, of the device's memory


class Event:
    """What a ``cudaEvent_t`` stands for: where it was last recorded."""

    def __init__(self, flags: int):
        self.flags, self.mark = flags, None


def getDeviceCount() -> int:
    """How many devices there are: ``STANDIN_DEVICES``, 1 if it is not set."""
    count = int(os.environ.get("STANDIN_DEVICES", "1"))
    if not count:
        raise CUDARuntimeError(100)
    return count


def getDevice() -> int:
    return getattr(_local, "device", 0)


def setDevice(device: int) -> None:
    if not 0 <= device < getDeviceCount():
        raise CUDARuntimeError(101)
    _local.device = device


def getDeviceProperties(device: int) -> dict:
    if not 0 <= device < getDeviceCount():
        raise CUDARuntimeError(101)
    return {"name": b"Stand-in GPU", "totalGlobalMem": memory_limit(), "major": 9, "minor": 0,
            "multiProcessorCount": 132, "pciBusID": device + 1, "pciDeviceID": 0, "pciDomainID": 0,
            "l2CacheSize": 50 << 20}  # fmt: skip


def deviceGetPCIBusId(device: int) -> str:
    return f"0000:{device + 1:02X}:00.0"


def memory_limit() -> int:
    """Bytes of the device: ``STANDIN_MEMORY``, 8 GiB if it is not set (not a function of CuPy)."""
    return int(os.environ.get("STANDIN_MEMORY", 8 << 30))


def memGetInfo() -> tuple[int, int]:
    return memory_limit() - sum(_device.values()), memory_limit()


def free(pointer: int) -> None:
    """Of a null pointer: makes the context, nothing more. Arrays are freed by their pool."""
    if pointer:
        raise CUDARuntimeError(1)


def driverGetVersion() -> int:
    return 13000


def runtimeGetVersion() -> int:
    return 12090


def deviceSynchronize() -> None:
    _record.note(-1, "deviceSynchronize")
    _engine.synchronize()


def queue_of(stream: int) -> _engine.Queue:
    """The queue of a stream's handle (not a function of CuPy)."""
    handle = 0 if stream in (streamLegacy, streamPerThread) else stream
    if handle not in _engine.ALL:
        raise CUDARuntimeError(400)
    return _engine.ALL[handle]


def streamCreateWithFlags(flags: int) -> int:
    handle = next(_handles)
    _engine.ALL[handle] = _engine.Queue(handle, blocking=not flags & streamNonBlocking)
    return handle


def streamCreate() -> int:
    return streamCreateWithFlags(streamDefault)


def streamDestroy(stream: int) -> None:
    queue_of(stream)  # what was asked of it is still done


def streamGetFlags(stream: int) -> int:
    return streamDefault if not stream or queue_of(stream).blocking else streamNonBlocking


def streamSynchronize(stream: int) -> None:
    _record.note(-1, "streamSynchronize", stream)
    queue_of(stream).wait()


def streamQuery(stream: int) -> int:
    """0 or 600; with every question the stream goes on by one operation."""
    queue = queue_of(stream)
    if queue.capture is not None:
        queue.wait()  # refuses
    if queue.done >= queue.asked:
        return 0
    _engine.run_to(queue, queue.done + 1)
    return 600


def streamWaitEvent(stream: int, event: int, flags: int = 0) -> None:
    _record.note(queue_of(stream).handle, "wait", event)
    if _events[event].mark is not None:
        queue_of(stream).hold(_events[event].mark)


def streamBeginCapture(stream: int, mode: int = streamCaptureModeRelaxed) -> None:
    _engine.begin_capture(queue_of(stream))


def streamEndCapture(stream: int) -> int:
    handle = next(_handles)
    _graphs[handle] = _engine.end_capture(queue_of(stream))
    return handle


def streamIsCapturing(stream: int) -> bool:
    capture = queue_of(stream).capture
    if capture is not None and not capture.valid:
        raise RuntimeError("the stream was capturing, but an error has invalidated the capture sequence")
    return capture is not None


def graphLaunch(graph: int, stream: int) -> None:
    queue_of(stream).push("graphLaunch", _graphs[graph].run)


def graphUpload(graph: int, stream: int) -> None:
    if graph not in _graphs:
        raise CUDARuntimeError(400)
    queue_of(stream)


def graphExecDestroy(graph: int) -> None:
    _graphs.pop(graph)


def launchHostFunc(stream: int, callback, argument) -> None:
    queue_of(stream).push("launchHostFunc", lambda: callback(argument))


def eventCreateWithFlags(flags: int) -> int:
    handle = next(_handles)
    _events[handle] = Event(flags)
    return handle


def eventCreate() -> int:
    return eventCreateWithFlags(eventDefault)


def eventDestroy(event: int) -> None:
    _events.pop(event)


def eventRecord(event: int, stream: int) -> None:
    _record.note(queue_of(stream).handle, "record", event)
    _events[event].mark = queue_of(stream).mark()


def eventQuery(event: int) -> int:
    """0 or 600; with every question the stream goes on by one operation."""
    mark = _uncaptured(event)
    if mark is None or mark.reached:
        return 0
    _engine.run_to(mark.queue, mark.queue.done + 1)
    return 0 if mark.reached else 600


def eventSynchronize(event: int) -> None:
    _record.note(-1, "eventSynchronize", event)
    mark = _uncaptured(event)
    if mark is not None:
        _engine.run_to(mark.queue, mark.number)


def eventElapsedTime(start: int, end: int) -> float:
    marks = _uncaptured(start), _uncaptured(end)
    if None in marks or (_events[start].flags | _events[end].flags) & eventDisableTiming:
        raise CUDARuntimeError(400)
    if not all(mark.reached for mark in marks):
        raise CUDARuntimeError(600)
    return 1000 * (marks[1].time - marks[0].time)


def _uncaptured(event: int) -> _engine.Mark | None:
    if event not in _events:
        raise CUDARuntimeError(400)
    mark = _events[event].mark
    if mark is not None and mark.capture is not None:
        mark.capture.valid = False
        raise CUDARuntimeError(907)
    return mark


def raw(pointer: int, size: int) -> np.ndarray:
    """The bytes at an address (not a function of CuPy)."""
    return np.frombuffer((ctypes.c_uint8 * size).from_address(pointer), np.uint8)


def _inside(known: dict[int, int], pointer: int, size: int) -> bool:
    return any(start <= pointer and pointer + size <= start + held for start, held in list(known.items()))


def memcpyAsync(dst: int, src: int, size: int, kind: int, stream: int) -> None:
    """Copy between addresses; like CUDA, what is not page-locked is read now, and is written before this returns.

    Raises
    ------
    CUDARuntimeError
        If an address is not on the side that ``kind`` says.
    """
    if not size:
        return
    sides = {"to": _inside(_device, dst, size), "from": _inside(_device, src, size)}
    if kind != memcpyDefault and sides != {"to": kind in (1, 3), "from": kind in (2, 3)}:
        raise CUDARuntimeError(1)
    target, source, queue = raw(dst, size), raw(src, size), queue_of(stream)
    if not sides["from"] and not _inside(_pinned, src, size) and queue.capture is None:
        source = source.copy()

    def copy() -> None:
        target[:] = source

    queue.push(COPIES[kind], copy)
    if not sides["to"] and not _inside(_pinned, dst, size) and queue.capture is None:
        queue.wait()


def memcpy(dst: int, src: int, size: int, kind: int) -> None:
    """As CUDA: on the legacy default stream, which waits for no non-blocking stream."""
    memcpyAsync(dst, src, size, kind, 0)
    streamSynchronize(0)


def memsetAsync(pointer: int, value: int, size: int, stream: int) -> None:
    queue_of(stream).push("memset", lambda: raw(pointer, size).fill(value) if size else None)


def memset(pointer: int, value: int, size: int) -> None:
    memsetAsync(pointer, value, size, 0)
    streamSynchronize(0)
