"""A device and a backend of this project over the stand-in driver: enough to move arrays, nothing to compute."""

from __future__ import annotations

import ctypes

import numpy as np

from gridnn.kernels.backend import Backend
from gridnn.kernels.device import Device
from standin_driver.arrays import DriverArray
from standin_driver.library import Driver


class DriverDevice(Device):
    """`gridnn.kernels.device.Device` by the calls of the driver itself."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.name, self.identity = "stand-in device", driver.bus_id()
        self.streams: dict[str, int] = {}

    def stream(self, name: str) -> int:
        """The stream of this name, made at its first use."""
        if name not in self.streams:
            self.streams[name] = self.driver.new("Stream")
        return self.streams[name]

    def mark(self, stream: str = "compute") -> int:
        """An event; it stays until the process ends."""
        event = self.driver.new("Event")
        self.driver.call("cuEventRecord", event, self.stream(stream))
        return event

    def hold(self, event: int, stream: str = "compute") -> None:
        """Let the stream wait for the event."""
        self.driver.call("cuStreamWaitEvent", self.stream(stream), event, 0)

    def wait(self, event: int) -> None:
        """Let the host wait for the event."""
        self.driver.call("cuEventSynchronize", event)

    def seconds(self, start: int, end: int) -> float:
        """None: every event happens at once."""
        return 0.0

    def pinned(self, size: int) -> np.ndarray:
        """Host memory of the driver, which stays until the process ends."""
        pointer = ctypes.c_void_p()
        self.driver.call("cuMemHostAlloc", ctypes.byref(pointer), max(1, size), 0)
        return np.frombuffer((ctypes.c_uint8 * max(1, size)).from_address(pointer.value), np.uint8)[:size]

    def to_host(self, array: DriverArray, host: np.ndarray, stream: str) -> None:
        """Copy into host memory."""
        self._copy(host.ctypes.data, array.ptr, array.nbytes, host.nbytes, stream)

    def to_device(self, host: np.ndarray, array: DriverArray, stream: str) -> None:
        """Copy from host memory."""
        self._copy(array.ptr, host.ctypes.data, array.nbytes, host.nbytes, stream)

    def pointer(self, array: DriverArray) -> int:
        """The address that the device gave out."""
        return array.ptr

    def bind(self) -> None:
        """Make the context current in the calling thread."""
        self.driver.bind()

    def _copy(self, target: int, source: int, size: int, other: int, stream: str) -> None:
        if size != other:
            raise ValueError(f"{size} bytes on the device, {other} in host memory")
        if size:
            self.driver.copy(target, source, size, self.stream(stream))


class DriverBackend(Backend):
    """Arrays in memory of the stand-in device."""

    name = "driver"

    def __init__(self, driver: Driver) -> None:
        super().__init__()
        self.driver, self.device = driver, DriverDevice(driver)

    def empty(self, shape, dtype) -> DriverArray:
        """An array of 0xFF bytes."""
        return DriverArray(self.driver, shape if isinstance(shape, tuple) else (shape,), dtype)

    def asarray(self, host) -> DriverArray:
        """A copy in device memory."""
        host = np.asarray(host)
        return self.empty(host.shape, host.dtype).fill(host)

    def to_host(self, array: DriverArray) -> np.ndarray:
        """A copy in host memory."""
        return array.host()

    def from_host(self, host, out: DriverArray) -> None:
        """Copy into device memory."""
        out.fill(host)

    def synchronize(self) -> None:
        """Nothing is ever under way."""
