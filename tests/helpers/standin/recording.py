"""A device of NumPy arrays that writes down what it is asked for, and does it as late as events and waits allow.

So a transport that forgets to wait, or to hold, gives old numbers, and the order of its calls can be compared with
what it should be. Nothing else of an array library is needed: a test asks for its own "kernels" with `ask`.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from gridnn.kernels import NumpyBackend
from gridnn.kernels.device import Device

GARBAGE = 0xAB  # what page-locked memory holds at first


class RecordedEvent:
    """An event: its number in the order of marks, its stream, and when it happened."""

    def __init__(self, number: int, stream: str) -> None:
        self.number, self.stream, self.happened = number, stream, None


class RecordingDevice(Device):
    """See the module.

    Parameters
    ----------
    late : bool
        Whether streams run only when somebody waits; else at once, as far as events allow.

    Attributes
    ----------
    calls : list of str
        What was asked for, in order, e.g. ``"hold communication 1"``: the stream goes on after the first mark.
    """

    name, identity = "recording", "0000:00:00.0"

    def __init__(self, late: bool = True) -> None:
        self.late, self.calls = late, []
        self._queues: dict[str, deque[Callable[[], None]]] = {}
        self._marks, self._pinned = 0, []
        self._lock = threading.RLock()
        self._bound = {threading.get_ident()}

    # -- what a device does ----------------------------------------------------------------------------------

    def mark(self, stream: str = "compute") -> RecordedEvent:
        with self._lock:
            self._marks += 1
            event = RecordedEvent(self._marks, stream)
            self._ask(f"mark {stream} {event.number}", stream, lambda: self._happen(event))
            return event

    def hold(self, event: RecordedEvent, stream: str = "compute") -> None:
        self._ask(f"hold {stream} {event.number}", stream, lambda: self._until(event))

    def wait(self, event: RecordedEvent) -> None:
        with self._lock:
            self._write(f"wait {event.number}")
            self._until(event)

    def seconds(self, start: RecordedEvent, end: RecordedEvent) -> float:
        return end.happened - start.happened

    def pinned(self, size: int) -> np.ndarray:
        self._pinned.append(np.full(size, GARBAGE, np.uint8))
        return self._pinned[-1]

    def to_host(self, array: np.ndarray, host: np.ndarray, stream: str) -> None:
        self._copy("to_host", array, host, stream)

    def to_device(self, host: np.ndarray, array: np.ndarray, stream: str) -> None:
        self._copy("to_device", host, array, stream)

    def pointer(self, array: np.ndarray) -> int:
        return array.ctypes.data

    def bind(self) -> None:
        self._bound.add(threading.get_ident())

    # -- what tests do ---------------------------------------------------------------------------------------

    def ask(self, kernel: Callable[[], Any], stream: str = "compute") -> None:
        """Have ``kernel`` done when ``stream`` comes to it."""
        self._ask("kernel", stream, kernel)

    def finish(self) -> None:
        """Wait for everything."""
        for stream in list(self._queues):
            self.wait(self.mark(stream))

    # -- how -------------------------------------------------------------------------------------------------

    def _copy(self, name: str, source: np.ndarray, target: np.ndarray, stream: str) -> None:
        host, array = (target, source) if name == "to_host" else (source, target)
        assert host.nbytes == array.nbytes and host.flags.c_contiguous and array.flags.c_contiguous
        assert not host.size or any(np.shares_memory(host, memory) for memory in self._pinned)
        self._ask(f"{name} {stream}", stream, lambda: _bytes(target).__setitem__(slice(None), _bytes(source)))

    def _ask(self, text: str, stream: str, work: Callable[[], None]) -> None:
        with self._lock:
            self._write(text)
            self._queues.setdefault(stream, deque()).append(work)
            if not self.late:
                self._run(stream)

    def _write(self, text: str) -> None:
        assert threading.get_ident() in self._bound, f"{text}: the device is not bound to this thread"
        self.calls.append(text)

    def _run(self, stream: str) -> None:
        queue = self._queues[stream]
        while queue:
            queue.popleft()()

    def _until(self, event: RecordedEvent) -> None:
        while event.happened is None:
            self._queues[event.stream].popleft()()

    @staticmethod
    def _happen(event: RecordedEvent) -> None:
        event.happened = time.perf_counter()


class RecordingBackend(NumpyBackend):
    """NumPy's arrays with a recording device."""

    def __init__(self, late: bool = True) -> None:
        super().__init__()
        self.device = RecordingDevice(late)


class RecordingComm:
    """A communicator of MPI whose calls on buffers are written down among those of a device."""

    def __init__(self, comm: Any, device: RecordingDevice) -> None:
        self._comm, self._device = comm, device

    def __getattr__(self, name: str) -> Any:
        if name[0].isupper():
            self._device.calls.append(name)
        return getattr(self._comm, name)


def _bytes(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1).view(np.uint8)
