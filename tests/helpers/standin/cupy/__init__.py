# ruff: noqa: F401
"""A stand-in for CuPy on machines without a GPU: as strict, and as late, as the real one may be (see README.md)."""

import numpy as _numpy
from numpy import (
    bool_,
    complex64,
    complex128,
    dtype,
    e,
    float16,
    float32,
    float64,
    generic,
    inf,
    int8,
    int16,
    int32,
    int64,
    integer,
    intp,
    nan,
    newaxis,
    pi,
    uint8,
    uint16,
    uint32,
    uint64,
)

from cupy import _operators, _ufuncs, cuda, lib, standin
from cupy._creation import (
    arange,
    array,
    asanyarray,
    asarray,
    ascontiguousarray,
    asnumpy,
    broadcast_to,
    copyto,
    empty,
    empty_like,
    expand_dims,
    flip,
    full,
    full_like,
    may_share_memory,
    moveaxis,
    ones,
    ones_like,
    ravel,
    reshape,
    shares_memory,
    squeeze,
    swapaxes,
    transpose,
    zeros,
    zeros_like,
)
from cupy._functions import (
    all,
    argmax,
    argmin,
    array_equal,
    clip,
    concatenate,
    count_nonzero,
    cumsum,
    dot,
    matmul,
    max,
    mean,
    min,
    pad,
    prod,
    repeat,
    stack,
    std,
    sum,
    take,
    tile,
    var,
    where,
)
from cupy._functions import any_ as any
from cupy._ndarray import ndarray
from cupy._raw import RawKernel, RawModule
from cupy.cuda.memory import get_default_memory_pool
from cupy.cuda.pinned_memory import get_default_pinned_memory_pool

__version__ = "14.2.0"
is_standin = True
ufunc = _ufuncs.ufunc
amax, amin = max, min
globals().update({name: _ufuncs.ufunc(name) for name in _ufuncs.UFUNCS})
abs, true_divide, mod = absolute, divide, remainder  # noqa: F821


def get_array_module(*args):
    """This module if any of the arguments is a device array, else NumPy."""
    return __import__("cupy") if _any(isinstance(value, ndarray) for value in args) else _numpy


def _any(values):
    return True in list(values)


def issubdtype(arg1, arg2):
    """As NumPy's."""
    return _numpy.issubdtype(arg1, arg2)


def result_type(*arrays_and_dtypes):
    """As NumPy's, of types and arrays."""
    return _numpy.result_type(*(value.dtype if isinstance(value, ndarray) else value for value in arrays_and_dtypes))


def can_cast(from_, to, casting="safe"):
    """As NumPy's, of types and arrays."""
    return _numpy.can_cast(from_.dtype if isinstance(from_, ndarray) else from_, to, casting)
