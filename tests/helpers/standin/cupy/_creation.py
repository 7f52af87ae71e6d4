"""New arrays, and copies between host and device."""

from __future__ import annotations

from typing import Any

import numpy as np

from cupy._ndarray import checked, ndarray, queue, view_of
from cupy._ufuncs import check_operand
from cupy.cuda import stream as streams


def empty(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    return ndarray(shape, dtype, order=order)


def full(shape: Any, fill_value: Any, dtype: Any = None, order: str = "C") -> ndarray:
    check_operand(fill_value)
    if dtype is None:
        dtype = fill_value.dtype if isinstance(fill_value, ndarray) else np.array(fill_value).dtype
    out = ndarray(shape, dtype, order=order)
    out.fill(fill_value)
    return out


def zeros(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    out = ndarray(shape, dtype, order=order)
    out.data.memset_async(0, out.nbytes)
    return out


def ones(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    return full(shape, 1, dtype, order)


def empty_like(
    prototype: ndarray, dtype: Any = None, order: str = "K", subok: None = None, shape: Any = None
) -> ndarray:
    return empty(prototype.shape if shape is None else shape, prototype.dtype if dtype is None else dtype)


def zeros_like(a: ndarray, dtype: Any = None, order: str = "K", subok: None = None, shape: Any = None) -> ndarray:
    return zeros(a.shape if shape is None else shape, a.dtype if dtype is None else dtype)


def ones_like(a: ndarray, dtype: Any = None, order: str = "K", subok: None = None, shape: Any = None) -> ndarray:
    return ones(a.shape if shape is None else shape, a.dtype if dtype is None else dtype)


def full_like(a: ndarray, fill_value: Any, dtype: Any = None, order: str = "K", subok: Any = None, shape: Any = None):
    return full(a.shape if shape is None else shape, fill_value, a.dtype if dtype is None else dtype)


def arange(start: Any, stop: Any = None, step: Any = 1, dtype: Any = None) -> ndarray:
    """The numbers are made on the device, so those of the host (of NumPy) only give the type and the count."""
    start, stop = (0, start) if stop is None else (start, stop)
    if any(isinstance(value, ndarray) for value in (start, stop, step)):
        raise TypeError("stand-in: arange takes numbers of the host")
    values = np.arange(start, stop, step, dtype)
    out = ndarray(values.shape, values.dtype)

    def run(target: np.ndarray = out.raw) -> None:
        target[...] = values

    queue().push("arange", run)
    return out


def array(obj: Any, dtype: Any = None, copy: bool = True, order: str = "K", subok: bool = False, ndmin: int = 0, *,
          blocking: bool = False) -> ndarray:  # fmt: skip
    """A device array with the contents of ``obj``: an array of CuPy or NumPy, a scalar, or nested lists of scalars."""
    if isinstance(obj, ndarray):
        made = obj.astype(obj.dtype if dtype is None else dtype, copy=bool(copy))
    else:
        host = np.array(obj, dtype=dtype, ndmin=ndmin, order="C")  # lists of device arrays are refused by __array__
        made = ndarray(host.shape, checked(host.dtype))
        made.set(host)
        if blocking:
            streams.get_current_stream().synchronize()
    while made.ndim < ndmin:
        made = made[None]
    return made


def asarray(
    a: Any, dtype: Any = None, order: str | None = None, *, copy: Any = None, blocking: bool = False
) -> ndarray:
    return array(a, dtype, copy=bool(copy), blocking=blocking)


asanyarray = asarray


def ascontiguousarray(a: Any, dtype: Any = None) -> ndarray:
    made = asarray(a, dtype)
    made = made if made.ndim else made.reshape(1)
    return made if made.raw.flags.c_contiguous else made.copy()


def asnumpy(a: Any, stream: Any = None, order: str = "C", out: Any = None, *, blocking: bool = True) -> np.ndarray:
    if isinstance(a, ndarray):
        return a.get(stream=stream, order=order, out=out, blocking=blocking)
    return np.asarray(a)


def as_strided(x: ndarray, shape: Any = None, strides: Any = None) -> ndarray:
    return view_of(x, np.lib.stride_tricks.as_strided(x.raw, shape, strides))


def broadcast_to(array: ndarray, shape: Any) -> ndarray:
    return view_of(array, np.lib.stride_tricks.as_strided(array.raw, *_stretched(array, shape)))


def _stretched(array: ndarray, shape: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    raw = np.broadcast_to(array.raw, shape)
    return raw.shape, raw.strides


def expand_dims(a: ndarray, axis: Any) -> ndarray:
    return view_of(a, np.expand_dims(a.raw, axis))


def moveaxis(a: ndarray, source: Any, destination: Any) -> ndarray:
    return view_of(a, np.moveaxis(a.raw, source, destination))


def swapaxes(a: ndarray, axis1: int, axis2: int) -> ndarray:
    return a.swapaxes(axis1, axis2)


def transpose(a: ndarray, axes: Any = None) -> ndarray:
    return a.transpose(axes)


def reshape(a: ndarray, newshape: Any, order: str = "C") -> ndarray:
    return a.reshape(newshape)


def ravel(a: ndarray, order: str = "C") -> ndarray:
    return a.ravel()


def squeeze(a: ndarray, axis: Any = None) -> ndarray:
    return a.squeeze(axis)


def flip(a: ndarray, axis: Any = None) -> ndarray:
    return view_of(a, np.flip(a.raw, axis))


def may_share_memory(a: Any, b: Any, max_work: Any = None) -> bool:
    if not isinstance(a, ndarray) or not isinstance(b, ndarray):
        return False
    return np.may_share_memory(a.raw, b.raw)


def shares_memory(a: Any, b: Any, max_work: Any = None) -> bool:
    return may_share_memory(a, b) and np.shares_memory(a.raw, b.raw)


def copyto(dst: ndarray, src: Any, casting: str = "same_kind", where: Any = None) -> None:
    if where is not None:
        raise NotImplementedError("stand-in: copyto with where")
    check_operand(src)
    if not np.can_cast(src.dtype if hasattr(src, "dtype") else np.array(src).dtype, dst.dtype, casting):
        raise TypeError(f"cannot cast {src.dtype} to {dst.dtype} in {casting} casting mode")
    dst[...] = src
