"""The stand-in driver from Python: compiled with cc, called by ctypes."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path
from typing import NamedTuple

SOURCES = ("driver.c", "memory.c")
NAME = "libcuda.so.1"


class Counters(NamedTuple):
    """How often, and how many bytes, were copied to and from the device; handles of other processes opened."""

    h2d: int
    d2h: int
    d2d: int
    bytes_h2d: int
    bytes_d2h: int
    bytes_d2d: int
    ipc_opened: int


def build(folder: Path) -> Path:
    """Compile the stand-in into ``folder``, under the driver's own name; LD_LIBRARY_PATH=folder makes MPI take it."""
    here = Path(__file__).resolve().parent
    library = folder / NAME
    options = ["-O1", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror", "-shared", "-fPIC", f"-Wl,-soname,{NAME}"]
    subprocess.run(["cc", *options, "-o", library, *(here / source for source in SOURCES), "-lpthread"], check=True)
    return library


class DriverError(RuntimeError):
    """A call of the driver that did not return CUDA_SUCCESS."""


class Driver:
    """The calls of the driver that the checks make, as methods; the calling thread has its context afterwards.

    Parameters
    ----------
    library : path, optional
        Where the library is; by default where the dynamic linker finds libcuda.so.1, as MPI does.
    """

    def __init__(self, library: Path | str = NAME) -> None:
        self.library = ctypes.CDLL(str(library))
        self.call("cuInit", 0)
        self.context = ctypes.c_void_p()
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(self.context), 0)
        self.bind()

    def call(self, function: str, *args) -> None:
        """Call ``function``; Python integers are passed as 64 bits, which the driver's narrower ones take too.

        Raises
        ------
        DriverError
            With the function and the number that it returned.
        """
        wide = [ctypes.c_size_t(a) if isinstance(a, int) else a for a in args]
        result = getattr(self.library, function)(*wide)
        if result:
            raise DriverError(f"{function} returned {result}")

    def bind(self) -> None:
        """Make the device's context current in the calling thread."""
        self.call("cuCtxSetCurrent", self.context)

    def unbind(self) -> None:
        """Leave the calling thread without a context."""
        self.call("cuCtxSetCurrent", None)

    def bus_id(self) -> str:
        """The PCI bus id of the device."""
        text = ctypes.create_string_buffer(32)
        self.call("cuDeviceGetPCIBusId", text, len(text), 0)
        return text.value.decode()

    def allocate(self, size: int) -> int:
        """The address of ``size`` bytes of device memory; None are an address too, which nobody may touch."""
        pointer = ctypes.c_uint64()
        self.call("cuMemAlloc_v2", ctypes.byref(pointer), max(1, size))
        return pointer.value

    def free(self, pointer: int) -> None:
        """Give device memory back."""
        self.call("cuMemFree_v2", pointer)

    def copy(self, target: int, source: int, size: int, stream: int = 0) -> None:
        """Copy ``size`` bytes between any two addresses."""
        self.call("cuMemcpyAsync", target, source, size, stream)

    def is_device(self, pointer: int) -> bool:
        """Whether an address is one of device memory."""
        kind, which, data = ctypes.c_int(), (ctypes.c_int * 1)(2), (ctypes.c_void_p * 1)()
        data[0] = ctypes.addressof(kind)
        self.call("cuPointerGetAttributes", 1, which, data, pointer)
        return kind.value == 2

    def new(self, kind: str) -> int:
        """A new "Stream" or "Event", as a handle."""
        handle = ctypes.c_uint64()
        self.call(f"cu{kind}Create", ctypes.byref(handle), 0)
        return handle.value

    def counters(self, reset: bool = True) -> Counters:
        """What was copied since the last reset (the stand-in only: a real driver has no such function)."""
        values = (ctypes.c_uint64 * len(Counters._fields))()
        self.library.standin_counters(values, ctypes.c_int(reset))
        return Counters(*values)
