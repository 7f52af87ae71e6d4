"""An accelerator as the floors above need it: streams by name, events, and copies to and from host memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Array = Any
Event = Any
Graph = Callable[[], None]


class Device:
    """One accelerator, whose work runs behind the host's back (abstract).

    What is asked of a stream runs in the order of asking; streams run beside each other except where one holds an
    event of another. They are made at their first use: "compute" has all local mathematics, "communication" what
    moves between ranks, "reading" the samples of the next batch.

    Memory belongs to the stream on which it was allocated, always "compute": an array that another stream still uses
    must not be dropped before "compute" holds that stream's event, since its memory is given out again at once.

    Attributes
    ----------
    name : str
        What its maker calls it, e.g. "NVIDIA H200".
    identity : str
        Equal on two ranks of a node that share the device (its PCI bus id).
    """

    name: str
    identity: str

    def mark(self, stream: str = "compute") -> Event:
        """An event that happens after everything asked of ``stream`` so far."""
        raise NotImplementedError

    def hold(self, event: Event, stream: str = "compute") -> None:
        """Let ``stream`` go on only after ``event``; the host does not wait."""
        raise NotImplementedError

    def wait(self, event: Event) -> None:
        """Let the host wait for ``event``; other threads go on."""
        raise NotImplementedError

    def seconds(self, start: Event, end: Event) -> float:
        """The seconds between two events that have happened."""
        raise NotImplementedError

    def stream(self, name: str) -> int:
        """The ``cudaStream_t`` of this name, for libraries."""
        raise NotImplementedError

    def pinned(self, size: int) -> Any:
        """Page-locked host memory: a NumPy array of ``size`` bytes, uint8."""
        raise NotImplementedError

    def to_host(self, array: Array, host: Any, stream: str) -> None:
        """Copy the contiguous ``array`` into pinned host memory of as many bytes, when ``stream`` comes to it."""
        raise NotImplementedError

    def to_device(self, host: Any, array: Array, stream: str) -> None:
        """Copy pinned host memory into the contiguous ``array`` of as many bytes, when ``stream`` comes to it."""
        raise NotImplementedError

    def pointer(self, array: Array) -> int:
        """The address of the first element of ``array``."""
        raise NotImplementedError

    def bind(self) -> None:
        """Make the device and its compute stream current in the calling thread; every helper thread begins with it."""
        raise NotImplementedError

    def recorder(self) -> Any:
        """What records graphs of the compute stream: see `gridnn.kernels.cuda.recorder.CupyRecorder`."""
        raise NotImplementedError
