"""The operators and methods of ``cupy.ndarray`` that are functions of the module."""

from __future__ import annotations

from typing import Any

from cupy._ndarray import ndarray
from cupy._ufuncs import apply


def _binary(name: str) -> Any:
    def forward(self: ndarray, other: Any) -> Any:
        return apply(name, (self, other))

    def backward(self: ndarray, other: Any) -> Any:
        return apply(name, (other, self))

    def inplace(self: ndarray, other: Any) -> ndarray:
        return apply(name, (self, other), out=self)

    return forward, backward, inplace


def _unary(name: str) -> Any:
    return lambda self: apply(name, (self,))


def _method(name: str) -> Any:
    def method(self: ndarray, *args: Any, **kwargs: Any) -> Any:
        import cupy

        return getattr(cupy, name)(self, *args, **kwargs)

    return method


BINARY = {
    "add": "add", "sub": "subtract", "mul": "multiply", "truediv": "divide", "floordiv": "floor_divide",
    "mod": "remainder", "and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor", "lshift": "left_shift",
    "rshift": "right_shift", "pow": "power",
}  # fmt: skip
for _name, _ufunc in BINARY.items():
    for _form, _function in zip(("__{}__", "__r{}__", "__i{}__"), _binary(_ufunc), strict=True):
        setattr(ndarray, _form.format(_name), _function)
for _name, _ufunc in {"lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal", "eq": "equal",
                      "ne": "not_equal"}.items():  # fmt: skip
    setattr(ndarray, f"__{_name}__", _binary(_ufunc)[0])
for _name, _ufunc in {"neg": "negative", "abs": "absolute", "invert": "invert"}.items():
    setattr(ndarray, f"__{_name}__", _unary(_ufunc))
for _name in ("sum", "prod", "max", "min", "all", "any", "mean", "var", "std", "argmax", "argmin", "take", "repeat",
              "clip", "dot", "cumsum"):  # fmt: skip
    setattr(ndarray, _name, _method(_name))
ndarray.__matmul__ = _method("matmul")
