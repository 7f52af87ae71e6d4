"""Random numbers keyed by the global index, and dropout: the same on every grid, backend and number of ranks."""

from __future__ import annotations

from gridnn.kernels import random
from gridnn.kernels.table import Kernels
from gridnn.kernels.tiles import Array


def uniform(kernels: Kernels, key: tuple[int, ...], box: random.Selection, shape: tuple[int, ...], out: Array) -> None:
    """Write the part ``box`` of the tensor of random numbers in [0, 1) that ``key`` names to ``out``.

    As `random.uniform`. In 16 bits they are the float32 numbers, rounded: up to 1.
    """
    random.uniform(kernels.xp, key, box, shape, out=out)


def dropout(
    kernels: Kernels, x: Array, p: float, key: tuple[int, ...], box: random.Selection, shape: tuple[int, ...],
    mask: Array, out: Array,
) -> None:  # fmt: skip
    """Write 0 with probability ``p``, else 1 / (1 - p), to ``mask``, and ``x * mask`` to ``out``.

    Dropped is what has a number below ``p`` in `uniform`; those of 16-bit arrays are the numbers of float32.
    """
    xp, narrow = kernels.xp, mask.dtype.itemsize == 2
    numbers = xp.empty(mask.shape, dtype="float32") if narrow else mask
    kernels.uniform(key, box, shape, numbers)
    xp.greater_equal(numbers, p, out=numbers)
    numbers *= 1 / (1 - p)
    if narrow:
        mask[...] = numbers
    xp.multiply(x, mask, out=out)
