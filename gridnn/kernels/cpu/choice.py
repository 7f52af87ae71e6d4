"""Which implementations compute on the CPU: chosen once, when a backend is made, and named in the header of a run."""

from __future__ import annotations

from typing import Any

from gridnn.errors import UserError, unknown
from gridnn.kernels.cpu.widened import SINGLE, widened
from gridnn.kernels.table import Kernels, Part, implementations, make_kernels

CHOICES = ("reference", "numba", "onednn")  # from the slowest to the fastest
KERNELS = ("auto", *CHOICES)
NUMBA = ("cpu.numba_rows", "cpu.numba_windows")  # modules of the table
ONEDNN = ("cpu.onednn_kernels",)


def choose_kernels(name: str, xp: Any, half: bool = False) -> Kernels:
    """The kernels of this ``name``, one of `KERNELS`, on ``xp``; "auto" is the fastest that is installed.

    With ``half``, activations have 16 bits: they are computed in float32. `UserError` if there are none of this name,
    or what they need is not installed.
    """
    if name not in KERNELS:
        raise unknown("kernels", name, KERNELS)
    if name != "auto":
        try:
            return _make(name, xp, half)
        except ImportError as error:
            raise UserError(
                f"--kernels {name}: {error}; pip install 'gridnn[fast]', or use --kernels auto for the best there is"
            ) from None
    for choice in reversed(CHOICES):
        try:
            return _make(choice, xp, half)
        except ImportError:
            continue
    raise AssertionError("the reference needs nothing but NumPy")


def _make(name: str, xp: Any, half: bool) -> Kernels:
    """The modules are imported, and libraries loaded, only where they are chosen: numba takes half a second."""
    modules: tuple[str, ...] = ()
    parts = [Part(f"NumPy {xp.__version__}", "the rest")]
    attributes: dict[str, Any] = {"computes_in": SINGLE} if half else {}
    if name == "onednn":
        from gridnn.kernels.cpu.onednn_kernels import OneDnnContext

        modules, attributes["onednn"] = ONEDNN, OneDnnContext()
        version = attributes["onednn"].library.version
        parts.insert(0, Part(f"oneDNN {version}", "convolutions and GEMM", (SINGLE,)))
    if name != "reference":
        import numba

        modules += NUMBA
        parts.insert(-1, Part(f"numba {numba.__version__}", "pooling, norms, activations, updates"))
    functions = implementations(modules)
    return make_kernels(name, xp, widened(functions) if half else functions, tuple(parts), **attributes)
