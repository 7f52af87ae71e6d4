"""The backend of the CPU: device arrays are NumPy arrays, and nothing is ever copied between host and device."""

from __future__ import annotations

import numpy as np

from gridnn.arrays.backend import Backend, require_contiguous, require_shape
from gridnn.arrays.choice import make_kernels
from gridnn.arrays.widened import WidenedKernels


class NumpyBackend(Backend):
    """Arrays of NumPy in host memory.

    Parameters
    ----------
    kernels : str
        "reference", "numba", "onednn", or "auto" for the last of these that is installed.
    dtype : str
        Of the activations; those of 16 bits are computed in float32.

    Raises
    ------
    UserError
        If the kernels that were asked for are not installed.
    """

    name = "numpy"

    def __init__(self, kernels: str = "reference", dtype: str = "float32"):
        super().__init__()
        self.xp = np
        self.kernels = make_kernels(kernels, np)
        if self.dtype(dtype).itemsize == 2:
            self.kernels = WidenedKernels(self.kernels)

    def address(self, array: np.ndarray) -> int:
        return array.__array_interface__["data"][0]

    def asarray(self, host) -> np.ndarray:
        return np.asarray(host)

    def to_host(self, array: np.ndarray) -> np.ndarray:
        return array

    def host_room(self, array: np.ndarray) -> np.ndarray:
        return array

    def from_host(self, host: np.ndarray, out: np.ndarray) -> None:
        require_shape(host, out)
        out[...] = host

    def host_view(self, array: np.ndarray) -> np.ndarray:
        require_contiguous(array)
        return array

    def synchronize(self) -> None:
        pass
