"""The local kernels of the GPU: CUDA kernels of this package, and cuBLAS for the products."""

from __future__ import annotations

from typing import Any

from gridnn.kernels.cuda.cublaslt import TYPES
from gridnn.kernels.cuda.draws import CupyDraws
from gridnn.kernels.cuda.linear import CupyLinear
from gridnn.kernels.cuda.rows import CupyRows
from gridnn.kernels.cuda.windows import CupyWindows


class CupyKernels(CupyLinear, CupyWindows, CupyRows, CupyDraws):
    """All local kernels on arrays of CuPy."""

    name = "cupy"

    def described(self, dtype: Any) -> str:
        """One line for the header of a run: whose kernels compute with arrays of ``dtype``."""
        products = "cuBLAS (products)"
        if self.epilogues is not None and str(dtype) in TYPES:
            products += f", cuBLASLt by nvmath-python {self.epilogues.version} (linear layers with bias and ReLU)"
        return f"{products}, gridnn's CUDA kernels (the rest), by CuPy {self.xp.__version__}"
