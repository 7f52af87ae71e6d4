"""Random numbers keyed by the global index, and dropout, as one CUDA kernel each."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from gridnn.kernels import random
from gridnn.kernels.cuda.module import FLOATS, CudaModule
from gridnn.kernels.cuda.strided import Box, boxed, collapsed
from gridnn.kernels.reference.kernels import ReferenceKernels
from gridnn.kernels.tiles import Array

ORIGIN = np.dtype([("seed", np.uint64), ("start", np.int64), ("index_step", np.int64)])


class Walk(NamedTuple):
    """Arrays and the global index beside them, for the kernels of random.cu.

    Attributes
    ----------
    box : Box
        Of the arrays, the global index, and the place along the dimension of the array of indices.
    origin : numpy.ndarray
        The ``Origin`` of random.cu.
    index : array or None
        The array of indices.
    """

    box: Box
    origin: np.ndarray
    index: Array | None


class CupyDraws(ReferenceKernels):
    """CUDA forms of `Draws`, the same bits; selections with several arrays of indices are left to the reference."""

    def __init__(self, xp: Any):
        super().__init__(xp)
        self._draws = CudaModule(xp, "random.cu")

    def uniform(self, key: tuple[int, ...], box: random.Selection, shape: tuple[int, ...], out: Array) -> None:
        walk = walked(key, box, shape, (out,))
        if walk is None:
            super().uniform(key, box, shape, out)
            return
        args = (walk.box.items, walk.box.struct, walk.origin, walk.index, out)
        self._draws.launch("uniform", (out.dtype,), walk.box.items, *args)

    def dropout(
        self, x: Array, p: float, key: tuple[int, ...], box: random.Selection, shape: tuple[int, ...], mask: Array,
        out: Array,
    ) -> None:  # fmt: skip
        walk = walked(key, box, shape, (x, mask, out))
        if walk is None:
            super().dropout(x, p, key, box, shape, mask, out)
            return
        args = (walk.box.struct, walk.origin, walk.index, float(p), 1 / (1 - p), x, mask, out)
        self._draws.launch("dropout", (x.dtype,), walk.box.items, walk.box.items, *args)


def walked(
    key: tuple[int, ...], box: random.Selection, shape: tuple[int, ...], arrays: tuple[Array, ...]
) -> Walk | None:
    """How ``arrays``, which are the part ``box`` of tensors of ``shape``, are walked through; None: no kernel can."""
    dtype, extents = arrays[0].dtype, arrays[0].shape
    indexed = [axis for axis, part in enumerate(box) if not isinstance(part, tuple)]
    if len(indexed) > 1 or dtype.name not in FLOATS or any(a.dtype != dtype or a.shape != extents for a in arrays):
        return None
    if any(box[axis].dtype != np.int64 or not box[axis].flags.c_contiguous for axis in indexed):
        return None
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    places = tuple(int(axis in indexed) for axis in range(len(shape)))
    between = tuple(0 if axis in indexed else stride for axis, stride in enumerate(strides))
    steps = [tuple(step // a.itemsize for step in a.strides) for a in arrays]
    made = boxed(*collapsed(extents, [*steps, between, places]))
    if made is None:
        return None
    start = sum(part[0] * stride for part, stride in zip(box, strides, strict=True) if isinstance(part, tuple))
    origin = np.zeros(1, ORIGIN)
    origin[0] = (random.seed_of(key), start, strides[indexed[0]] if indexed else 0)
    return Walk(made, origin, box[indexed[0]] if indexed else None)
