"""Data sets of arrays in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from gridnn.data.base import Box, Dataset
from gridnn.data.stored import Stored
from gridnn.errors import UserError, unknown


class MultiInput(Dataset):
    """Samples of several parts, by the names of the inputs that read them.

    Parameters
    ----------
    parts : mapping of str to Dataset
        As many samples each; the targets are those of the first one.

    """

    def __init__(self, name: str, parts: Mapping[str, Dataset]) -> None:
        self.name, self.parts = name, dict(parts)
        self.first = next(iter(self.parts.values()))
        self.sample_shape, self.target_shape, self.classes = (
            self.first.sample_shape,
            self.first.target_shape,
            self.first.classes,
        )

    def __len__(self) -> int:
        return len(self.first)

    def input(self, source: str) -> Dataset:
        """The part that the input ``source`` reads.

        Raises
        ------
        UserError
            If there is none of this name.
        """
        if source not in self.parts:
            raise unknown("input", source, self.parts)
        return self.parts[source]

    def read(self, indices: np.ndarray, box: Box, out: np.ndarray, step: int = 0) -> None:
        self.first.read(indices, box, out, step)

    def targets(self, indices: np.ndarray, box: Box | None = None) -> np.ndarray:
        return self.first.targets(indices, box)


def from_arrays(
    x: np.ndarray | Mapping[str, np.ndarray],
    y: np.ndarray | Sequence,
    classes: int | None = None,
    name: str = "arrays",
) -> Dataset:
    """Samples ``x`` and targets ``y`` as a data set; nothing is copied but what a rank reads.

    Parameters
    ----------
    x : array, or mapping of str to array
        (n, features), or space and channels: (n, w, c), (n, h, w, c) or (n, d, h, w, c); of several inputs by name.
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
    if isinstance(x, Mapping):
        return MultiInput(name, {key: from_arrays(part, y, classes, f"{name}: {key}") for key, part in x.items()})
    x, y = np.asarray(x), np.asarray(y)
    for what, array in (("samples", x), ("targets", y)):
        if array.dtype.kind not in "fiub":
            raise UserError(f"{name}: the {what} are of type {array.dtype}; give integers or floating-point numbers")
    if y.dtype.kind == "f":
        return Stored(name, [x], [y[:, None] if y.ndim == 1 else y], None)
    return Stored(name, [x], [y], classes or 1 + int(y.max(initial=0)))
