"""Where arrays live: the array library, local kernels and random numbers keyed by global index."""

from __future__ import annotations

from gridnn.arrays.backend import Backend
from gridnn.arrays.choice import KERNELS
from gridnn.arrays.kernels import ReferenceKernels
from gridnn.arrays.numpy_backend import NumpyBackend

__all__ = ["KERNELS", "Backend", "NumpyBackend", "ReferenceKernels", "get_backend"]

BACKENDS = {"numpy": NumpyBackend}


def get_backend(name: str, kernels: str = "reference") -> Backend:
    """A new backend by its name, with ``kernels``: "reference", "numba", "onednn", or "auto" for the best there is.

    Raises
    ------
    ValueError
        If no backend or kernels have this name, or what they need is not installed; the text says what there is.
    """
    if name not in BACKENDS:
        raise ValueError(f"backend {name!r} is unknown: choose one of {', '.join(sorted(BACKENDS))}")
    return BACKENDS[name](kernels)
