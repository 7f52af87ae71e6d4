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
    """A new backend by its name.

    Parameters
    ----------
    name : {"numpy", "cupy"}
        The array library.
    kernels : str, optional
        Of numpy "reference" (the default), "numba", "onednn", or "auto" for the best there is; of cupy "auto".
    dtype : str
        Of the activations: on numpy, those of 16 bits are computed in float32 (`gridnn.kernels.cpu.widened`).
    local_rank : int
        This rank among those of its node: which GPU it takes.
    tf32 : bool
        Whether products of float32 on a GPU may round their factors.
    conv : {"auto", "gemm", "cudnn"}
        Whose convolutions on a GPU: products by cuBLAS, or cuDNN's; auto is cuDNN where it is installed.

    Raises
    ------
    UserError
        If no backend or kernels have this name, or what they need is missing; the text says what to do.
    """
    if name == "cupy":
        from gridnn.kernels.cuda.backend import CupyBackend

        return CupyBackend(kernels or "auto", local_rank, tf32, conv)
    if name != "numpy":
        raise unknown("backend", name, BACKENDS)
    return NumpyBackend(kernels or "reference", dtype)
