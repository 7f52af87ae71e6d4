"""Sums over rows by CUDA kernels: in float64, in a few launches, the same in every run."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from gridnn.kernels.cuda.module import FLOATS, CudaModule
from gridnn.kernels.cuda.strided import ACCESS, VECTOR, collapsed, element_steps, strided_view, view_key
from gridnn.kernels.tiles import Array

THREADS = 1 << 16  # of the first launch: enough to keep the memory of a large GPU busy
LEAST_ROWS = 16  # that a thread adds, if there are enough
FAN = 64  # chunks that a thread of the later launches adds
PARTIAL_SUMS = 1 << 20  # float64 sums of chunks: at least twice THREADS * VECTOR * 2
COUNTS = {"Sum": 1, "Moments": 2, "MomentsGrad": 2}


class RowView(NamedTuple):
    """One or two arrays [..., c] as rows: `row_sums` in rows.cu says what is what."""

    box: np.ndarray
    rows: int
    chunks: int
    groups: int
    apart: tuple[int, ...]
    vector: int


class RowSums:
    """Sums over the rows of arrays [..., c]; ``address`` gives that of an array's first element.

    The sums of the chunks lie in memory of their own, which is kept: all launches are on one stream, so the next sum
    may overwrite it, and a captured graph finds it where it was.
    """

    def __init__(self, xp: Any, address: Callable[[Array], int]):
        self._xp, self._address = xp, address
        self._kernels = CudaModule(xp, "rows.cu")
        self._kept: dict[tuple, RowView | None] = {}
        self._partial: Array | None = None

    def add(self, rule: str, arrays: tuple[Array, ...], shift: Array | None, out: Array) -> bool:
        """Write the sums over the rows of ``arrays`` (x, or x and dy) by ``rule`` to ``out``; False: it cannot."""
        width, others = COUNTS[rule] * arrays[0].shape[-1], (out,) if shift is None else (out, shift)
        if not all(array.dtype.name in FLOATS for array in (*arrays, out)):
            return False
        if not all(array.flags.c_contiguous for array in others) or any(a.dtype != np.float64 for a in others[1:]):
            return False
        rows = self._rows(arrays)
        if rows is None or width > PARTIAL_SUMS // 2:
            return False
        if self._partial is None:
            self._partial = self._xp.empty(PARTIAL_SUMS, dtype="float64")
        x, dy = arrays[0], arrays[-1]  # the same where there is no dy, which is not read then
        items, types = rows.chunks * rows.groups, (rule, x.dtype, dy.dtype, rows.vector)
        args = (rows.rows, rows.chunks, rows.groups, rows.apart[0], rows.apart[-1], x, dy, shift, self._partial)
        self._kernels.launch("row_sums", types, items, items, rows.box, *args)
        self._fold(rows.chunks, width, out)
        return True

    def _fold(self, chunks: int, width: int, out: Array) -> None:
        """Add the sums of ``chunks`` chunks, ``width`` numbers each."""
        partial = self._partial
        while chunks > FAN:
            fewer, rest = -(-chunks // FAN), partial[chunks * width :]
            self._kernels.launch("fold", ("double",), fewer * width, fewer * width, chunks, width, partial, rest)
            chunks, partial = fewer, rest
        self._kernels.launch("fold", (out.dtype,), width, width, chunks, width, partial, out)

    def _rows(self, arrays: tuple[Array, ...]) -> RowView | None:
        key = tuple(view_key(array, self._address(array)) for array in arrays)
        if key not in self._kept:
            self._kept[key] = row_view(key)
        return self._kept[key]


def row_view(arrays: tuple[tuple, ...]) -> RowView | None:
    """Arrays, as by `view_key`, as rows; None: there is no such view."""
    shape = arrays[0][0]
    steps = element_steps(arrays)
    if steps is None:
        return None
    sizes, between = collapsed(shape[:-1], [own[:-1] for own in (*steps, *steps)[:2]])
    box = strided_view(sizes, between)
    if box is None:
        return None
    aligned = all(at % min(ACCESS, VECTOR * itemsize) == 0 for _, _, itemsize, at in arrays)
    fours = all(step % VECTOR == 0 for own in between for step in own) or math.prod(shape[:-1]) <= 1
    contiguous = all(own[-1] == 1 for own in steps)
    vector = VECTOR if aligned and fours and contiguous and shape[-1] % VECTOR == 0 else 1
    rows, groups = math.prod(shape[:-1]), shape[-1] // vector
    chunks = max(1, min(-(-rows // LEAST_ROWS), THREADS // max(1, groups)))
    return RowView(box.struct, rows, chunks, groups, tuple(own[-1] for own in steps), vector)
