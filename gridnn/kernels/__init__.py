"""Local kernels: one table operation -> implementations, and the backends whose arrays they compute on."""

from __future__ import annotations

from gridnn.errors import unknown
from gridnn.kernels.backend import Backend
from gridnn.kernels.cpu.backend import NumpyBackend
from gridnn.kernels.cpu.choice import KERNELS

__all__ = ["BACKENDS", "KERNELS", "Backend", "NumpyBackend", "get_backend"]

BACKENDS = ("numpy", "cupy")


def get_backend(
    name: str,
    kernels: str | None = None,
    *,
    dtype: str = "float32",
    local_rank: int = 0,
    tf32: bool = False,
    conv: str = "auto",
) -> Backend:
    """A new backend by its name, "numpy" or "cupy"; `UserError` if there is none, or what it needs is missing.

    Parameters
    ----------
    kernels : str, optional
        Of numpy "reference" (the default), "numba", "onednn", or "auto" for the best there is; of cupy "auto".
    dtype : str
        Of the activations: on numpy, those of 16 bits are computed in float32 (`gridnn.kernels.cpu.widened`).
    local_rank, tf32, conv
        Of cupy: see `gridnn.kernels.cuda.backend.CupyBackend`.
    """
    if name == "cupy":
        from gridnn.kernels.cuda.backend import CupyBackend

        return CupyBackend(kernels or "auto", local_rank, tf32, conv)
    if name != "numpy":
        raise unknown("backend", name, BACKENDS)
    return NumpyBackend(kernels or "reference", dtype)
