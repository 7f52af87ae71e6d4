"""Strided views: arrays of one shape with as few axes as possible, as the CUDA kernels take them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

AXES = 5  # of `Box` in kernels/cuda/common.cu
VECTOR = 4  # neighbours that a thread takes as one
ACCESS = 16  # bytes: the widest access of a thread

Steps = tuple[int, ...]


class StridedView(NamedTuple):
    """Arrays of one shape, as kernels take them."""

    struct: np.ndarray  # the ``Box`` of ``common.cu``: one element of a structured type, passed by value
    items: int  # how many items of ``vector`` neighbours there are
    vector: int  # 4, or 1 where the arrays cannot be read four neighbours at a time


class StridedViews:
    """Makes strided views, and keeps them: a step asks for the same ones every time.

    ``address`` gives that of an array's first element.
    """

    def __init__(self, address: Callable[[Any], int]):
        self._address = address
        self._kept: dict[tuple, StridedView | None] = {}

    def of(self, *arrays: Any, groups: int = 0) -> StridedView | None:
        """The view of ``arrays``; with ``groups``, four neighbours only where they divide that number, too.

        None where there is none: shapes that differ, more than 5 axes, strides that are no whole elements.
        """
        key = tuple(view_key(array, self._address(array)) for array in arrays)
        if (*key, groups) not in self._kept:
            self._kept[(*key, groups)] = self._made(key, groups)
        return self._kept[(*key, groups)]

    @staticmethod
    def _made(arrays: tuple, groups: int) -> StridedView | None:
        steps = element_steps(arrays)
        if steps is None:
            return None
        sizes, steps = collapsed(arrays[0][0], steps)
        widths = [min(ACCESS, VECTOR * itemsize) for _, _, itemsize, _ in arrays]
        aligned = all(at % width == 0 for (*_, at), width in zip(arrays, widths, strict=True))
        return strided_view(sizes, steps, VECTOR if aligned and groups % VECTOR == 0 and in_fours(sizes, steps) else 1)


def view_key(array: Any, address: int) -> tuple[Steps, Steps, int, int]:
    """What the view of an array depends on: shape, strides, bytes of an element, address modulo `ACCESS`."""
    return array.shape, array.strides, array.itemsize, address % ACCESS


def element_steps(arrays: Sequence[tuple[Steps, Steps, int, int]]) -> list[Steps] | None:
    """The strides, in elements, of arrays as by `view_key`; None if shapes differ, or strides are no whole elements."""
    if any(shape != arrays[0][0] for shape, *_ in arrays):
        return None
    if any(step % itemsize for _, strides, itemsize, _ in arrays for step in strides):
        return None
    return [tuple(step // itemsize for step in strides) for _, strides, itemsize, _ in arrays]


def collapsed(shape: Steps, steps: Sequence[Steps]) -> tuple[Steps, list[Steps]]:
    """The same elements in row-major order with as few axes as possible, at least one.

    ``steps`` has, for every array, its strides in elements.
    """
    axes = [(size, [own[d] for own in steps]) for d, size in enumerate(shape) if size != 1]
    merged: list[tuple[int, list[int]]] = []
    for size, inner in axes:
        if merged and all(outer == size * step for outer, step in zip(merged[-1][1], inner, strict=True)):
            merged[-1] = (merged[-1][0] * size, inner)
        else:
            merged.append((size, inner))
    merged = merged or [(1, [1] * len(steps))]
    return tuple(size for size, _ in merged), [tuple(inner[n] for _, inner in merged) for n in range(len(steps))]


def in_fours(sizes: Steps, steps: Sequence[Steps]) -> bool:
    """Whether the last axis is contiguous everywhere, and every row of it starts and ends at a multiple of four."""
    whole = all(own[-1] == 1 and all(step % VECTOR == 0 for step in own[:-1]) for own in steps)
    return whole and sizes[-1] % VECTOR == 0


def strided_view(sizes: Steps, steps: Sequence[Steps], vector: int = 1) -> StridedView | None:
    """The view of collapsed axes; None if there are too many."""
    if len(sizes) > AXES:
        return None
    counts = (*sizes[:-1], sizes[-1] // vector)
    kind = np.dtype([("axes", np.int64), ("size", np.int64, AXES), ("step", np.int64, (len(steps), AXES))])
    struct = np.zeros(1, kind)
    struct["axes"] = len(counts)
    struct["size"][0, : len(counts)] = counts[::-1]
    for n, own in enumerate(steps):
        struct["step"][0, n, : len(counts)] = (*own[:-1], own[-1] * vector)[::-1]
    return StridedView(struct, math.prod(counts), vector)
