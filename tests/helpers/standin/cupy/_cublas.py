"""The C functions of cuBLAS that gridnn calls, on the stand-in's streams; addresses are ints, as for ctypes."""

from __future__ import annotations

import ctypes
import itertools
from typing import Any

import numpy as np

from cupy.cuda import runtime

OK, NOT_INITIALIZED, INVALID_VALUE, NOT_SUPPORTED = 0, 1, 7, 15
COMPUTE = {68: np.float32, 70: np.float64, 77: np.float32}  # float, double, TF32
SUPPORTED = {  # compute type: (cudaDataType of the factors, of the product)
    68: {(0, 0), (2, 2), (2, 0), (14, 14), (14, 0)},
    70: {(1, 1)},
    77: {(0, 0)},
}
FULL_SUMS = 16  # CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION
TF32_BITS = 13  # of float32's 23 that TF32 has not


class Handle:
    """What a ``cublasHandle_t`` stands for."""

    def __init__(self) -> None:
        self.queue, self.workspace, self.mode = runtime.queue_of(0), 0, 0


class CublasLibrary:
    """Stands for ``ctypes.CDLL("libcublas.so")``."""

    def __init__(self) -> None:
        self._handles: dict[int, Handle] = {}
        self._numbers = itertools.count(1)
        # Bound here, so that the attribute argtypes of each can be set, as of ctypes' functions.
        for name in ("Create_v2", "Destroy_v2", "SetStream_v2", "SetWorkspace_v2", "SetMathMode", "GemmEx_64"):
            setattr(self, f"cublas{name}", _function(getattr(self, f"_{name}"), self._handles))

    def _Create_v2(self, address: Any) -> int:
        number = next(self._numbers)
        self._handles[number] = Handle()
        ctypes.c_void_p.from_address(_int(address)).value = number
        return OK

    def _Destroy_v2(self, handle: int) -> int:
        del self._handles[handle]
        return OK

    def _SetStream_v2(self, handle: int, stream: Any) -> int:
        self._handles[handle].queue, self._handles[handle].workspace = runtime.queue_of(_int(stream)), 0
        return OK

    def _SetWorkspace_v2(self, handle: int, pointer: Any, size: int) -> int:
        if _int(pointer) % 256:
            return INVALID_VALUE
        self._handles[handle].workspace = size
        return OK

    def _SetMathMode(self, handle: int, mode: int) -> int:
        self._handles[handle].mode = mode
        return OK

    def _GemmEx_64(
        self, handle: int, turn_a: int, turn_b: int, m: int, n: int, k: int, alpha: Any, a: Any, a_type: int, lda: int,
        b: Any, b_type: int, ldb: int, beta: Any, c: Any, c_type: int, ldc: int, compute: int, algorithm: int,
    ) -> int:  # fmt: skip
        """C = alpha op(A) op(B) + beta C, all by columns."""
        if compute not in COMPUTE or a_type != b_type or (a_type, c_type) not in SUPPORTED[compute]:
            return NOT_SUPPORTED
        shapes = ((k, m) if turn_a else (m, k)), ((n, k) if turn_b else (k, n))
        if min(m, n, k) < 0 or lda < max(1, shapes[0][0]) or ldb < max(1, shapes[1][0]) or ldc < max(1, m):
            return INVALID_VALUE
        queue, wide = self._handles[handle].queue, COMPUTE[compute]
        if queue.capture is not None and not self._handles[handle].workspace:
            return NOT_SUPPORTED  # cuBLAS would allocate, and the graph would keep what it frees: gridnn gives it one
        scale, keep = (
            np.frombuffer(ctypes.string_at(_int(p), np.dtype(wide).itemsize), wide)[0] for p in (alpha, beta)
        )
        left, right = (_matrix(_int(p), kind, shape, lead) for p, kind, shape, lead in
                       ((a, a_type, shapes[0], lda), (b, b_type, shapes[1], ldb)))  # fmt: skip
        left, right = left.T if turn_a else left, right.T if turn_b else right
        product = _matrix(_int(c), c_type, (m, n), ldc)
        rounds = product.dtype.itemsize == 2 and not self._handles[handle].mode & FULL_SUMS

        def run() -> None:
            x, y = (_rounded(x.astype(wide), compute) for x in (left, right))
            total = np.matmul(x, y)
            if rounds:  # as if the sum were divided in two
                halves = (np.matmul(x[:, part], y[part]) for part in (slice(0, k // 2), slice(k // 2, None)))
                total = sum(half.astype(product.dtype).astype(wide) for half in halves)
            total = scale * total
            product[...] = total + keep * product.astype(wide) if keep else total  # beta 0: C is not read

        queue.push("gemm", run)
        return OK


def _function(method: Any, handles: dict[int, Handle]) -> Any:
    creates = method.__name__ == "_Create_v2"

    def call(first: Any, *arguments: Any) -> int:
        if not creates and _int(first) not in handles:
            return NOT_INITIALIZED
        return method(first if creates else _int(first), *arguments)

    return call


def _int(value: Any) -> int:
    """An address given as an int or a ctypes pointer."""
    return int(getattr(value, "value", value) or 0)


def _matrix(pointer: int, kind: int, shape: tuple[int, int], lead: int) -> np.ndarray:
    """A matrix in memory by columns."""
    dtype = _dtype(kind)
    rows, columns = shape
    size = (lead * (columns - 1) + rows) * dtype.itemsize if columns and rows else 0
    memory = runtime.raw(pointer, size) if size else np.empty(0, np.uint8)
    return np.ndarray(shape, dtype, memory, 0, (dtype.itemsize, lead * dtype.itemsize))


def _dtype(kind: int) -> np.dtype:
    if kind == 14:
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype({0: np.float32, 1: np.float64, 2: np.float16}[kind])


def _rounded(x: np.ndarray, compute: int) -> np.ndarray:
    """The factors as tensor cores see them: TF32 has 10 bits after the point."""
    if compute != 77:
        return x
    bits = np.ascontiguousarray(x).view(np.uint32)
    return ((bits + np.uint32(1 << TF32_BITS - 1)) & np.uint32(~((1 << TF32_BITS) - 1) & 0xFFFFFFFF)).view(np.float32)
