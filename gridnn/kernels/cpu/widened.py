"""16-bit arrays on a CPU, which has no fast arithmetic for them: every operation computes in float32 and rounds once.

So sums are float32 sums, as those of a GPU's kernels are, whatever implements the operation. It is a reference: the
copies make it slower than float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import wraps
from inspect import signature
from typing import Any

from gridnn.kernels.table import Implementation
from gridnn.kernels.tiles import Array

SINGLE = "float32"
# The operations that compute on activations. What they write is called `out` or `slope`, what they may use `workspace`.
ARITHMETIC = frozenset({
    *("matmul", "add_product", "linear", "linear_grad_weight", "linear_grad_input"),
    *("finish", "activation_grad"),
    *("conv", "conv_grad_weight", "conv_grad_input"),
    *("depthwise", "depthwise_grad_weight", "depthwise_grad_input"),
    *("max_pool", "max_pool_grad", "avg_pool", "avg_pool_grad", "mean_space", "mean_space_grad"),
    *("resample", "resample_grad", "repeat_grad"),
    *("relu", "relu_grad", "leaky_relu", "leaky_relu_grad", "tanh", "tanh_grad", "gelu", "bias_activation"),
    *("sum_rows", "moments", "moments_grad", "affine", "add_scaled"),
})  # fmt: skip
WRITTEN = ("out", "slope")


def widened(functions: Mapping[str, Implementation]) -> dict[str, Implementation]:
    """The same operations, those of `ARITHMETIC` on 16-bit arrays, too."""
    return {name: _widened(function) if name in ARITHMETIC else function for name, function in functions.items()}


def is_half(array: Any) -> bool:
    """Whether it is an array of 16-bit floating-point numbers; the kind of ml_dtypes' bfloat16 is V."""
    return getattr(array, "ndim", None) is not None and array.dtype.itemsize == 2 and array.dtype.kind in "fV"


def _widened(function: Implementation) -> Implementation:
    parameters = signature(function)

    @wraps(function)
    def compute(*arguments: Any, **options: Any) -> Any:
        call = parameters.bind(*arguments, **options)
        results: list[tuple[Array, Array]] = []
        for name, value in call.arguments.items():
            if not is_half(value):
                continue
            if name == "workspace":  # of the same bytes
                call.arguments[name] = value.view(SINGLE)
                continue
            call.arguments[name] = value.astype(SINGLE)
            if name in WRITTEN:
                results.append((value, call.arguments[name]))
        answer = function(*call.args, **call.kwargs)
        for array, made in results:
            array[...] = made
        return answer

    return compute
