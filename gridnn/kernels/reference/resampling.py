"""Space up-sampled by copies, or resampled by a linear map along one axis.

Arrays are [n, *space, c]; where a rank has a part of an axis, its range of global indices is given.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

from gridnn.kernels.table import Kernels
from gridnn.kernels.taps import Sizes
from gridnn.kernels.tiles import Array, Tile

Pair = tuple[int, int]
Ranges = tuple[Pair, Pair]


def repeat(kernels: Kernels, x: Array, factors: Sizes, shifts: Sizes, out: Array) -> None:
    """Write up-sampled ``x`` to ``out``: along a space axis, output o is input (o + shift) // factor."""
    for places, copies in _phases(out.shape, factors, shifts):
        out[copies] = x[places]


def repeat_grad(kernels: Kernels, dy: Array, factors: Sizes, shifts: Sizes, out: Array) -> None:
    """Write the sums of the gradients of every input's copies to ``out``."""
    out[...] = 0
    for places, copies in _phases(dy.shape, factors, shifts):
        share = out[places]
        share += dy[copies]


def resample(kernels: Kernels, x: Array, dim: int, rule: str, extents: Pair, here: Ranges, out: Array) -> None:
    """Write ``x``, resampled along dimension ``dim`` by a linear map, to ``out``; contiguous.

    Parameters
    ----------
    rule : str
        "linear": between the centres of the elements; "area": output o is the mean over the range
        [floor(o * inputs / outputs), ceil((o + 1) * inputs / outputs)).
    extents : tuple of int
        All inputs and outputs along the dimension.
    here : tuple of (int, int)
        The range of inputs that ``x`` has, and that of outputs that ``out`` has.
    """
    _along(kernels.xp, _map(kernels.xp, rule, extents, here, out.dtype), x, dim, out)


def resample_grad(kernels: Kernels, dy: Array, dim: int, rule: str, extents: Pair, here: Ranges, out: Array) -> None:
    """Write the adjoint of `resample` of ``dy`` to ``out``, contiguous."""
    _along(kernels.xp, _map(kernels.xp, rule, extents, here, out.dtype).T, dy, dim, out)


def _along(xp: Any, matrix: Array, x: Array, dim: int, out: Array) -> None:
    lead, trail = math.prod(x.shape[:dim]), math.prod(x.shape[dim + 1 :])
    # The library's own batched product: one GEMM of the kernels a slice takes 2 to 8 times as long.
    target = out.reshape(lead, out.shape[dim], trail)
    xp.matmul(matrix, x.reshape(lead, x.shape[dim], trail), out=target)


def _map(xp: Any, rule: str, extents: Pair, here: Ranges, dtype: Any) -> Array:
    """The part of the map's matrix [outputs, inputs] that is here."""
    (size, outputs), (held, made) = extents, here
    output, place = xp.arange(*made)[:, None], xp.arange(*held)[None, :]
    if rule == "linear":  # a hat of width 1 around the place of the output's centre
        centre = ((2 * output + 1) * size - outputs) / (2 * outputs)
        return xp.maximum(0, 1 - abs(xp.clip(centre, 0, size - 1) - place)).astype(dtype)
    first, last = output * size // outputs, -(-(output + 1) * size // outputs)
    return (((place >= first) & (place < last)) / (last - first)).astype(dtype)


def _phases(outputs: tuple[int, ...], factors: Sizes, shifts: Sizes) -> Iterator[tuple[Tile, Tile]]:
    """For the first, second ... copy of the inputs: which inputs have it here, and where it lies."""
    axes = [list(_copies(*axis)) for axis in zip(outputs[1:-1], factors, shifts, strict=True)]
    for choice in itertools.product(*axes):
        places, copies = zip(*choice, strict=True)
        yield (slice(None), *places), (slice(None), *copies)


def _copies(outputs: int, factor: int, shift: int) -> Iterator[tuple[slice, slice]]:
    for copy in range(factor):
        start = (copy - shift) % factor
        place = (start + shift) // factor
        yield slice(place, place + len(range(start, outputs, factor))), slice(start, outputs, factor)
