"""The local kernels in their readable reference form, on any array library with NumPy's interface.

Conventions: NHWC; results go into the caller's ``out`` arrays, and temporaries into the caller's flat ``workspace`` of
the same dtype, so nothing of the size of an activation is allocated. Inputs and gradients may be views with any
strides, such as the inside of a frame. Empty arrays are fine everywhere. A faster backend overrides what it can do
better.
"""

from __future__ import annotations

from typing import Any

from gridnn.kernels.reference.convolution import Convolution
from gridnn.kernels.reference.copying import Copying
from gridnn.kernels.reference.depthwise import Depthwise
from gridnn.kernels.reference.draws import Draws
from gridnn.kernels.reference.elementwise import Elementwise
from gridnn.kernels.reference.linear import Linear
from gridnn.kernels.reference.pooling import Pooling
from gridnn.kernels.reference.resampling import Resampling
from gridnn.kernels.reference.updates import Updates


class ReferenceKernels(Linear, Convolution, Depthwise, Pooling, Resampling, Copying, Elementwise, Updates, Draws):
    """All local kernels on the array library ``xp``.

    Attributes
    ----------
    name : str
        What the user calls them.
    """

    name = "reference"

    def __init__(self, xp: Any):
        self.xp = xp

    def parts(self, dtype: Any) -> dict[str, str]:
        """What beside the array library computes with arrays of ``dtype``, with its version, and what it computes."""
        return {}

    def described(self, dtype: Any) -> str:
        """One line for the header of a run: whose kernels compute with arrays of ``dtype``."""
        library = f"NumPy {self.xp.__version__}"
        parts = {**self.parts(dtype), library: "the rest"}
        return ", ".join(f"{name} ({what})" for name, what in parts.items()) if len(parts) > 1 else library
