"""The backend: the one object through which everything above makes, fills, reads and computes with arrays."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from gridnn.errors import UserError
from gridnn.kernels import random

Array = Any
WORKSPACE_BYTES = 4 << 20  # a tile of the convolutions: large enough for the GEMM, small enough for the cache


class Backend:
    """An array library on one device (abstract).

    Attributes
    ----------
    name : str
        What the user calls it.
    xp : namespace
        The array library: NumPy, or one with its interface.
    kernels : Kernels
        The local mathematics on arrays of this library.
    device : Device or None
        The accelerator whose memory the arrays lie in; None: they lie in host memory.
    workspace_bytes : int
        The size of `workspace`.
    """

    name: str
    xp: Any
    kernels: Any
    device: Any = None
    workspace_bytes = WORKSPACE_BYTES

    def __init__(self):
        self._workspaces: dict[str, Array] = {}

    def dtype(self, name: Any) -> np.dtype:
        """The type of this ``name``; bfloat16 comes from ml_dtypes, a `UserError` if that is not installed."""
        return np.dtype(_bfloat16() if str(name) == "bfloat16" else name)

    def wide(self, dtype: Any) -> np.dtype:
        """The type in which numbers of ``dtype`` are summed, scaled and kept: float32 for those of 16 bits."""
        dtype = self.dtype(dtype)
        return np.dtype(np.float32) if dtype.itemsize == 2 else dtype

    def facts(self) -> dict[str, str]:
        """What the header of a run says of the device, by name."""
        return {}

    def mistakes(self) -> AbstractContextManager:
        """Inside, errors of the device that the user can mend become a `UserError`."""
        return nullcontext()

    def empty(self, shape: tuple[int, ...], dtype) -> Array:
        """A device array whose contents are arbitrary."""
        return self.xp.empty(shape, dtype=dtype)

    def address(self, array: Array) -> int:
        """The address of the first element of ``array``."""
        raise NotImplementedError

    def zeros(self, shape: tuple[int, ...], dtype) -> Array:
        """A device array of zeros."""
        return self.xp.zeros(shape, dtype=dtype)

    def full(self, shape: tuple[int, ...], value: float, dtype) -> Array:
        """A device array that holds ``value`` everywhere."""
        return self.xp.full(shape, value, dtype=dtype)

    def uniform(self, key: tuple[int, ...], box, shape: tuple[int, ...], dtype, out: Array | None = None) -> Array:
        """The part ``box`` of the tensor of random numbers in [0, 1) that ``key`` names: see ``random.uniform``."""
        out = self.empty(random.extents(box), dtype) if out is None else out
        self.kernels.uniform(key, box, shape, out)
        return out

    def workspace(self, dtype) -> Array:
        """A flat array of `workspace_bytes` for the temporaries of one kernel call; the next call overwrites it.

        It belongs to the backend, so that all layers and the update share one that stays in the cache.
        """
        name = str(dtype)
        if name not in self._workspaces:
            array = self.xp.empty(self.workspace_bytes // 8, dtype=self.xp.float64)
            self._workspaces[name] = array.view(self.dtype(dtype))
        return self._workspaces[name]

    def asarray(self, host) -> Array:
        """A device array with the contents of the host array ``host``; copied only where it must be."""
        raise NotImplementedError

    def to_host(self, array: Array):
        """``array`` as a host array of NumPy; the only way from the device to the host."""
        raise NotImplementedError

    def host_empty(self, shape: tuple[int, ...], dtype) -> np.ndarray:
        """A host array whose contents are arbitrary."""
        return np.empty(shape, dtype)

    def host_buffer(self, array: Array) -> np.ndarray:
        """A host array like ``array``, to be written and brought back by `from_host`; ``array`` itself if it is one."""
        return self.host_empty(array.shape, array.dtype)

    def from_host(self, host, out: Array) -> None:
        """Copy the host array ``host`` into the device array ``out``; `ValueError` if their shapes differ."""
        raise NotImplementedError

    def host_view(self, array: Array):
        """What MPI may read and write for ``array``; `ValueError` if that is not contiguous."""
        raise NotImplementedError

    def synchronize(self) -> None:
        """Wait until the device has done everything that was asked of it."""
        raise NotImplementedError


def _bfloat16() -> Any:
    try:
        from ml_dtypes import bfloat16
    except ImportError:
        raise UserError("bfloat16 needs the package ml_dtypes: pip install ml_dtypes, or use float32") from None
    return bfloat16


def require_contiguous(array) -> None:
    """Refuse an array that MPI cannot take as one run of memory: a `ValueError` with its shape and strides."""
    if not array.flags.c_contiguous:
        raise ValueError(
            f"array of shape {array.shape} with strides {array.strides} is not contiguous: pack it into a buffer first"
        )


def require_shape(host, out) -> None:
    """Refuse, by a `ValueError`, a copy between host and device arrays of different shapes (no broadcasting)."""
    if tuple(host.shape) != tuple(out.shape):
        raise ValueError(f"from_host: host shape {tuple(host.shape)} != device shape {tuple(out.shape)}")
