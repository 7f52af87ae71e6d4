"""``cupy.ndarray``: shapes and strides at once, contents when the stream comes to it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cupy._ufuncs import check_operand
from cupy.cuda import memory, runtime
from cupy.cuda import stream as streams

REFUSAL = (
    "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct a NumPy array explicitly."
)


def queue() -> Any:
    """Where the calling thread's operations go."""
    return runtime.queue_of(streams.get_current_stream().ptr)


class ndarray:
    """An array in the memory of the device.

    ``raw`` is NumPy's view of that memory, for the stand-in alone: it may hold anything until the stream is waited for.
    """

    __array_priority__ = 100
    raw: np.ndarray

    def __init__(self, shape: Any, dtype: Any = float, memptr: Any = None, strides: Any = None, order: str = "C"):
        shape = (shape,) if isinstance(shape, (int, np.integer)) else tuple(int(size) for size in shape)
        dtype = checked(dtype)
        if memptr is None and strides is not None:
            raise ValueError("strides need memptr")
        self.base = None
        self.data = memory.alloc(math.prod(shape) * dtype.itemsize) if memptr is None else memptr
        size = math.prod(shape)
        if strides is None:
            holder = runtime.raw(self.data.ptr, size * dtype.itemsize) if size else np.empty(0, np.uint8)
            self.raw = holder.view(dtype).reshape(shape, order=order)
        else:
            reach = sum((n - 1) * abs(step) for n, step in zip(shape, strides, strict=True)) + dtype.itemsize
            holder = runtime.raw(self.data.ptr, reach if size else 0)
            self.raw = np.ndarray(shape, dtype, holder, 0, tuple(strides))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.raw.shape

    @shape.setter
    def shape(self, shape: Any) -> None:
        self.raw = self.raw.reshape(shape, copy=False)

    dtype = property(lambda self: self.raw.dtype)
    strides = property(lambda self: self.raw.strides)
    size = property(lambda self: self.raw.size)
    itemsize = property(lambda self: self.raw.itemsize)
    nbytes = property(lambda self: self.raw.nbytes)
    ndim = property(lambda self: self.raw.ndim)
    flags = property(lambda self: self.raw.flags)
    device = property(lambda self: self.data.device)
    T = property(lambda self: self.transpose())

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        contiguous = self.raw.flags.c_contiguous
        return {"shape": self.shape, "typestr": self.dtype.str, "descr": self.dtype.descr,
                "stream": streams.get_current_stream().ptr or 1, "version": 3,
                "strides": None if contiguous else self.strides, "data": (self.data.ptr, False)}  # fmt: skip

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError(REFUSAL)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        import cupy

        function = getattr(cupy, ufunc.__name__, None)
        if method != "__call__" or function is None:
            return NotImplemented
        for operand in inputs:
            check_operand(operand)
        if isinstance(kwargs.get("out"), tuple):
            kwargs["out"] = kwargs["out"][0]
        return function(*inputs, **kwargs)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        import cupy

        ours = getattr(cupy, function.__name__, None)
        return NotImplemented if ours is None else ours(*args, **kwargs)

    # To the host: each of these waits.

    def get(self, stream: Any = None, order: str = "C", out: Any = None, blocking: bool = True) -> np.ndarray:
        stream = streams.get_current_stream() if stream is None else stream
        if out is not None and (not isinstance(out, np.ndarray) or out.dtype != self.dtype or out.shape != self.shape):
            raise ValueError(f"out must be a numpy.ndarray of {self.dtype} and shape {self.shape}")
        with stream:
            whole = self if self.raw.flags.c_contiguous else self.copy()
        host = np.empty(self.shape, self.dtype) if out is None else out
        if not host.flags.c_contiguous:
            raise RuntimeError("`out` cannot be specified when copying to non-contiguous ndarray")
        whole.data.copy_to_host_async(host.ctypes.data, host.nbytes, stream)
        if blocking:
            stream.synchronize()
        return host

    def set(self, arr: np.ndarray, stream: Any = None) -> None:
        if not isinstance(arr, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if self.dtype != arr.dtype:
            raise TypeError(f"{arr.dtype} array cannot be set to {self.dtype} array")
        if self.shape != arr.shape:
            raise ValueError(f"Shape mismatch. Old shape: {self.shape}, new shape: {arr.shape}")
        if not self.raw.flags.c_contiguous:
            raise RuntimeError("Cannot set to non-contiguous array")
        arr = np.ascontiguousarray(arr)
        self.data.copy_from_host_async(arr.ctypes.data, self.nbytes, stream)

    def item(self, *args: Any) -> Any:
        return self.get().item(*args)

    def tolist(self) -> Any:
        return self.get().tolist()

    def tobytes(self, order: str = "C") -> bytes:
        return self.get().tobytes()

    def __float__(self) -> float:
        return float(self.get())

    def __int__(self) -> int:
        return int(self.get())

    def __index__(self) -> int:
        raise TypeError("only integer scalar arrays can be converted to a scalar index")

    def __bool__(self) -> bool:
        return bool(self.get())

    def __repr__(self) -> str:
        return repr(self.get())

    def __str__(self) -> str:
        return str(self.get())

    def __len__(self) -> int:
        return len(self.raw)

    def __iter__(self) -> Any:
        if not self.ndim:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(len(self)))

    __hash__ = None

    # Views.

    def reshape(self, *shape: Any, order: str = "C") -> ndarray:
        shape = shape[0] if len(shape) == 1 else shape
        try:
            return view_of(self, self.raw.reshape(shape, copy=False))
        except ValueError:
            np.broadcast_to(np.empty(()), self.shape).reshape(shape)  # an impossible shape is refused
            return view_of(self.copy(), None, shape)

    def ravel(self, order: str = "C") -> ndarray:
        return self.reshape(-1)

    def flatten(self, order: str = "C") -> ndarray:
        return self.copy().reshape(-1)

    def view(self, dtype: Any = None) -> ndarray:
        return view_of(self, self.raw.view() if dtype is None else self.raw.view(checked(dtype)))

    def transpose(self, *axes: Any) -> ndarray:
        return view_of(self, self.raw.transpose(*axes))

    def swapaxes(self, axis1: int, axis2: int) -> ndarray:
        return view_of(self, self.raw.swapaxes(axis1, axis2))

    def squeeze(self, axis: Any = None) -> ndarray:
        return view_of(self, self.raw.squeeze(axis))

    def __getitem__(self, key: Any) -> ndarray:
        key, advanced = indices(key)
        if not advanced:
            return view_of(self, self.raw[key if ... in key else (*key, ...)])
        self._check_masks(advanced)
        raw = self.raw
        stand_ins = tuple(np.zeros(k.shape, np.intp) if isinstance(k, ndarray) else k for k in key)
        out = ndarray(np.broadcast_to(np.empty(()), self.shape)[stand_ins].shape, self.dtype)
        real = tuple(k.raw if isinstance(k, ndarray) else k for k in key)

        def take(target: np.ndarray = out.raw) -> None:
            target[...] = raw[real]

        queue().push("take", take)
        return out

    def __setitem__(self, key: Any, value: Any) -> None:
        check_operand(value)
        key, advanced = indices(key)
        self._check_masks(advanced)
        raw, source = self.raw, value.raw if isinstance(value, ndarray) else value
        real = tuple(k.raw if isinstance(k, ndarray) else k for k in key)
        stand_ins = tuple(np.zeros(k.shape, np.intp) if isinstance(k, ndarray) else k for k in key)
        shape = np.broadcast_to(np.empty(()), self.shape)[stand_ins].shape
        lead = np.shape(source)
        while len(lead) > len(shape) and lead[0] == 1:
            lead = lead[1:]
        np.broadcast_to(np.empty(lead), shape)  # refuses what does not fit

        def assign() -> None:
            raw[real] = source

        queue().push("assign", assign)

    def _check_masks(self, advanced: list[ndarray]) -> None:
        if any(k.dtype.kind == "b" for k in advanced):
            raise NotImplementedError("stand-in: masks as indices (they wait for the device): use cupy.where")

    # New arrays.

    def copy(self, order: str = "C") -> ndarray:
        return self.astype(self.dtype)

    def __copy__(self) -> ndarray:
        return self.copy()

    def astype(self, dtype: Any, order: str = "K", casting: Any = None, subok: Any = None, copy: bool = True) -> Any:
        if casting is not None or subok is not None:
            raise TypeError("casting and subok are not supported yet")
        if not copy and self.dtype == checked(dtype):
            return self
        out, raw = ndarray(self.shape, dtype), self.raw

        def convert(target: np.ndarray = out.raw) -> None:
            target[...] = raw.astype(target.dtype)

        queue().push("copy", convert)
        return out

    def fill(self, value: Any) -> None:
        check_operand(value)
        self[...] = value


def checked(dtype: Any) -> np.dtype:
    """A dtype that CuPy has arrays of."""
    dtype = np.dtype(dtype)
    if dtype.kind not in "?biufc" and dtype.name != "bfloat16":
        raise ValueError(f"Unsupported dtype {dtype}")
    return dtype


def indices(key: Any) -> tuple[tuple, list[ndarray]]:
    """An index as a tuple, arrays of NumPy and lists in it copied to the device, and the arrays in it."""
    import cupy

    keys = []
    for k in key if isinstance(key, tuple) else (key,):
        if isinstance(k, (list, np.ndarray)):
            k = cupy.asarray(k if len(k) else np.asarray(k, np.int32))
        keys.append(k)
    return tuple(keys), [k for k in keys if isinstance(k, ndarray)]


def view_of(array: ndarray, raw: np.ndarray | None, shape: Any = None) -> ndarray:
    """An array over part of another's memory."""
    raw = array.raw.reshape(shape) if raw is None else raw
    made = ndarray.__new__(ndarray)
    offset = raw.ctypes.data - array.raw.ctypes.data if raw.size else 0
    made.raw, made.data, made.base = raw, array.data + offset, array if array.base is None else array.base
    return made
