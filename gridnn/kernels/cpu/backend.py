"""The backend of the CPU: device arrays are NumPy arrays, and nothing is ever copied between host and device."""

from __future__ import annotations

import numpy as np

from gridnn.kernels.backend import Backend, require_contiguous, require_shape
from gridnn.kernels.cpu.choice import choose_kernels


class NumpyBackend(Backend):
    """Arrays of NumPy in host memory.

    The ``kernels`` are "reference", "numba", "onednn", or "auto" for the last of these that is installed; `UserError`
    if they are not. Activations whose ``dtype`` has 16 bits are computed in float32.
    """

    name = "numpy"

    def __init__(self, kernels: str = "reference", dtype: str = "float32"):
        super().__init__()
        self.xp = np
        self.kernels = choose_kernels(kernels, np, half=self.dtype(dtype).itemsize == 2)

    def address(self, array: np.ndarray) -> int:
        return array.__array_interface__["data"][0]

    def asarray(self, host) -> np.ndarray:
        return np.asarray(host)

    def to_host(self, array: np.ndarray) -> np.ndarray:
        return array

    def host_buffer(self, array: np.ndarray) -> np.ndarray:
        return array

    def from_host(self, host: np.ndarray, out: np.ndarray) -> None:
        require_shape(host, out)
        out[...] = host

    def host_view(self, array: np.ndarray) -> np.ndarray:
        require_contiguous(array)
        return array

    def synchronize(self) -> None:
        pass
