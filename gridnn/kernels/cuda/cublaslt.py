"""cuBLASLt's epilogues, through nvmath-python: bias, ReLU and their gradients in the kernel of a product.

cuBLASLt wants results with a bias column by column, so every product is computed as its transpose: of y = x W + b the
matrix y^T = W^T x^T + b, which lies in memory as y does. All results are written in place (operand C with beta = 0), so
that nothing of the size of an activation is allocated; bit masks of ReLUs and gradients of biases are, by nvmath, from
CuPy's pool.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from gridnn.errors import UserError, cause_of
from gridnn.kernels.table import may_decline
from gridnn.kernels.tiles import Array

WORKSPACE = 32 << 20  # bytes: what NVIDIA recommends for Hopper
SPARE = 256  # bytes beyond it, of which nvmath adds some to what an algorithm asks for
TYPES = ("float32", "float16", "bfloat16")
RESULT_ALIGNMENT = 256  # bytes: nvmath plans for results that lie so
BIAS_ALIGNMENT = 16  # bytes: what vector loads need
NOT_SUPPORTED = 15  # cublasStatus_t
Convert = Callable[[Array, Array], None]


def make_epilogues(cupy: Any, stream: int, tf32: bool) -> Epilogues | None:
    """cuBLASLt on one stream; None where nvmath-python is not installed, `UserError` if its import fails."""
    if find_spec("nvmath") is None:
        return None
    try:
        nvmath = import_module("nvmath")
        advanced, bindings = import_module("nvmath.linalg.advanced"), import_module("nvmath.bindings.cublasLt")
    except (ImportError, OSError, RuntimeError) as error:
        extra = f"cublaslt{cupy.cuda.runtime.runtimeGetVersion() // 1000}"
        raise UserError(
            f"--backend cupy: nvmath-python is installed but cannot be imported ({cause_of(error)}): pip install "
            f"'gridnn[{extra}]', or do without it: pip uninstall nvmath-python"
        ) from error
    return Epilogues(cupy, advanced, bindings.cuBLASLtError, stream, tf32, nvmath.__version__)


# -- the operations, by the epilogues of ``kernels.cublaslt`` ---------------------------------------------------


@may_decline
def linear(kernels, x, w, bias, activation, out, masked=False):
    done, mask = kernels.cublaslt.linear(x, w, bias, activation, out, masked, kernels.convert)
    return mask if done else NotImplemented


@may_decline
def linear_grad_weight(kernels, x, dy, out, db):
    if db is None or not kernels.cublaslt.grad_weight(x, dy, out, db):
        return NotImplemented


@may_decline
def linear_grad_input(kernels, dy, w, activation, y, mask, out):
    if mask is None or not kernels.cublaslt.grad_input(dy, w, mask, out):
        return NotImplemented


# -- cuBLASLt --------------------------------------------------------------------------------------------------


class Workspace:
    """One workspace for all products, which run one after the other on one stream (nvmath's BaseCUDAMemoryManager)."""

    def __init__(self, memory: Array) -> None:
        self._memory = memory

    def memalloc(self, size: int) -> Any:
        """The workspace."""
        if size > self._memory.nbytes:
            raise MemoryError(f"cuBLASLt asks for {size} bytes of the workspace of {self._memory.nbytes}")
        return self._memory.data


class Epilogues:
    """Products with epilogues on the GPU, by ``nvmath.linalg.advanced`` of this ``version``, on one ``stream``.

    A product is planned when its shapes are first met, outside of any capture of the stream, and run by that plan then.
    Not for cuBLASLt, and left to cuBLAS and a pass over its result: float64; matrices with an extent of 1; results that
    begin at no multiple of 256 bytes, as gradients of weights may in the flat array of all of them; activations other
    than ReLU. What cuBLASLt itself refuses (by ``error``) is said in a warning.

    A bias of another type than the result's (float32 where activations have 16 bits) is rounded to it. With ``tf32``,
    products of float32 may round their factors to TF32.
    """

    def __init__(self, cupy: Any, advanced: Any, error: type, stream: int, tf32: bool, version: str) -> None:
        self._cupy, self._advanced, self._error, self._stream = cupy, advanced, error, stream
        self.version = version
        self._workspace = Workspace(cupy.empty(WORKSPACE + SPARE, "uint8"))
        compute = advanced.MatmulComputeType
        self._computes = dict.fromkeys(TYPES, compute.COMPUTE_32F)
        if tf32:
            self._computes["float32"] = compute.COMPUTE_32F_FAST_TF32
        # A sum that is divided is added up in float32: the other schemes round its parts to the type of the result.
        self._preferences = {"reduction_scheme_mask": advanced.MatmulReductionScheme.COMPUTE_TYPE}
        self._plans: dict[tuple, Any] = {}
        self._biases: dict[tuple, Array] = {}

    def linear(
        self, x: Array, w: Array, bias: Array | None, activation: str, out: Array, masked: bool, convert: Convert
    ) -> tuple[bool, Array | None]:
        """Write activation(x w + bias) to ``out``: whether it could, and the mask of the ReLU.

        ``convert`` writes an array to another one in its type.
        """
        if activation not in ("none", "relu") or (bias is None and activation == "none"):
            return False, None
        masked = masked and activation == "relu"
        words = (activation == "relu" and "RELU", masked and "AUX", bias is not None and "BIAS")
        inputs = {} if bias is None else {"bias": self._aligned(bias, out.dtype, convert)}
        made = self._multiply("_".join(filter(None, words)), w.T, x.T, out.T, inputs)
        return made is not None, (made or {}).get("relu_aux")

    def grad_weight(self, x: Array, dy: Array, out: Array, db: Array) -> bool:
        """Write x^T dy to ``out`` and the sums of the rows of ``dy`` to ``db``: whether it could."""
        made = self._multiply("BGRADA", dy.T, x, out.T, {})
        if made is not None:
            db[...] = made["bgrada"]
        return made is not None

    def grad_input(self, dy: Array, w: Array, mask: Array, out: Array) -> bool:
        """Write dy w^T to ``out``, 0 where the ``mask`` of `linear` says so: whether it could."""
        return self._multiply("DRELU", w, dy.T, out.T, {"relu_aux": mask}) is not None

    def _multiply(
        self, epilogue: str, a: Array, b: Array, out: Array, inputs: Mapping[str, Array]
    ) -> dict[str, Array] | None:
        """``out = epilogue(a b)``: what the epilogue gives beside it; None if there is no plan for such matrices."""
        key = (epilogue, *(_described(matrix) for matrix in (a, b, out)))
        if key not in self._plans:
            self._plans[key] = self._planned(epilogue, a, b, out, inputs) if _usable(a, b, out) else None
        plan = self._plans[key]
        if plan is None:
            return None
        plan.reset_operands_unchecked(a=a, b=b, c=out, epilog_inputs=dict(inputs), stream=self._stream)
        result = plan.execute(stream=self._stream)
        plan.release_operands()  # so that their memory comes back
        return result[1] if isinstance(result, tuple) else {}

    def _planned(self, epilogue: str, a: Array, b: Array, out: Array, inputs: Mapping[str, Array]) -> Any:
        """A plan; None if cuBLASLt has no algorithm."""
        kind = a.dtype.name
        options = {
            "inplace": True,
            "compute_type": self._computes[kind],
            "allocator": self._workspace,
            "memory_limit": WORKSPACE,
        }
        plan = self._advanced.Matmul(a, b, out, beta=0.0, options=options, stream=self._stream)
        asked = self._advanced.MatmulEpilog[epilogue]
        try:
            plan.plan(preferences=self._preferences, epilog=asked, epilog_inputs=dict(inputs), stream=self._stream)
        except (self._error, RuntimeError) as error:
            if getattr(error, "status", None) != NOT_SUPPORTED and "any suitable algorithm" not in str(error):
                raise
            plan.free()
            warnings.warn(
                f"cuBLASLt has no {epilogue} for {kind} {a.shape} x {b.shape}: cuBLAS and one more pass do it",
                RuntimeWarning,
                stacklevel=2,
            )
            return None
        return plan

    def _aligned(self, bias: Array, dtype: Any, convert: Convert) -> Array:
        """``bias`` in this type and at an address for vector loads: itself, or a copy that the next call overwrites."""
        if bias.dtype == dtype and bias.data.ptr % BIAS_ALIGNMENT == 0:
            return bias
        key = (bias.shape, dtype.name)
        if key not in self._biases:
            self._biases[key] = self._cupy.empty(bias.shape, dtype)
        convert(bias, self._biases[key])
        return self._biases[key]


def _described(matrix: Array) -> tuple:
    """What a plan depends on."""
    address = matrix.data.ptr
    return matrix.shape, matrix.strides, matrix.dtype.name, min(RESULT_ALIGNMENT, address & -address)


def _usable(a: Array, b: Array, out: Array) -> bool:
    """Whether the matrices are of a kind that `Epilogues` plans."""
    same = a.dtype == b.dtype and a.dtype.name in TYPES and out.dtype.name in (a.dtype.name, "float32")
    large = min(*a.shape, *b.shape) > 1
    described = all(_by_columns(m) or _by_columns(m.T) for m in (a, b)) and _by_columns(out)
    return same and large and described and out.data.ptr % RESULT_ALIGNMENT == 0


def _by_columns(matrix: Array) -> bool:
    """Whether the elements of a column are neighbours, and columns do not overlap."""
    (down, along), size = matrix.strides, matrix.itemsize
    return down == size and along % size == 0 and along >= matrix.shape[0] * size
