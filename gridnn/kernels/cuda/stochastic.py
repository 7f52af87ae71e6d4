"""Random numbers keyed by the global index, and dropout, as one CUDA kernel each.

They have the bits of the reference; selections with several arrays of indices are left to it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from gridnn.kernels import random
from gridnn.kernels.cuda.module import FLOATS
from gridnn.kernels.cuda.strided import StridedView, collapsed, strided_view
from gridnn.kernels.table import may_decline
from gridnn.kernels.tiles import Array

ORIGIN = np.dtype([("seed", np.uint64), ("start", np.int64), ("index_step", np.int64)])


class IndexedView(NamedTuple):
    """Arrays and the global index beside them, for the kernels of random.cu."""

    strided: StridedView  # of the arrays, the global index, and the place along the dimension of the array of indices
    origin: np.ndarray  # the ``Origin`` of random.cu
    index: Array | None  # the array of indices


@may_decline
def uniform(kernels, key, box, shape, out):
    view = indexed_view(key, box, shape, (out,))
    if view is None:
        return NotImplemented
    args = (view.strided.items, view.strided.struct, view.origin, view.index, out)
    kernels.cuda.random.launch("uniform", (out.dtype,), view.strided.items, *args)


@may_decline
def dropout(kernels, x, p, key, box, shape, mask, out):
    view = indexed_view(key, box, shape, (x, mask, out))
    if view is None:
        return NotImplemented
    args = (view.strided.struct, view.origin, view.index, float(p), 1 / (1 - p), x, mask, out)
    kernels.cuda.random.launch("dropout", (x.dtype,), view.strided.items, view.strided.items, *args)


def indexed_view(
    key: tuple[int, ...], box: random.Selection, shape: tuple[int, ...], arrays: tuple[Array, ...]
) -> IndexedView | None:
    """How ``arrays``, which are the part ``box`` of tensors of ``shape``, are seen by kernels; None: none can."""
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
    made = strided_view(*collapsed(extents, [*steps, between, places]))
    if made is None:
        return None
    start = sum(part[0] * stride for part, stride in zip(box, strides, strict=True) if isinstance(part, tuple))
    origin = np.zeros(1, ORIGIN)
    origin[0] = (random.seed_of(key), start, strides[indexed[0]] if indexed else 0)
    return IndexedView(made, origin, box[indexed[0]] if indexed else None)
