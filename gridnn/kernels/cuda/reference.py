"""What all kernels of the GPU share beside their reference forms."""

from __future__ import annotations

from gridnn.kernels.reference.kernels import ReferenceKernels
from gridnn.kernels.tiles import Array


class CupyReference(ReferenceKernels):
    """The reference forms on arrays of CuPy."""

    @staticmethod
    def address(array: Array) -> int:
        """Where the first element of ``array`` lies in the device's memory."""
        return array.data.ptr
