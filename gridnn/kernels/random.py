"""Random numbers keyed by (key, global index): every rank makes its own part, and any grid gets the same tensor.

Element ``i`` (its flat index in the global tensor) is the ``i``-th output of SplitMix64 (Steele, Lea and Flood, OOPSLA
2014) started at a state hashed from the key.  The state of SplitMix64 is a counter, so any element costs the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

Box = tuple[tuple[int, int], ...]
Selection = tuple[Any, ...]  # for every dimension a range (start, stop), or an array of indices

MASK = (1 << 64) - 1
GAMMA = 0x9E3779B97F4A7C15
MIXERS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
PIECE = 1 << 16  # elements made at once: their 64-bit integers stay in the cache


def uniform(xp, key: tuple[int, ...], box: Selection, shape: tuple[int, ...], dtype=None, out: Any = None) -> Any:
    """The part ``box`` of a tensor of ``shape``, of fewer than 2^63 independent uniform numbers in [0, 1).

    Parameters
    ----------
    key : tuple of int
        Names the tensor, e.g. (seed, layer, step); each is taken modulo 2**64.
    box : tuple of (start, stop) or array of int64
        A range or indices along every dimension; only these are made.
    dtype : dtype, optional
        Of a new array: float64 (the default; 53 random bits) or float32 (the leading 24 of them).
    out : array, optional
        Where to put the numbers; its shape is that of ``box``.
    """
    if out is None:
        out = xp.empty(extents(box), dtype=dtype or xp.float64)
    seed = seed_of(key)
    bits = 53 if out.dtype.itemsize == 8 else 24
    for piece in pieces(tuple((0, extent) for extent in extents(box))):
        words = _hash(xp, flat_index(xp, box, piece, shape), seed)
        words >>= xp.uint64(64 - bits)
        values = words.reshape(tuple(stop - start for start, stop in piece))
        target = out[(*(slice(*p) for p in piece), ...)]
        xp.multiply(values, 2.0**-bits, out=target, casting="same_kind")
    return out


def seed_of(key: tuple[int, ...]) -> int:
    """The 64-bit seed that stands for ``key``."""
    seed = 0
    for word in key:
        seed = ((seed ^ (word & MASK)) + GAMMA) & MASK
        for shift, factor in MIXERS:
            seed = ((seed ^ (seed >> shift)) * factor) & MASK
        seed ^= seed >> 31
    return seed


def pieces(box: Box) -> Iterator[Box]:
    """``box`` halved along its first long axis until the pieces are small."""
    if math.prod(stop - start for start, stop in box) <= PIECE:
        yield box
        return
    axis = next(i for i, (start, stop) in enumerate(box) if stop - start > 1)
    start, stop = box[axis]
    middle = (start + stop) // 2
    yield from pieces((*box[:axis], (start, middle), *box[axis + 1 :]))
    yield from pieces((*box[:axis], (middle, stop), *box[axis + 1 :]))


def extents(box: Selection) -> tuple[int, ...]:
    """The shape of the part ``box``."""
    return tuple(part[1] - part[0] if isinstance(part, tuple) else len(part) for part in box)


def flat_index(xp, box: Selection, piece: Box, shape: tuple[int, ...]):
    """The global flat index of every element of the ``piece`` of ``box``, one dimension at the least, as uint64."""
    index = xp.zeros((1,) * max(1, len(box)), dtype=xp.uint64)
    stride = math.prod(shape)
    for axis, (part, (start, stop), size) in enumerate(zip(box, piece, shape, strict=True)):
        stride //= max(1, size)
        if isinstance(part, tuple):
            steps = xp.arange(stop - start, dtype=xp.uint64) * xp.uint64(stride)
            steps += xp.uint64((part[0] + start) * stride)
        else:
            steps = part[start:stop].astype(xp.uint64) * xp.uint64(stride)
        index = index + steps.reshape((-1,) + (1,) * (len(box) - axis - 1))
    return index


def _hash(xp, index, seed: int):
    """Output ``index`` of SplitMix64 from the state ``seed``."""
    words = index * xp.uint64(GAMMA)
    words += xp.uint64((seed + GAMMA) & MASK)
    for shift, factor in MIXERS:
        words ^= words >> xp.uint64(shift)
        words *= xp.uint64(factor)
    words ^= words >> xp.uint64(31)
    return words
