"""A stand-in for nvmath-python 1.0's ``linalg.advanced.Matmul`` on the stand-in for CuPy.

It has the signatures of the real one, refuses what that or cuBLASLt refuses, and also what the real one does not check
and must not meet: operands that differ from the planned ones in shape, strides, type or alignment.
"""

from __future__ import annotations

import sys
from enum import IntEnum
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

WORKSPACE = 1 << 20  # what every algorithm asks for here
NAMES = ("nvmath", "nvmath.linalg", "nvmath.linalg.advanced", "nvmath.bindings", "nvmath.bindings.cublasLt")


class MatmulEpilog(IntEnum):
    """The real values (cublasLtEpilogue_t)."""

    RELU = 2
    BIAS = 4
    RELU_BIAS = 6
    RELU_AUX = 130
    RELU_AUX_BIAS = 134
    DRELU = 136
    BGRADA = 256


class cuBLASLtError(Exception):
    def __init__(self, status):
        self.status = status
        super().__init__(f"status {status}")


MatmulReductionScheme = IntEnum("MatmulReductionScheme", {"NONE": 0, "INPLACE": 1, "COMPUTE_TYPE": 2, "OUTPUT_TYPE": 4})
MatmulComputeType = SimpleNamespace(COMPUTE_32F=68, COMPUTE_32F_FAST_TF32=77)


def install(monkeypatch, refuse=()) -> list[str]:
    """Let ``import nvmath`` find this module; the list that is returned names what runs, one entry a product.

    cuBLASLt has no algorithms for the epilogues in ``refuse``.
    """
    log: list[str] = []
    modules = {name: ModuleType(name) for name in NAMES}
    for name, module in modules.items():
        module.__spec__ = ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module)
    modules["nvmath"].__version__ = "1.0.0"
    advanced = modules["nvmath.linalg.advanced"]
    advanced.MatmulEpilog, advanced.MatmulComputeType = MatmulEpilog, MatmulComputeType
    advanced.MatmulReductionScheme = MatmulReductionScheme
    advanced.Matmul = type("Matmul", (Matmul,), {"log": log, "refuse": refuse})
    modules["nvmath.bindings.cublasLt"].cuBLASLtError = cuBLASLtError
    return log


class Matmul:
    """D = epilogue(A B), in place of C."""

    log, refuse = [], ()

    def __init__(
        self, a, b, /, c=None, *, alpha=None, beta=None, qualifiers=None, quantization_scales=None, options=None,
        stream=None,
    ):  # fmt: skip
        self.options = options or {}
        if c is None and self.options.get("inplace"):
            raise ValueError("The operation cannot be inplace if operand C is not provided.")
        if c is not None and beta is None:
            raise ValueError("A value for beta must be provided if operand C is provided.")
        assert self.options["inplace"] and beta == 0 and alpha is None, "the only way that gridnn uses"
        assert {a.dtype.name, b.dtype.name} <= {"float32", "float16", "bfloat16"} and a.dtype == b.dtype
        assert min(*a.shape, *b.shape, *c.shape) > 0
        if a.shape[1] != b.shape[0] or c.shape != (a.shape[0], b.shape[1]):
            raise ValueError("The 'K' extent must match for the operands")
        if self.options["compute_type"] == MatmulComputeType.COMPUTE_32F_FAST_TF32:
            assert a.dtype.name == "float32"
        self.orders = [order(matrix) for matrix in (a, b, c)]
        self.described = {name: described(matrix) for name, matrix in (("a", a), ("b", b), ("c", c))}
        self.operands, self.inputs = {"a": a, "b": b, "c": c}, {}
        self.planned, self.room = None, None
        self.check_stream(stream)

    def plan(self, *, preferences=None, algorithms=None, epilog=None, epilog_inputs=None, stream=None):
        self.check_stream(stream)
        assert not current().is_capturing(), "planning synchronises"
        assert preferences == {"reduction_scheme_mask": 2}, "sums of 16-bit products in float32"
        epilog_inputs = epilog_inputs or {}
        required = {n for n, word in (("bias", "BIAS"), ("relu_aux", "DRELU")) if word in epilog.name}
        if set(epilog_inputs) != required:
            raise ValueError(f"The epilog {epilog.name} requires the following input tensors: {required}")
        rows, columns = self.operands["c"].shape
        if "bias" in required:
            bias = epilog_inputs["bias"]
            assert bias.shape == (rows,) and bias.strides == (bias.itemsize,)
            if bias.dtype != self.operands["c"].dtype:
                raise cuBLASLtError(15)
        if "relu_aux" in required:
            mask = epilog_inputs["relu_aux"]
            if self.operands["a"].shape[1] == 1:
                raise ValueError("K=1 is not supported for DRELU epilogs")
            assert mask.dtype == "uint8" and mask.shape == mask_shape(rows, columns) and mask.strides[0] == 1
        if self.orders[2] != "COL" and epilog is not MatmulEpilog.RELU:
            raise ValueError(f"The epilog {epilog.name} requires a result in column-major order")
        if self.operands["c"].data.ptr % 256:
            raise AssertionError("the result is planned for 256 bytes")
        if epilog.name in self.refuse:
            raise cuBLASLtError(15)
        self.planned = epilog
        self.described.update({name: described(array) for name, array in epilog_inputs.items()})
        self.inputs = dict(epilog_inputs)
        return ()

    def reset_operands_unchecked(
        self, *, a=None, b=None, c=None, alpha=None, beta=None, quantization_scales=None, epilog_inputs=None,
        stream=None,
    ):  # fmt: skip
        for name, array in {"a": a, "b": b, "c": c, **(epilog_inputs or {})}.items():
            assert described(array) == self.described[name], f"{name} is not as it was planned"
        self.operands, self.inputs = {"a": a, "b": b, "c": c}, dict(epilog_inputs or {})

    def execute(self, *, algorithm=None, release_workspace=False, stream=None):
        if self.planned is None:
            raise RuntimeError("Execution cannot be performed before plan() has been called.")
        if not self.operands:
            raise RuntimeError("Execution cannot be performed after the operands have been released.")
        self.check_stream(stream)
        if self.room is None:
            assert not current().is_capturing()
            self.room = self.options["allocator"].memalloc(WORKSPACE + 16).ptr
        self.log.append(self.planned.name)
        a, b = (self.operands[name].astype("float32") for name in "ab")
        import cupy

        # not cupy.matmul, which refuses while a stream is captured
        result, words = (a[:, :, None] * b[None]).sum(axis=1), self.planned.name.split("_")
        aux = {}
        if "BIAS" in words:
            result = result + self.inputs["bias"].astype("float32")[:, None]
        if "AUX" in words:
            aux["relu_aux"] = packed(cupy, (result > 0).astype("uint8"))
        if "RELU" in words:
            result = cupy.maximum(result, 0)
        if "DRELU" in words:
            for bit in range(8):
                part = result[bit::8]
                part *= self.inputs["relu_aux"][: len(part)] // 2**bit % 2
        if "BGRADA" in words:
            aux["bgrada"] = a.sum(axis=1).astype(self.operands["c"].dtype)
        self.operands["c"][...] = result.astype(self.operands["c"].dtype)
        return (self.operands["c"], aux) if aux else self.operands["c"]

    def release_operands(self):
        self.operands, self.inputs = {}, {}

    def free(self):
        self.planned = None

    def check_stream(self, stream):
        assert stream == current().ptr, "the memory that nvmath takes belongs to this stream"


def current():
    import cupy

    return cupy.cuda.get_current_stream()


def described(array):
    alignment = min(256, array.data.ptr & -array.data.ptr)
    return array.shape, array.strides, array.dtype, alignment if array.ndim == 2 and array.dtype != "uint8" else 16


def order(matrix):
    """As `get_matrix_layout_traits`."""
    down, along = (step // matrix.itemsize for step in matrix.strides)
    if down == 1:
        return "COL"
    if along == 1:
        return "ROW"
    raise ValueError("Unsupported layout.")


def mask_shape(rows, columns):
    """As `relu_aux_mm_shape`: bits in bytes, padded to 16 of these."""
    octets = -(-rows // 8)
    return -(-octets // 16) * 16, columns


def packed(cupy, positive):
    rows, columns = mask_shape(*positive.shape)
    mask = cupy.zeros((columns, rows), "uint8").T
    for bit in range(8):
        part = positive[bit::8]
        mask[: len(part)] += part * 2**bit
    return mask
