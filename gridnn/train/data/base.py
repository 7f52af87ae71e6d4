"""What a data set is: samples that can be read box by box, and their targets."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from gridnn.errors import UserError

Box = tuple[tuple[int, int], ...]


class Dataset(ABC):
    """Samples by index.

    Attributes
    ----------
    name : str
        What messages call it.
    sample_shape : tuple of int
        ``(h, w, c)`` or ``(features,)``.
    classes : int or None
        The number of classes; None if the targets are numbers (regression).
    target_shape : tuple of int
        The shape of one target, ``()`` for a label.
    """

    name: str
    sample_shape: tuple[int, ...]
    classes: int | None
    target_shape: tuple[int, ...] = ()

    @abstractmethod
    def __len__(self) -> int:
        """The number of samples."""

    @abstractmethod
    def read(self, indices: np.ndarray, box: Box, out: np.ndarray) -> None:
        """Write the part ``box`` (one range per dimension of a sample) of the samples ``indices`` into ``out``.

        Parameters
        ----------
        indices : array of int64, shape (n,)
        box : tuple of (start, stop)
            Nothing outside of it is read.
        out : array of float32 or float64, shape (n, *extents of box)

        Raises
        ------
        UserError
            If a number in it is not finite; the text names the sample.
        """

    @abstractmethod
    def targets(self, indices: np.ndarray) -> np.ndarray:
        """The targets of the samples ``indices``.

        Returns
        -------
        array
            int64 of shape (n,) for labels, otherwise float of shape (n, *target_shape).

        Raises
        ------
        UserError
            If a label is out of range; the text names the sample.
        """


@dataclass(frozen=True)
class Data:
    """A training set and a test set."""

    train: Dataset
    test: Dataset
    name: str


def check_finite(values: np.ndarray, indices: np.ndarray, name: str) -> None:
    """Refuse NaN and infinity in ``values``, the first dimension of which runs over the samples ``indices``.

    Raises
    ------
    UserError
        Naming the first such sample.
    """
    # Minimum and maximum pass NaN on, and need no temporary of the size of the values.
    if not values.size or (np.isfinite(values.min()) and np.isfinite(values.max())):
        return
    bad = indices[next(i for i, sample in enumerate(values) if not np.isfinite(sample).all())]
    raise UserError(f"{name}: sample {bad} holds a number that is not finite (NaN or infinity); mend or remove it")


def check_labels(labels: np.ndarray, indices: np.ndarray, classes: int, name: str) -> None:
    """Refuse labels outside of 0 to ``classes`` - 1.

    Raises
    ------
    UserError
        Naming the first sample that has one, and its label.
    """
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if wrong.size:
        label, index = labels[wrong[0]], indices[wrong[0]]
        raise UserError(
            f"{name}: sample {index} has the label {label}, but {classes} classes have the labels 0 to {classes - 1}; "
            "mend the labels, or give the right --classes where the data set does not fix them"
        )


def check_size(path: object, size: int, count: int, each: int, what: str, before: int = 0) -> None:
    """Refuse a file whose ``size`` in bytes is not ``before + count * each``.

    Raises
    ------
    UserError
        With the equation.
    """
    if size != before + count * each:
        header = f"{before} + " if before else ""
        raise UserError(
            f"{path} has {size} bytes, but {header}{count} {what} x {each} bytes = {before + count * each}: "
            "the file is damaged or not the right one; fetch it again"
        )


def extents(box: Box) -> tuple[int, ...]:
    """The shape of a box."""
    return tuple(stop - start for start, stop in box)


def format_shape(shape: tuple[int, ...]) -> str:
    """``(28, 28, 1)`` as ``28x28x1``."""
    return "x".join(map(str, shape)) if shape and math.prod(shape) else str(tuple(shape))
