"""A checksum of a tensor that does not depend on how it is divided: the sum over its elements of key(index) * bits.

Every rank adds up its own part, and the sums of all parts, modulo 2^64, are the checksum of the whole on any grid. A
key is an odd 64-bit number made from the element's global index, and an element counts as words of at most 32 bits
(multilinear hashing, Lemire and Kaser 2014): a changed element always changes the checksum, and any other damage goes
unseen with a probability of about 2^-32. It finds accidents, not forgeries.
"""

from __future__ import annotations

from typing import Any

from gridnn.kernels.random import GAMMA, MIXERS, flat_index, pieces

HALF = 0xFFFFFFFF


def checksum(backend: Any, array: Any, box: tuple[tuple[int, int], ...], shape: tuple[int, ...]) -> int:
    """The share of a rank's part ``box``, of 2, 4 or 8 bytes an element, in the checksum of a tensor of ``shape``.

    It is below 2^64, and to be added modulo 2^64.
    """
    xp = backend.xp
    bits = array.view(f"uint{8 * array.itemsize}")
    total = xp.zeros((1,), dtype=xp.uint64)
    for piece in pieces(tuple((0, stop - start) for start, stop in box)):
        index = flat_index(xp, box, piece, shape)
        words = bits[(*(slice(*p) for p in piece), ...)].astype(xp.uint64)
        if array.itemsize == 8:
            index *= xp.uint64(2)
            total += xp.sum(_keys(xp, index + xp.uint64(1)) * (words >> xp.uint64(32)))
            words &= xp.uint64(HALF)
        total += xp.sum(_keys(xp, index) * words)
    return int(backend.to_host(total)[0])


def _keys(xp: Any, index: Any) -> Any:
    """An odd 64-bit number for every index: one round of SplitMix64; overwrites ``index``."""
    shift, factor = MIXERS[0]
    index += xp.uint64(1)
    index *= xp.uint64(GAMMA)
    index ^= index >> xp.uint64(shift)
    index *= xp.uint64(factor)
    index ^= index >> xp.uint64(MIXERS[1][0])
    index |= xp.uint64(1)
    return index
