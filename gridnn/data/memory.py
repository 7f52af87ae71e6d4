"""Data sets of arrays in memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gridnn.data.base import Dataset
from gridnn.data.stored import Stored
from gridnn.errors import UserError


def from_arrays(x: np.ndarray, y: np.ndarray | Sequence, classes: int | None = None, name: str = "arrays") -> Dataset:
    """Samples ``x`` and targets ``y`` as a data set; nothing is copied but what a rank reads.

    Parameters
    ----------
    x : array
        (n, features), or space and channels: (n, w, c), (n, h, w, c) or (n, d, h, w, c).
    y : array
        Integers are labels, of shape (n,) or (n, *space); floating-point numbers are numbers to be predicted.
    classes : int, optional
        How many classes there are; default: one more than the largest label.
    name : str
        What messages call it.

    Raises
    ------
    UserError
        If they do not fit each other, or a label is out of range.
    """
    x, y = np.asarray(x), np.asarray(y)
    for what, array in (("samples", x), ("targets", y)):
        if array.dtype.kind not in "fiub":
            raise UserError(f"{name}: the {what} are of type {array.dtype}; give integers or floating-point numbers")
    if y.dtype.kind == "f":
        return Stored(name, [x], [y[:, None] if y.ndim == 1 else y], None)
    return Stored(name, [x], [y], classes or 1 + int(y.max(initial=0)))
