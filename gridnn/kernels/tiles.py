"""How kernels divide arrays: pure integers, and views that are refused where they would copy."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

Array = Any
Tile = tuple[slice, ...]


def chunks(size: int, length: int) -> Iterator[slice]:
    """``size`` elements in runs of at most ``length``."""
    for start in range(0, size, max(1, length)):
        yield slice(start, min(size, start + max(1, length)))


def tiles(extents: tuple[int, ...], fit: int) -> Iterator[tuple[slice, ...]]:
    """An index space in boxes of at most ``fit`` elements (one, if ``fit`` is 0) that are each one run of rows.

    For (n, h, w): whole images where one fits, else whole lines of one image, else a part of a line.
    """
    if 0 in extents:
        return
    if not extents:
        yield ()
        return
    inner = math.prod(extents[1:])
    if inner <= fit or len(extents) == 1:
        for part in chunks(extents[0], fit // inner):
            yield (part, *(slice(0, size) for size in extents[1:]))
        return
    for i in range(extents[0]):
        for rest in tiles(extents[1:], fit):
            yield (slice(i, i + 1), *rest)


def carve(workspace: Array, shape: tuple[int, ...], start: int = 0) -> Array:
    """``shape`` elements of the flat ``workspace``, from ``start`` on; `ValueError` if it is too small."""
    size = math.prod(shape)
    if start + size > workspace.size:
        raise ValueError(f"workspace of {workspace.size} elements, but {start} + {size} are needed: give a larger one")
    return workspace[start : start + size].reshape(shape)


def matrix(array: Array) -> Array:
    """``array`` as [rows, columns], its last dimension being the columns (a view if rows are evenly spaced)."""
    return array.reshape(math.prod(array.shape[:-1]), array.shape[-1])


def evenly_spaced(array: Array) -> bool:
    """Whether the rows of ``array`` [..., columns] are evenly spaced, so that `matrix` is a view of it."""
    outer = [(size, step) for size, step in zip(array.shape[:-1], array.strides[:-1], strict=True) if size != 1]
    return all(step == size * inner for (_, step), (size, inner) in itertools.pairwise(outer))


def output_matrix(array: Array) -> Array:
    """``array`` as [rows, columns] to write into; `ValueError` if its rows are not evenly spaced: no such view."""
    if array.size and not evenly_spaced(array):
        raise ValueError(f"output of shape {array.shape} with strides {array.strides}: its rows are not evenly spaced")
    return matrix(array)
