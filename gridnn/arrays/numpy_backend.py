"""The backend of the CPU: device arrays are NumPy arrays, and nothing is ever copied between host and device."""

from __future__ import annotations

import numpy as np

from gridnn.arrays.backend import Backend, require_contiguous, require_shape
from gridnn.arrays.kernels import ReferenceKernels


class NumpyBackend(Backend):
    """Arrays of NumPy in host memory."""

    name = "numpy"

    def __init__(self):
        super().__init__()
        self.xp = np
        self.kernels = ReferenceKernels(np)

    def asarray(self, host) -> np.ndarray:
        return np.asarray(host)

    def to_host(self, array: np.ndarray) -> np.ndarray:
        return array

    def from_host(self, host: np.ndarray, out: np.ndarray) -> None:
        require_shape(host, out)
        out[...] = host

    def host_view(self, array: np.ndarray) -> np.ndarray:
        require_contiguous(array)
        return array

    def synchronize(self) -> None:
        pass
