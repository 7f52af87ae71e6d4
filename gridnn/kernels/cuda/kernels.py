"""The table resolved for a GPU: gridnn's CUDA kernels, cuBLAS, and cuDNN and cuBLASLt where they are installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gridnn.kernels.cuda import cublaslt, cudnn
from gridnn.kernels.cuda.module import CudaModule
from gridnn.kernels.cuda.strided import StridedViews
from gridnn.kernels.cuda.sums import RowSums
from gridnn.kernels.table import Kernels, Part, implementations, make_kernels
from gridnn.kernels.tiles import Array

MODULES = ("cuda.convolution", "cuda.windows", "cuda.copies", "cuda.rows", "cuda.stochastic")  # of the table
WEIGHT_ROWS = 512  # one large product keeps all of a GPU busy, many small ones do not


def device_address(array: Array) -> int:
    """Where the first element of an array of CuPy lies in the device's memory."""
    return array.data.ptr


class CudaContext:
    """What the CUDA implementations keep between calls; they find it as ``kernels.cuda``.

    ``gemm`` multiplies matrices, ``address`` gives that of an array's first element. ``elements``, ``random``,
    ``windows`` and ``copies`` are the kernels of the sources of these names, ``sums`` those of ``rows.cu``, ``views``
    arrays as the kernels take them.
    """

    def __init__(self, xp: Any, gemm: Any, address: Callable[[Array], int]) -> None:
        self.gemm, self.address = gemm, address
        self.elements, self.random = CudaModule(xp, "elements.cu"), CudaModule(xp, "random.cu")
        self.windows, self.copies = CudaModule(xp, "windows.cu"), CudaModule(xp, "copies.cu")
        self.sums, self.views = RowSums(xp, address), StridedViews(address)


def cuda_kernels(
    xp: Any,
    gemm: Any,
    convolutions: cudnn.Cudnn | None = None,
    epilogues: cublaslt.Epilogues | None = None,
    address: Callable[[Array], int] = device_address,
) -> Kernels:
    """The kernels on arrays of CuPy (``xp``), whose first elements lie at an ``address``; ``gemm`` multiplies matrices.

    ``convolutions`` is cuDNN, for those that it has a plan for; ``epilogues`` cuBLASLt, for linear layers with bias and
    ReLU.
    """
    modules = MODULES
    parts = [Part("cuBLAS", "products")]
    attributes: dict[str, Any] = {"cuda": CudaContext(xp, gemm, address)}
    if convolutions is not None:
        from gridnn.kernels.cuda.cudnn_kernels import CudnnContext

        modules, attributes["cudnn"] = (*modules, "cuda.cudnn_kernels"), CudnnContext(convolutions)
        version = f"cuDNN {convolutions.version}"
        parts.insert(0, Part(version, "convolutions that it has a plan for", tuple(cudnn.TYPES)))
    if epilogues is not None:
        modules, attributes["cublaslt"] = (*modules, "cuda.cublaslt"), epilogues
        version = f"cuBLASLt by nvmath-python {epilogues.version}"
        parts.append(Part(version, "linear layers with bias and ReLU", cublaslt.TYPES))
    parts += [Part("gridnn's CUDA kernels", "the rest"), Part(f"by CuPy {xp.__version__}", "")]
    constants = {"fuses": True, "weight_rows": WEIGHT_ROWS, "adds_directly": True}
    return make_kernels("cupy", xp, implementations(modules), tuple(parts), **constants, **attributes)
