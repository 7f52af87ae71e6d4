"""Packing, filling and resampling as CUDA kernels: one launch where the reference makes one for every box or phase.

They take arrays of at most five dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from gridnn.kernels.cuda.descriptors import (
    AXES,
    COPIES,
    SAMPLING,
    WORDS,
    Batch,
    batches,
    box_word,
    five_axes,
    steps_of,
    struct,
    three_axes,
    word,
)
from gridnn.kernels.reference.copying import Box
from gridnn.kernels.reference.resampling import Pair, Ranges
from gridnn.kernels.table import Kernels, may_decline
from gridnn.kernels.taps import Sizes
from gridnn.kernels.tiles import Array

# -- boxes -------------------------------------------------------------------------------------------------


@may_decline
def pack(kernels, array, boxes, flat):
    if not _fits(array, flat):
        return NotImplemented
    for kind, words, batch in _moves(kernels, array, boxes, flat):
        kernels.cuda.copies.launch("pack", (kind,), words, array, flat[batch.start :], batch.struct, words)


@may_decline
def unpack(kernels, flat, array, boxes):
    if not _fits(array, flat):
        return NotImplemented
    for kind, words, batch in _moves(kernels, array, boxes, flat):
        kernels.cuda.copies.launch("unpack", (kind,), words, flat[batch.start :], array, batch.struct, words)


@may_decline
def add(kernels, flat, array, boxes):
    if not _fits(array, flat):
        return NotImplemented
    for batch in batches(array, boxes):
        place = flat[batch.start :]
        kernels.cuda.copies.launch("add", (array.dtype,), batch.size, place, array, batch.struct, batch.size)


@may_decline
def fill(kernels, array, boxes, value):
    if array.ndim > AXES:
        return NotImplemented
    for batch in batches(array, boxes):
        kernels.cuda.copies.launch("fill", (array.dtype,), batch.size, array, float(value), batch.struct, batch.size)


def _moves(kernels: Kernels, array: Array, boxes: Sequence[Box], flat: Array) -> Iterator[tuple[str, int, Batch]]:
    """What every launch of a copy takes: the type of its words, how many there are, and the boxes."""
    width = box_word(array, boxes, kernels.cuda.address(array), kernels.cuda.address(flat))
    for batch in batches(array, boxes, width):
        bytes_each = width or array.itemsize
        yield WORDS[bytes_each], batch.size * array.itemsize // bytes_each, batch


# -- resampling --------------------------------------------------------------------------------------------


def repeat(kernels, x, factors, shifts, out):
    row = x.shape[-1] * x.itemsize
    widths = [word(array, kernels.cuda.address(array), row) for array in (x, out)]
    width = None if None in widths else min(widths)
    size = out.nbytes // (width or out.itemsize)
    copies = _copies(x, out, factors, shifts, width)
    kernels.cuda.copies.launch("repeat", (WORDS[width or x.itemsize],), size, x, out, copies, size)


def repeat_grad(kernels, dy, factors, shifts, out):
    copies = _copies(out, dy, factors, shifts)
    kernels.cuda.copies.launch("repeat_grad", (out.dtype,), out.size, dy, out, copies, out.size)


def resample(kernels, x, dim, rule, extents, here, out):
    x, sampling = kernels.xp.ascontiguousarray(x), _sampling(rule, extents, here, math.prod(x.shape[dim + 1 :]))
    kernels.cuda.copies.launch("resample", (out.dtype,), out.size, x, out, sampling, out.size)


def resample_grad(kernels, dy, dim, rule, extents, here, out):
    dy, sampling = kernels.xp.ascontiguousarray(dy), _sampling(rule, extents, here, math.prod(dy.shape[dim + 1 :]))
    kernels.cuda.copies.launch("resample_grad", (out.dtype,), out.size, dy, out, sampling, out.size)


def _fits(array: Array, flat: Array) -> bool:
    return array.ndim <= AXES and array.dtype == flat.dtype


def _copies(x: Array, y: Array, factors: Sizes, shifts: Sizes, width: int | None = None) -> Any:
    each = 1 if width is None else width // x.itemsize
    return struct(
        COPIES,
        outputs=five_axes((*y.shape[:-1], y.shape[-1] // each), 1),
        inputs=five_axes((*x.shape[:-1], x.shape[-1] // each), 1),
        factor=three_axes(factors),
        shift=(0,) * (3 - len(shifts)) + tuple(shifts),
        x=five_axes(steps_of(x, width), 0),
        y=five_axes(steps_of(y, width), 0),
    )


def _sampling(rule: str, extents: Pair, here: Ranges, trail: int) -> Any:
    held, made = here
    return struct(
        SAMPLING,
        area=rule == "area",
        inputs=extents[0],
        outputs=extents[1],
        first_input=held[0],
        first_output=made[0],
        held_inputs=held[1] - held[0],
        held_outputs=made[1] - made[0],
        trail=trail,
    )
