"""Reductions, products of matrices, and what joins, chooses and repeats."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from cupy._ndarray import ndarray, queue
from cupy._ufuncs import apply, check_operand, kind_of, raw
from cupy.cuda import stream as streams


@functools.lru_cache(maxsize=1024)
def _reduced_type(name: str, kind: Any, options: tuple) -> np.dtype:
    return getattr(np, name)(np.ones(1, kind), **dict(options)).dtype


def _reduce(name: str, a: Any, axis: Any, out: Any, keepdims: bool, **options: Any) -> ndarray:
    if not isinstance(a, ndarray):
        raise TypeError(f"stand-in: {name} of {type(a)}")
    options = {key: value for key, value in options.items() if value is not None}
    axes = range(a.ndim) if axis is None else np.lib.array_utils.normalize_axis_tuple(axis, a.ndim)
    shape = tuple(1 if i in axes else size for i, size in enumerate(a.shape) if keepdims or i not in axes)
    if name in ("max", "min", "argmax", "argmin") and any(a.shape[i] == 0 for i in axes):
        raise ValueError(f"zero-size array to reduction operation cupy_{name} which has no identity")
    if out is None:
        out = ndarray(shape, _reduced_type(name, a.dtype, tuple(options.items())))
    elif not isinstance(out, ndarray) or out.shape != shape:
        raise ValueError(f"Out shape is mismatched: {getattr(out, 'shape', out)} for {shape}")
    source, target, function = a.raw, out.raw, getattr(np, name)

    def run() -> None:
        target[...] = function(source, axis=axis, keepdims=keepdims, **options)

    queue().push(name, run)
    return out


def _typed(name: str) -> Any:
    def reduction(a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False) -> ndarray:
        if dtype is None and out is not None:
            dtype = _reduced_type(name, a.dtype, ())
        return _reduce(name, a, axis, out, keepdims, dtype=dtype)

    return reduction


def _plain(name: str) -> Any:
    def reduction(a: Any, axis: Any = None, out: Any = None, keepdims: bool = False) -> ndarray:
        return _reduce(name, a, axis, out, keepdims)

    return reduction


def _spread(name: str) -> Any:
    def reduction(a: Any, axis: Any = None, dtype: Any = None, out: Any = None, ddof: int = 0, keepdims: bool = False):
        return _reduce(name, a, axis, out, keepdims, dtype=dtype, ddof=ddof)

    return reduction


def _place(name: str) -> Any:
    def reduction(a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False) -> ndarray:
        return _reduce(name, a, axis, out, keepdims)

    return reduction


sum, prod, mean = _typed("sum"), _typed("prod"), _typed("mean")
max, min, all, any_ = _plain("max"), _plain("min"), _plain("all"), _plain("any")
var, std, argmax, argmin = _spread("var"), _spread("std"), _place("argmax"), _place("argmin")


def count_nonzero(a: ndarray, axis: Any = None) -> ndarray:
    return sum(apply("not_equal", (a, 0)), axis=axis)


def matmul(a: Any, b: Any, /, out: Any = None, *, dtype: Any = None, casting: str = "same_kind") -> ndarray:
    """By cuBLAS, which CuPy refuses while the current stream is captured."""
    for value in (a, b):
        if not isinstance(value, ndarray):
            raise TypeError(f"Unsupported type {type(value)}")
    if streams.get_current_stream().is_capturing():
        raise NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")
    if "bfloat16" in (a.dtype.name, b.dtype.name) and (a.ndim != 2 or b.ndim != 2):
        raise TypeError("stand-in: CuPy's matmul of bfloat16 is right for matrices only")
    kind = np.result_type(a.dtype, b.dtype) if dtype is None else np.dtype(dtype)
    empty = np.broadcast_to(np.empty(()), a.shape), np.broadcast_to(np.empty(()), b.shape)
    shape = _product_shape(*(view.shape for view in empty))
    if out is None:
        out = ndarray(shape, kind)
    elif out.shape != shape or not np.can_cast(kind, out.dtype, casting):
        raise ValueError(f"matmul: out {out.shape} {out.dtype} for {shape} {kind}")
    left, right, target = a.raw, b.raw, out.raw
    wide = np.float32 if kind.itemsize == 2 and kind.kind not in "iu" else kind

    def run() -> None:
        target[...] = np.matmul(left.astype(wide, copy=False), right.astype(wide, copy=False))

    queue().push("matmul", run)
    return out


def _product_shape(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    if not a or not b or a[-1] != b[-2 if len(b) > 1 else 0]:
        raise ValueError(f"matmul: shapes {a} and {b} do not fit")
    lead = np.broadcast_shapes(a[:-2], b[:-2])
    return (*lead, *a[-2:-1], *(b[-1:] if len(b) > 1 else ()))


def dot(a: ndarray, b: ndarray, out: Any = None) -> ndarray:
    if a.ndim > 2 or b.ndim > 2:
        raise NotImplementedError("stand-in: dot of more than 2 dimensions")
    return matmul(a, b, out)


def where(condition: Any, x: Any = None, y: Any = None) -> ndarray:
    if x is None or y is None:
        raise NotImplementedError("stand-in: where needs x and y (the other form waits for the device)")
    for value in (condition, x, y):
        check_operand(value)
    # As CuPy's ufunc: Python's scalars are weak.
    dummies = [kind(1) if isinstance(kind, type) else np.ones(1, kind) for kind in (kind_of(x), kind_of(y))]
    arrays = [value for value in (condition, x, y) if isinstance(value, ndarray)]
    out = ndarray(np.broadcast_shapes(*(value.shape for value in arrays)), np.where(True, *dummies).dtype)
    raws, target = (raw(condition), raw(x), raw(y)), out.raw

    def run() -> None:
        target[...] = np.where(*raws)

    queue().push("where", run)
    return out


def clip(a: Any, a_min: Any, a_max: Any, out: Any = None) -> ndarray:
    if a_min is None and a_max is None:
        raise ValueError("array_clip: must set either max or min")
    check_operand(a_min)
    check_operand(a_max)
    if a_min is not None:
        a = out = apply("maximum", (a, a_min), out)
    return out if a_max is None else apply("minimum", (a, a_max), out)


def concatenate(tup: Any, axis: Any = 0, out: Any = None, *, dtype: Any = None, casting: str = "same_kind") -> ndarray:
    return _join("concatenate", tup, axis, out, dtype)


def stack(tup: Any, axis: int = 0, out: Any = None, *, dtype: Any = None, casting: str = "same_kind") -> ndarray:
    return _join("stack", tup, axis, out, dtype)


def _join(name: str, arrays: Any, axis: Any, out: Any, dtype: Any) -> ndarray:
    for value in arrays:
        if not isinstance(value, ndarray):
            raise TypeError("Only cupy arrays can be concatenated")
    kind = np.result_type(*(value.dtype for value in arrays)) if dtype is None else np.dtype(dtype)
    function = getattr(np, name)
    shape = function([np.broadcast_to(np.empty((), "?"), value.shape) for value in arrays], axis).shape
    if out is None:
        out = ndarray(shape, kind)
    elif out.shape != shape:
        raise ValueError(f"Out shape is mismatched: {out.shape} for {shape}")
    raws, target = [value.raw for value in arrays], out.raw

    def run() -> None:
        target[...] = function(raws, axis)

    queue().push(name, run)
    return out


def repeat(a: ndarray, repeats: Any, axis: Any = None) -> ndarray:
    if not isinstance(repeats, (int, list, tuple)):
        raise ValueError("`repeats` should be int or sequence")
    return _shaped("repeat", a, repeats, axis)


def tile(A: ndarray, reps: Any) -> ndarray:
    return _shaped("tile", A, reps)


def cumsum(a: ndarray, axis: Any = None, dtype: Any = None, out: Any = None) -> ndarray:
    made = _shaped("cumsum", a, axis, dtype)
    if out is None:
        return made
    out[...] = made
    return out


def pad(array: ndarray, pad_width: Any, mode: str = "constant", **kwargs: Any) -> ndarray:
    return _shaped("pad", array, pad_width, mode, **kwargs)


def _shaped(name: str, a: ndarray, *args: Any, **kwargs: Any) -> ndarray:
    """A function of NumPy whose result's shape depends on the shape of ``a`` alone."""
    if not isinstance(a, ndarray):
        raise TypeError(f"Unsupported type {type(a)}")
    function = getattr(np, name)
    dummy = function(np.zeros(a.shape, a.dtype), *args, **kwargs)
    out, source = ndarray(dummy.shape, dummy.dtype), a.raw

    def run(target: np.ndarray = out.raw) -> None:
        target[...] = function(source, *args, **kwargs)

    queue().push(name, run)
    return out


def take(a: ndarray, indices: Any, axis: Any = None, out: Any = None) -> ndarray:
    import cupy

    flat, axis = (a.ravel(), 0) if axis is None else (a, axis % a.ndim)
    indices = indices if isinstance(indices, (int, ndarray)) else cupy.asarray(indices)
    made = flat[(slice(None),) * axis + (indices,)]
    if out is None:
        return made
    out[...] = made
    return out


def array_equal(a1: ndarray, a2: ndarray, equal_nan: bool = False) -> ndarray:
    if a1.shape != a2.shape:
        return cupy_bool(False)
    return all(apply("equal", (a1, a2)))


def cupy_bool(value: bool) -> ndarray:
    import cupy

    return cupy.asarray(value)
