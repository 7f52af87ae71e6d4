"""Arrays that behave as if they were on a device: nothing reaches the host unless it is asked to.

A `StrictArray` is no ndarray. It refuses to become one (`numpy.asarray`, buffers, `float`, `int`, `bool`, `item`,
iteration), and to be mixed with one; only `to_host`, `from_host`, `asarray` and `host_view` cross the border.
"""

from __future__ import annotations

import operator
from types import ModuleType

import numpy as np

from gridnn.kernels.backend import Backend, require_contiguous, require_shape
from gridnn.kernels.cpu.choice import choose_kernels


def _bare(value):
    """What NumPy gets for a value of the program."""
    if isinstance(value, StrictArray):
        return value._array
    if isinstance(value, np.ndarray):
        raise TypeError(f"a host array of shape {value.shape} met a device array: copy it with backend.from_host")
    if isinstance(value, (tuple, list)):
        return type(value)(_bare(v) for v in value)
    return value


def _strict(value):
    """What the program gets for a value of NumPy."""
    if isinstance(value, (np.ndarray, np.generic)):
        return StrictArray(np.asarray(value))
    if isinstance(value, (tuple, list)):
        return type(value)(_strict(v) for v in value)
    return value


class StrictArray:
    """A device array for the tests; a reduction to one number is one, too."""

    __slots__ = ("_array",)
    __array_ufunc__ = None
    __hash__ = None

    def __init__(self, array: np.ndarray):
        self._array = array

    shape = property(lambda self: self._array.shape)
    dtype = property(lambda self: self._array.dtype)
    ndim = property(lambda self: self._array.ndim)
    size = property(lambda self: self._array.size)
    strides = property(lambda self: self._array.strides)
    nbytes = property(lambda self: self._array.nbytes)
    itemsize = property(lambda self: self._array.itemsize)
    flags = property(lambda self: self._array.flags)
    T = property(lambda self: StrictArray(self._array.T))

    def __len__(self):
        return len(self._array)

    def __repr__(self):
        return f"StrictArray(shape={self.shape}, dtype={self.dtype})"

    def __getitem__(self, key):
        array = self._array[_bare(key)]
        return StrictArray(array if isinstance(array, np.ndarray) else np.asarray(array))

    def __setitem__(self, key, value):
        self._array[_bare(key)] = _bare(value)


def _method(name):
    def method(self, *args, **kwargs):
        return _strict(getattr(self._array, name)(*_bare(args), **{k: _bare(v) for k, v in kwargs.items()}))

    return method


def _operator(function):
    return lambda *args: _strict(function(*_bare(args)))


def _in_place(function):
    def method(self, other):
        function(self._array, _bare(other))
        return self

    return method


def _refusal(name):
    def method(self, *args, **kwargs):
        raise TypeError(f"{name} of a device array of shape {self.shape}: use backend.to_host")

    return method


METHODS = ["all", "any", "astype", "copy", "fill", "max", "mean", "min", "ravel", "reshape", "sum", "transpose", "view"]
BINARY = ["add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor", "lshift", "rshift", "matmul"]
UNARY_AND_ORDER = ["lt", "le", "eq", "ne", "gt", "ge", "neg", "abs", "invert"]
REFUSED = ["__array__", "__float__", "__int__", "__bool__", "__index__", "__complex__", "__iter__", "item", "tolist"]


def _complete(cls) -> None:
    """Give the class its methods and operators."""
    for name in METHODS:
        setattr(cls, name, _method(name))
    for name in BINARY:
        function = getattr(operator, f"__{name}__")
        setattr(cls, f"__{name}__", _operator(function))
        setattr(cls, f"__r{name}__", _operator(lambda a, b, f=function: f(b, a)))
        setattr(cls, f"__i{name}__", _in_place(getattr(operator, f"__i{name}__")))
    for name in UNARY_AND_ORDER:
        setattr(cls, f"__{name}__", _operator(getattr(operator, f"__{name}__")))
    for name in REFUSED:
        setattr(cls, name, _refusal(name))


_complete(StrictArray)


class StrictNamespace:
    """NumPy's functions on strict arrays."""

    def __init__(self, module: ModuleType):
        self._module = module

    def __getattr__(self, name):
        value = getattr(self._module, name)
        if isinstance(value, ModuleType):
            return StrictNamespace(value)
        if isinstance(value, type) or not callable(value):
            return value  # dtypes and constants
        return lambda *args, **kwargs: _strict(value(*_bare(args), **{k: _bare(v) for k, v in kwargs.items()}))


class StrictBackend(Backend):
    """A backend of strict arrays."""

    name = "strict"

    def __init__(self):
        super().__init__()
        self.xp = StrictNamespace(np)
        self.kernels = choose_kernels("reference", self.xp)

    def asarray(self, host):
        return StrictArray(np.array(host))

    def address(self, array):
        return array._array.ctypes.data

    def to_host(self, array):
        return array._array.copy()

    def from_host(self, host, out):
        require_shape(host, out)
        out._array[...] = host

    def host_view(self, array):
        require_contiguous(array)
        return array._array.copy()  # a staging buffer: what MPI writes there has not arrived yet

    def synchronize(self):
        pass
