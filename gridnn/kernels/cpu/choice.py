"""Which kernels compute: chosen once, when a backend is made, and named in the header of a run."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from gridnn.errors import UserError, unknown
from gridnn.kernels.reference.kernels import ReferenceKernels

# From the slowest to the fastest. The modules are imported only when their kernels are made: numba takes half a second.
MODULES = {
    "reference": ("reference.kernels", "ReferenceKernels"),
    "numba": ("cpu.numba_kernels", "NumbaKernels"),
    "onednn": ("cpu.onednn_kernels", "OneDnnKernels"),
}
KERNELS = ("auto", *MODULES)


def make_kernels(name: str, xp: Any) -> ReferenceKernels:
    """The kernels of this ``name`` on ``xp``; "auto" is the fastest that is installed.

    Raises
    ------
    UserError
        If there are none of this name, or what they need is not installed.
    """
    if name not in KERNELS:
        raise unknown("kernels", name, KERNELS)
    if name != "auto":
        try:
            return _make(name, xp)
        except ImportError as error:
            raise UserError(
                f"--kernels {name}: {error}; pip install 'gridnn[fast]', or use --kernels auto for the best there is"
            ) from None
    for choice in reversed(MODULES):
        try:
            return _make(choice, xp)
        except ImportError:
            continue
    raise AssertionError("the reference needs nothing but NumPy")


def _make(name: str, xp: Any) -> ReferenceKernels:
    module, kind = MODULES[name]
    return getattr(import_module(f"gridnn.kernels.{module}"), kind)(xp)
