"""16-bit arrays on a CPU, which has no fast arithmetic for them: every kernel computes in float32 and rounds once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from gridnn.kernels.tiles import Array

SINGLE = "float32"
# The kernels that compute on activations. What they write is called `out` or `slope`, what they may use `workspace`.
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


class WidenedKernels:
    """Kernels whose 16-bit arrays are converted to float32 before a call, and what it wrote is rounded after it.

    So sums are float32 sums, as those of a GPU's kernels are, and any kernels of the CPU do. It is a reference: the
    copies make it slower than float32.

    Parameters
    ----------
    kernels : ReferenceKernels
        What computes.
    """

    def __init__(self, kernels: Any) -> None:
        self._kernels = kernels

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._kernels, name)
        return partial(_widened, found) if name in ARITHMETIC else found

    def described(self, dtype: Any) -> str:
        """One line for the header of a run."""
        return f"{self._kernels.described(SINGLE)}, in float32 and rounded to {dtype}"


def is_half(array: Any) -> bool:
    """Whether it is an array of 16-bit floating-point numbers; the kind of ml_dtypes' bfloat16 is V."""
    return getattr(array, "ndim", None) is not None and array.dtype.itemsize == 2 and array.dtype.kind in "fV"


def _widened(kernel: Callable[..., None], *args: Any, **options: Any) -> None:
    """Call ``kernel`` with float32 in place of 16-bit arrays."""
    call = inspect.signature(kernel).bind(*args, **options)
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
    kernel(*call.args, **call.kwargs)
    for array, made in results:
        array[...] = made
