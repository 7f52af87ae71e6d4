"""Where arrays live: the array library, local kernels and random numbers keyed by global index."""

from __future__ import annotations

from gridnn.arrays.backend import Backend
from gridnn.arrays.kernels import ReferenceKernels
from gridnn.arrays.numpy_backend import NumpyBackend

__all__ = ["Backend", "NumpyBackend", "ReferenceKernels", "get_backend"]

BACKENDS = {"numpy": NumpyBackend}


def get_backend(name: str) -> Backend:
    """A new backend by its name.

    Raises
    ------
    ValueError
        If no backend has this name; the text lists those there are.
    """
    if name not in BACKENDS:
        raise ValueError(f"backend {name!r} is unknown: choose one of {', '.join(sorted(BACKENDS))}")
    return BACKENDS[name]()
