"""Products of matrices on the GPU: cublasGemmEx in its 64-bit form, called directly.

CuPy's own wrapper neither adds to its result, nor takes parts of larger matrices, nor runs while a stream is captured.
"""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

Array = Any

WORKSPACE = 32 << 20  # bytes: what NVIDIA recommends for Hopper; given once, so that nothing is allocated in a capture
TYPES = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 14}  # cudaDataType
COMPUTE_FLOAT, COMPUTE_DOUBLE, COMPUTE_TF32 = 68, 70, 77  # cublasComputeType_t
AS_IT_IS, TRANSPOSED, DEFAULT_ALGORITHM = 0, 1, -1
FULL_SUMS = 16  # CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION: else partial sums may be rounded to 16 bits
STATUS = {
    1: "NOT_INITIALIZED", 3: "ALLOC_FAILED", 7: "INVALID_VALUE", 8: "ARCH_MISMATCH", 11: "MAPPING_ERROR",
    13: "EXECUTION_FAILED", 14: "INTERNAL_ERROR", 15: "NOT_SUPPORTED", 16: "LICENSE_ERROR",
}  # fmt: skip
POINTER, INT, LONG = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
SIGNATURES = {
    "cublasCreate_v2": [POINTER],
    "cublasDestroy_v2": [POINTER],
    "cublasSetStream_v2": [POINTER, POINTER],
    "cublasSetWorkspace_v2": [POINTER, POINTER, ctypes.c_size_t],
    "cublasSetMathMode": [POINTER, INT],
    # The sizes of cublasGemmEx are ints: ctypes would cut off those of 2^31 rows and more in silence.
    "cublasGemmEx_64": [
        POINTER, INT, INT, LONG, LONG, LONG, POINTER, POINTER, INT, LONG, POINTER, INT, LONG, POINTER, POINTER, INT,
        LONG, INT, INT,
    ],
}  # fmt: skip


class CublasError(RuntimeError):
    """A call of cuBLAS that failed; its text names the call and the status."""


def load_cublas() -> Any:
    """The cuBLAS library that CuPy uses: from the wheels of its ``ctk`` extra, or of the CUDA toolkit."""
    from cuda.pathfinder import load_nvidia_dynamic_lib

    return ctypes.CDLL(load_nvidia_dynamic_lib("cublas").abs_path)


class Factors(NamedTuple):
    """How a product is computed, and the addresses of 1 and 0 in that type."""

    compute: int
    one: int
    zero: int


class Cublas:
    """cuBLAS on one ``stream`` of CuPy's current device; `CublasError` if it refuses a call.

    With ``tf32``, products of float32 may round their factors to the 10 bits of TF32.
    """

    def __init__(self, cupy: Any, stream: int, tf32: bool = False) -> None:
        self._library = load_cublas()
        for name, arguments in SIGNATURES.items():
            getattr(self._library, name).argtypes = arguments
        self._handle = ctypes.c_void_p()
        self._call("cublasCreate_v2", ctypes.addressof(self._handle))
        self._call("cublasSetStream_v2", self._handle.value, stream)
        self._workspace = cupy.empty(WORKSPACE, "uint8")  # after the stream, which takes the workspace back
        self._call("cublasSetWorkspace_v2", self._handle.value, self._workspace.data.ptr, WORKSPACE)
        self._call("cublasSetMathMode", self._handle.value, FULL_SUMS)
        self._numbers = [kind(value) for kind in (ctypes.c_float, ctypes.c_double) for value in (1, 0)]
        one, zero, wide_one, wide_zero = map(ctypes.addressof, self._numbers)
        plain = Factors(COMPUTE_FLOAT, one, zero)
        self._factors = dict.fromkeys(("float16", "bfloat16"), plain)
        self._factors["float32"] = Factors(COMPUTE_TF32, one, zero) if tf32 else plain
        self._factors["float64"] = Factors(COMPUTE_DOUBLE, wide_one, wide_zero)

    def multiply(self, a: Array, b: Array, out: Array, accumulate: bool = False) -> None:
        """Write the product of ``a`` [m, k] and ``b`` [k, n] to ``out`` [m, n], or add it there.

        Sums are made in float32, of float64 in float64. ``out`` may be float32 where ``a`` and ``b`` have 16 bits. All
        may be parts of larger matrices, or their transposes; `ValueError` if shapes do not fit, or neither rows nor
        columns of a matrix are contiguous.
        """
        (m, k), (rows, n) = a.shape, b.shape
        if k != rows or out.shape != (m, n):
            raise ValueError(f"product of {a.shape} and {b.shape} into {out.shape}: [m, k] x [k, n] = [m, n] is needed")
        if not m or not n or not k:
            if not accumulate:
                out[...] = 0
            return
        if _rows(out) is None:
            a, b, out, m, n = b.T, a.T, out.T, n, m
        # cuBLAS counts down the columns: what lies in memory row after row is to it the transpose.
        (lead, transposed), (second, also) = _laid_out(b), _laid_out(a)
        factors, kind = self._factors[a.dtype.name], TYPES[a.dtype.name]
        self._call(
            "cublasGemmEx_64",
            self._handle.value, transposed, also, n, m, k,
            factors.one, b.data.ptr, TYPES[b.dtype.name], lead, a.data.ptr, kind, second,
            factors.one if accumulate else factors.zero, out.data.ptr, TYPES[out.dtype.name], _required(out),
            factors.compute, DEFAULT_ALGORITHM,
        )  # fmt: skip

    def free(self) -> None:
        """Give the library's handle back."""
        if self._handle.value:
            self._call("cublasDestroy_v2", self._handle.value)
            self._handle.value = None

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status:
            raise CublasError(f"{name}: status {status} ({STATUS.get(status, 'unknown')})")


def _rows(matrix: Array) -> int | None:
    """The elements from one row of ``matrix`` to the next; None if a row is not contiguous."""
    (count, width), (step, inner), size = matrix.shape, matrix.strides, matrix.itemsize
    if width > 1 and inner != size:
        return None
    if count == 1:
        return max(1, width)
    return step // size if step % size == 0 and step >= width * size else None


def _required(matrix: Array) -> int:
    lead = _rows(matrix)
    if lead is None:
        raise ValueError(
            f"matrix of shape {matrix.shape} with strides {matrix.strides}: neither rows nor columns are contiguous"
        )
    return lead


def _laid_out(matrix: Array) -> tuple[int, int]:
    """The leading dimension of ``matrix``, and whether cuBLAS must turn it."""
    lead = _rows(matrix)
    return (_required(matrix.T), TRANSPOSED) if lead is None else (lead, AS_IT_IS)
