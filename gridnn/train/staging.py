"""Where a reader puts what it reads: host memory alone, or host memory and its copy on the device."""

from __future__ import annotations

from typing import Any

from gridnn.kernels.backend import Array, Backend

READING = "reading"  # the stream of the copies


class HostBuffer:
    """Memory of the host that is also the device's: an array, used as it is.

    Parameters
    ----------
    backend : Backend
        Whose arrays are made from it.
    shape, dtype
        Of the array.
    """

    def __init__(self, backend: Backend, shape: tuple[int, ...], dtype: Any) -> None:
        self.backend = backend
        self.host = backend.host_empty(shape, backend.dtype(dtype))

    def open(self) -> Any:
        """The host's array, to be written now."""
        return self.host

    def put(self, values: Any) -> None:
        """Hold ``values``, an array of the host."""
        self.host = values

    def send(self) -> None:
        """What was written is complete: begin to bring it to the device."""

    def load(self, array: Array) -> None:
        """Copy the contents into an array of this shape."""
        self.backend.from_host(self.host, array)


class StagingBuffer:
    """Page-locked memory of the host, and a device array that it is copied to while the device computes.

    Only events order the copies: the host waits for one in `open` alone, before it writes over what is still being
    copied. The stream of the reading and the compute stream wait for each other on the device. Made by the thread that
    computes; `open`, `put` and `send` may be called by another one, which leaves the compute stream alone.

    Parameters
    ----------
    backend : Backend
        Whose device it is.
    shape, dtype
        Of the array.
    """

    def __init__(self, backend: Backend, shape: tuple[int, ...], dtype: Any) -> None:
        self.backend, self.device, dtype = backend, backend.device, backend.dtype(dtype)
        self._array = backend.empty(shape, dtype)
        self._host = self.device.pinned(self._array.nbytes).view(dtype).reshape(shape)
        # the memory may belong to work under way until now; nothing has been copied yet
        self._used = self._copied = self.device.mark()

    def open(self) -> Any:
        """The host's array, to be written now."""
        self.device.wait(self._copied)
        return self._host

    def put(self, values: Any) -> None:
        """Hold ``values``, an array of the host."""
        self.open()[...] = values

    def send(self) -> None:
        """What was written is complete: begin to bring it to the device."""
        self.device.hold(self._used, READING)
        self.device.to_device(self._host, self._array, READING)
        self._copied = self.device.mark(READING)

    def load(self, array: Array) -> None:
        """Copy the contents into an array of this shape, on the device."""
        self.device.hold(self._copied)
        array[...] = self._array
        self._used = self.device.mark()


def make_buffer(backend: Backend, shape: tuple[int, ...], dtype: Any) -> HostBuffer | StagingBuffer:
    """Buffer for arrays of ``shape`` on the way to the memory of ``backend``."""
    return (StagingBuffer if backend.device else HostBuffer)(backend, shape, dtype)
