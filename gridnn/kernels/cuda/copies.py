"""Packing, filling and resampling as CUDA kernels: one launch where the reference makes one for every box or phase."""

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
    spread,
    steps_of,
    struct,
    three,
    word,
)
from gridnn.kernels.cuda.module import CudaModule
from gridnn.kernels.cuda.reference import CupyReference
from gridnn.kernels.reference.copying import Box
from gridnn.kernels.reference.resampling import Pair, Ranges
from gridnn.kernels.taps import Sizes
from gridnn.kernels.tiles import Array


class CupyCopies(CupyReference):
    """The kernels of ``copies.cu``; they take arrays of at most five dimensions."""

    def __init__(self, xp: Any) -> None:
        super().__init__(xp)
        self._copies = CudaModule(xp, "copies.cu")

    # -- boxes -------------------------------------------------------------------------------------------------

    def pack(self, array: Array, boxes: Sequence[Box], flat: Array) -> None:
        if not _fits(array, flat):
            super().pack(array, boxes, flat)
            return
        for kind, words, batch in self._moves(array, boxes, flat):
            self._copies.launch("pack", (kind,), words, array, flat[batch.start :], batch.struct, words)

    def unpack(self, flat: Array, array: Array, boxes: Sequence[Box]) -> None:
        if not _fits(array, flat):
            super().unpack(flat, array, boxes)
            return
        for kind, words, batch in self._moves(array, boxes, flat):
            self._copies.launch("unpack", (kind,), words, flat[batch.start :], array, batch.struct, words)

    def add(self, flat: Array, array: Array, boxes: Sequence[Box]) -> None:
        if not _fits(array, flat):
            super().add(flat, array, boxes)
            return
        for batch in batches(array, boxes):
            place = flat[batch.start :]
            self._copies.launch("add", (array.dtype,), batch.size, place, array, batch.struct, batch.size)

    def fill(self, array: Array, boxes: Sequence[Box], value: float) -> None:
        if array.ndim > AXES:
            super().fill(array, boxes, value)
            return
        for batch in batches(array, boxes):
            self._copies.launch("fill", (array.dtype,), batch.size, array, float(value), batch.struct, batch.size)

    def _moves(self, array: Array, boxes: Sequence[Box], flat: Array) -> Iterator[tuple[str, int, Batch]]:
        """What every launch of a copy takes: the type of its words, how many there are, and the boxes."""
        width = box_word(array, boxes, self.address(array), self.address(flat))
        for batch in batches(array, boxes, width):
            bytes_each = width or array.itemsize
            yield WORDS[bytes_each], batch.size * array.itemsize // bytes_each, batch

    # -- resampling --------------------------------------------------------------------------------------------

    def repeat(self, x: Array, factors: Sizes, shifts: Sizes, out: Array) -> None:
        row = x.shape[-1] * x.itemsize
        widths = [word(array, self.address(array), row) for array in (x, out)]
        width = None if None in widths else min(widths)
        size = out.nbytes // (width or out.itemsize)
        copies = _copies(x, out, factors, shifts, width)
        self._copies.launch("repeat", (WORDS[width or x.itemsize],), size, x, out, copies, size)

    def repeat_grad(self, dy: Array, factors: Sizes, shifts: Sizes, out: Array) -> None:
        copies = _copies(out, dy, factors, shifts)
        self._copies.launch("repeat_grad", (out.dtype,), out.size, dy, out, copies, out.size)

    def resample(self, x: Array, dim: int, rule: str, extents: Pair, here: Ranges, out: Array) -> None:
        x, sampling = self.xp.ascontiguousarray(x), _sampling(rule, extents, here, math.prod(x.shape[dim + 1 :]))
        self._copies.launch("resample", (out.dtype,), out.size, x, out, sampling, out.size)

    def resample_grad(self, dy: Array, dim: int, rule: str, extents: Pair, here: Ranges, out: Array) -> None:
        dy, sampling = self.xp.ascontiguousarray(dy), _sampling(rule, extents, here, math.prod(dy.shape[dim + 1 :]))
        self._copies.launch("resample_grad", (out.dtype,), out.size, dy, out, sampling, out.size)


def _fits(array: Array, flat: Array) -> bool:
    return array.ndim <= AXES and array.dtype == flat.dtype


def _copies(x: Array, y: Array, factors: Sizes, shifts: Sizes, width: int | None = None) -> Any:
    each = 1 if width is None else width // x.itemsize
    return struct(
        COPIES,
        outputs=spread((*y.shape[:-1], y.shape[-1] // each), 1),
        inputs=spread((*x.shape[:-1], x.shape[-1] // each), 1),
        factor=three(factors),
        shift=(0,) * (3 - len(shifts)) + tuple(shifts),
        x=spread(steps_of(x, width), 0),
        y=spread(steps_of(y, width), 0),
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
