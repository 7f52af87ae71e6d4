"""Universal functions: shapes and types are found at once from dummies, the numbers are computed later."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

UFUNCS = (
    "absolute", "add", "arctan", "bitwise_and", "bitwise_or", "bitwise_xor", "ceil", "copysign", "cos", "divide",
    "equal", "exp", "exp2", "expm1", "floor", "floor_divide", "fmax", "fmin", "greater", "greater_equal", "invert",
    "isfinite", "isinf", "isnan", "left_shift", "less", "less_equal", "log", "log1p", "log2", "logical_and",
    "logical_not", "logical_or", "maximum", "minimum", "multiply", "negative", "not_equal", "power", "reciprocal",
    "remainder", "right_shift", "rint", "sign", "signbit", "sin", "sqrt", "square", "subtract", "tanh",
)  # fmt: skip


def check_operand(value: Any) -> None:
    """Refuse what CuPy's kernels refuse: above all arrays of NumPy, those without dimensions too."""
    from cupy import ndarray

    if isinstance(value, ndarray) or value is None:
        return
    if isinstance(value, np.ndarray) or not isinstance(value, (bool, int, float, complex, np.generic)):
        raise TypeError(f"Unsupported type {type(value)}")


@functools.lru_cache(maxsize=4096)
def result_type(name: str, kinds: tuple, out: Any, dtype: Any, casting: str) -> np.dtype:
    """The type that NumPy gives for operands of these types.

    Raises
    ------
    TypeError
        If it has no such function, or may not cast to ``out`` so.
    """
    dummies = [kind(1) if isinstance(kind, type) else np.ones(1, kind) for kind in kinds]
    options = {"dtype": dtype} if dtype is not None else {}
    if out is not None:
        options["out"] = np.empty(1, out)
    with np.errstate(all="ignore"):
        return getattr(np, name)(*dummies, casting=casting, **options).dtype


def kind_of(value: Any) -> Any:
    """An array's or NumPy scalar's type, or the Python scalar's class."""
    return value.dtype if hasattr(value, "dtype") else type(value)


def apply(name: str, args: tuple, out: Any = None, dtype: Any = None, casting: str = "same_kind") -> Any:
    """Ask the current stream for ``out = name(*args)``."""
    from cupy._ndarray import ndarray, queue

    for value in args:
        check_operand(value)
    if out is not None and not isinstance(out, ndarray):
        raise TypeError(f"Output arguments type must be cupy.ndarray, not {type(out)}")
    if not any(isinstance(value, ndarray) for value in args) and out is None:
        args = (ndarray_of(args[0]), *args[1:])
    dtype = None if dtype is None else np.dtype(dtype)
    kinds = tuple(kind_of(value) for value in args)
    found = result_type(name, kinds, None if out is None else out.dtype, dtype, casting)
    shape = np.broadcast_shapes(*(value.shape for value in args if isinstance(value, ndarray)))
    if out is None:
        out = ndarray(shape, found)
    elif shape != out.shape:
        raise ValueError(f"Out shape is mismatched: {out.shape} for {shape}")
    raws, target, function = tuple(raw(value) for value in args), out.raw, getattr(np, name)
    options = {"dtype": dtype} if dtype is not None else {}

    def run() -> None:
        function(*raws, out=target, casting=casting, **options)

    queue().push(name, run)
    return out


def raw(value: Any) -> Any:
    """The memory of an array; scalars as they are."""
    return getattr(value, "raw", value)


def ndarray_of(value: Any) -> Any:
    """A scalar as an array without dimensions on the device."""
    import cupy

    return cupy.asarray(value)


class ufunc:
    """A universal function of the module."""

    def __init__(self, name: str):
        self.name, self.__name__ = f"cupy_{name}", name

    def __call__(self, *args: Any, out: Any = None, dtype: Any = None, casting: str = "same_kind") -> Any:
        wanted = getattr(np, self.__name__).nin
        if len(args) == wanted + 1 and out is None:
            *args, out = args
        if len(args) != wanted:
            raise TypeError(f"Wrong number of arguments for {self.name!r}: {len(args)}")
        return apply(self.__name__, tuple(args), out, dtype, casting)

    def __repr__(self) -> str:
        return f"<ufunc {self.name!r}>"
