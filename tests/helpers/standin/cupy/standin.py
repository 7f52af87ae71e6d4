"""What the stand-in offers beyond CuPy: a record of what was asked of which stream, and cuBLAS.

Importing it lets ``gridnn.kernels.cuda.cublas`` load that library instead of NVIDIA's.
"""

from __future__ import annotations

from cupy._cublas import CublasLibrary
from cupy._record import Entry, record
from gridnn.kernels.cuda import cublas as gridnn_cublas

__all__ = ["Entry", "cublas", "record"]

LIBRARY = CublasLibrary()


def cublas() -> CublasLibrary:
    """The library."""
    return LIBRARY


gridnn_cublas.load_cublas = cublas
