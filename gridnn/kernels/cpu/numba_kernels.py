"""Kernels that numba compiles: one pass over the arrays where NumPy makes several. Same results as the reference."""

from __future__ import annotations

from typing import Any

from gridnn.kernels.cpu.numba_rows import NumbaRows
from gridnn.kernels.cpu.numba_windows import NumbaWindows


class NumbaKernels(NumbaWindows, NumbaRows):
    """Pooling, norms, activations, depthwise convolution and updates by numba; the rest as in `ReferenceKernels`.

    What is not float32 or float64, or has channels that are not contiguous, is left to the reference. The compiled
    loops are serial: a second pool of threads would fight with that of the BLAS.

    Raises
    ------
    ImportError
        If numba is not installed.
    """

    name = "numba"

    def __init__(self, xp: Any):
        super().__init__(xp)
        import numba

        from gridnn.kernels.cpu import compiled_rows, compiled_windows

        self._version, self.row_loops, self.window_loops = numba.__version__, compiled_rows, compiled_windows

    def parts(self, dtype: Any) -> dict[str, str]:
        return {f"numba {self._version}": "pooling, norms, activations, updates"}
