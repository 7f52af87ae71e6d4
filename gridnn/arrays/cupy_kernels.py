"""The local kernels of the GPU: CUDA kernels of this package, and cuBLAS for the products."""

from __future__ import annotations

from typing import Any

from gridnn.arrays.cupy_draws import CupyDraws
from gridnn.arrays.cupy_linear import CupyLinear
from gridnn.arrays.cupy_rows import CupyRows
from gridnn.arrays.cupy_windows import CupyWindows
from gridnn.arrays.nvmath_linear import TYPES


class CupyKernels(CupyLinear, CupyWindows, CupyRows, CupyDraws):
    """All local kernels on arrays of CuPy."""

    name = "cupy"

    def described(self, dtype: Any) -> str:
        """One line for the header of a run: whose kernels compute with arrays of ``dtype``."""
        products = "cuBLAS (products)"
        if self.epilogues is not None and str(dtype) in TYPES:
            products += f", cuBLASLt by nvmath-python {self.epilogues.version} (linear layers with bias and ReLU)"
        return f"{products}, gridnn's CUDA kernels (the rest), by CuPy {self.xp.__version__}"
