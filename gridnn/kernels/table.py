"""The table of the local kernels: for every operation its implementations, the first that takes the arguments computes.

Conventions of all operations: arrays [n, *space, c] with one to three space axes; results go into the caller's ``out``
arrays, temporaries into the caller's flat ``workspace`` of the same dtype, so that nothing of the size of an activation
is allocated. Inputs and gradients may be views with any strides, such as the inside of a padded array. Empty arrays are
fine everywhere. The docstrings of `reference` say what an operation computes; its other implementations equal it.

An implementation is a function with the name of its operation and the parameters of the reference, where their types
stand; the first one is the `Kernels` it is called through. It asks these for other operations, so that those, too, are
computed by the fastest implementation.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import wraps
from importlib import import_module
from typing import Any, NamedTuple

Implementation = Callable[..., Any]

# The modules that implement an operation, from the fastest to the reference. Modules of libraries are imported, and
# used, only where they were chosen.
TABLE: dict[str, tuple[str, ...]] = {
    # products, and what follows them
    "matmul": ("cuda.convolution", "cpu.onednn_kernels", "reference.convolution"),
    "add_product": ("cuda.convolution", "cpu.onednn_kernels", "reference.convolution"),
    "linear": ("cuda.cublaslt", "reference.linear"),
    "linear_grad_weight": ("cuda.cublaslt", "reference.linear"),
    "linear_grad_input": ("cuda.cublaslt", "reference.linear"),
    "finish": ("cuda.rows", "reference.linear"),
    "activation_grad": ("cuda.rows", "reference.linear"),
    # convolutions
    "conv": ("cuda.cudnn_kernels", "cpu.onednn_kernels", "reference.convolution"),
    "conv_grad_weight": ("cuda.cudnn_kernels", "cpu.onednn_kernels", "reference.convolution"),
    "conv_grad_input": (
        "cuda.cudnn_kernels", "cuda.convolution", "cpu.onednn_kernels", "cpu.numba_windows",
        "reference.convolution",
    ),
    "im2col": ("cuda.convolution", "reference.convolution"),
    **dict.fromkeys(
        ("depthwise", "depthwise_grad_weight", "depthwise_grad_input"),
        ("cuda.cudnn_kernels", "cuda.windows", "cpu.onednn_kernels", "cpu.numba_windows", "reference.depthwise"),
    ),
    # pooling
    **dict.fromkeys(
        ("max_pool", "max_pool_grad", "avg_pool", "avg_pool_grad"),
        ("cuda.windows", "cpu.numba_windows", "reference.pooling"),
    ),
    "mean_space": ("cuda.windows", "reference.pooling"),
    "mean_space_grad": ("cuda.windows", "reference.pooling"),
    # copies and resampling
    "pack": ("cuda.copies", "reference.copying"),
    "unpack": ("cuda.copies", "reference.copying"),
    "add": ("cuda.copies", "reference.copying"),
    "fill": ("cuda.copies", "reference.copying"),
    "convert": ("cuda.rows", "reference.elementwise"),
    "repeat": ("cuda.copies", "reference.resampling"),
    "repeat_grad": ("cuda.copies", "reference.resampling"),
    "resample": ("cuda.copies", "reference.resampling"),
    "resample_grad": ("cuda.copies", "reference.resampling"),
    # activations
    "relu": ("cuda.rows", "cpu.numba_rows", "reference.elementwise"),
    "relu_grad": ("cuda.rows", "cpu.numba_rows", "reference.elementwise"),
    "leaky_relu": ("cuda.rows", "reference.elementwise"),
    "leaky_relu_grad": ("cuda.rows", "reference.elementwise"),
    "tanh": ("cuda.rows", "reference.elementwise"),
    "tanh_grad": ("cuda.rows", "cpu.numba_rows", "reference.elementwise"),
    "gelu": ("cuda.rows", "reference.elementwise"),
    "bias_activation": ("cuda.rows", "reference.elementwise"),
    # rows of channels
    **dict.fromkeys(
        ("sum_rows", "moments", "moments_grad", "affine", "add_scaled"),
        ("cuda.rows", "cpu.numba_rows", "reference.elementwise"),
    ),
    # updates
    "unscale": ("cuda.rows", "reference.elementwise"),
    "sgd": ("cuda.rows", "cpu.numba_rows", "reference.updates"),
    "adamw": ("cuda.rows", "cpu.numba_rows", "reference.updates"),
    # random numbers
    "uniform": ("cuda.stochastic", "reference.stochastic"),
    "dropout": ("cuda.stochastic", "reference.stochastic"),
}  # fmt: skip


class Part(NamedTuple):
    """A library that computes a part of the operations, for the header of a run."""

    library: str  # its name and version
    work: str  # what it computes; empty where the library's name says it
    dtypes: tuple[str, ...] = ()  # with arrays of which types; empty: of all

    def __str__(self) -> str:
        return f"{self.library} ({self.work})" if self.work else self.library


class Kernels:
    """The operations of one backend: a method for every row of `TABLE`, made by `make_kernels`.

    ``name`` is what the user calls them, ``xp`` the array library, ``parts`` say whose implementations they are, and
    ``attributes`` are what these ask for: libraries, compiled kernels, and the attributes below where they differ.

    Attributes
    ----------
    fuses : bool
        Whether it pays to give these kernels the activation of the next layer: see `gridnn.program.fusion`.
    weight_rows : int
        A product of the gradient of weights over fewer rows loses against adding its result up; measured on a CPU.
    adds_directly : bool
        Whether `add_product` needs no workspace.
    computes_in : str or None
        The type in which 16-bit arrays are computed with, if it is not their own.
    """

    fuses = False
    weight_rows = 4096
    adds_directly = False
    computes_in: str | None = None

    def __init__(self, name: str, xp: Any, parts: tuple[Part, ...], **attributes: Any) -> None:
        self.name, self.xp, self._parts = name, xp, parts
        vars(self).update(attributes)

    def described(self, dtype: Any) -> str:
        """One line for the header of a run: whose kernels compute with arrays of ``dtype``."""
        computed = self.computes_in or str(dtype)
        parts = [part for part in self._parts if not part.dtypes or computed in part.dtypes]
        text = ", ".join(map(str, parts)) if len(parts) > 1 else parts[0].library
        return text if self.computes_in is None else f"{text}, in {computed} and rounded to {dtype}"


def may_decline(function: Implementation) -> Implementation:
    """Mark an implementation that returns NotImplemented for arguments that it does not take, with nothing written."""
    function.may_decline = True
    return function


def implementations(modules: Collection[str]) -> dict[str, Implementation]:
    """Every operation by the ``modules`` and the reference: the first that takes the arguments computes.

    `ImportError` if a module needs a library that is not installed.
    """
    return {name: _first_of(_found(name, modules)) for name in TABLE}


def make_kernels(
    name: str, xp: Any, functions: Mapping[str, Implementation], parts: tuple[Part, ...], **attributes: Any
) -> Kernels:
    """`Kernels` with these ``functions`` as methods; the rest is described there."""
    return type("Kernels", (Kernels,), dict(functions))(name, xp, parts, **attributes)


def _found(name: str, modules: Collection[str]) -> list[Implementation]:
    """The implementations of an operation in the ``modules`` and the reference, up to one that takes everything."""
    found: list[Implementation] = []
    for module in TABLE[name]:
        if module in modules or module.startswith("reference."):
            found.append(getattr(import_module(f"gridnn.kernels.{module}"), name))
            if not hasattr(found[-1], "may_decline"):
                break
    return found


def _first_of(functions: list[Implementation]) -> Implementation:
    if len(functions) == 1:
        return functions[0]

    @wraps(functions[-1])
    def dispatch(kernels: Kernels, *arguments: Any, **options: Any) -> Any:
        for function in functions:
            result = function(kernels, *arguments, **options)
            if result is not NotImplemented:
                return result
        raise AssertionError("the last implementation takes everything")

    return dispatch
