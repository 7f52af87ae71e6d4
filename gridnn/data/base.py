"""What a data set is: samples that can be read box by box, and their targets."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from gridnn.errors import UserError
from gridnn.layout.layout import Box

MOST_COLOURS = 4  # channels of pictures: grey, RGB, and with transparency


class Dataset(ABC):
    """Samples by index.

    Attributes
    ----------
    name : str
        What messages call it.
    sample_shape : tuple of int
        ``(features,)``, ``(w, c)``, ``(h, w, c)`` or ``(d, h, w, c)``.
    classes : int or None
        The number of classes; None if the targets are numbers (regression).
    target_shape : tuple of int
        The shape of one target: ``()`` for a label, the space of the sample for a label a voxel, any for numbers.
    """

    name: str
    sample_shape: tuple[int, ...]
    classes: int | None
    target_shape: tuple[int, ...] = ()

    @abstractmethod
    def __len__(self) -> int:
        """The number of samples."""

    def input(self, source: str) -> Dataset:
        """What the input ``source`` of a network reads of the samples: of a set with one array of them, that."""
        return self

    @abstractmethod
    def read(self, indices: np.ndarray, box: Box, out: np.ndarray, step: int = 0) -> None:
        """Write the part ``box`` (one range per dimension of a sample) of the samples ``indices`` into ``out``.

        Parameters
        ----------
        indices : array of int64, shape (n,)
        box : tuple of (start, stop)
            Nothing outside of it is read.
        out : array of float32 or float64, shape (n, *extents of box), contiguous
        step : int
            The training step that it is for, which names the random numbers of augmentation; 0 for none.

        Raises
        ------
        UserError
            If a number in it is not finite or the sample cannot be read; the text names it.
        """

    @abstractmethod
    def targets(self, indices: np.ndarray, box: Box | None = None) -> np.ndarray:
        """The part ``box`` of the targets of the samples ``indices``.

        Parameters
        ----------
        indices : array of int64, shape (n,)
        box : tuple of (start, stop), optional
            One range per dimension of a target; None for all of it. Nothing outside of it is read.

        Returns
        -------
        array
            int64 for labels, otherwise float; of shape (n, *extents of box).

        Raises
        ------
        UserError
            If a label is out of range; the text names the sample.
        """


class Subset(Dataset):
    """The samples ``rows`` of another data set, which messages number as that one does."""

    def __init__(self, whole: Dataset, rows: np.ndarray):
        self.name, self.sample_shape = whole.name, whole.sample_shape
        self.classes, self.target_shape = whole.classes, whole.target_shape
        self._whole, self._rows = whole, rows

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, indices: np.ndarray, box: Box, out: np.ndarray, step: int = 0) -> None:
        self._whole.read(self._rows[indices], box, out, step)

    def targets(self, indices: np.ndarray, box: Box | None = None) -> np.ndarray:
        return self._whole.targets(self._rows[indices], box)


@dataclass(frozen=True)
class Data:
    """A training set and a test set.

    Attributes
    ----------
    class_names : tuple of str
        What the classes are called, where they have names.
    left_out : tuple of str
        What of the files is not read, and why.
    """

    train: Dataset
    test: Dataset
    name: str
    class_names: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def notes(self) -> list[str]:
        """What the user should know before a run: what is left out, and that the channels seem to come first."""
        shape, notes = self.train.sample_shape, list(self.left_out)
        if len(shape) < 3 or shape[0] not in (1, 3) or shape[-1] <= MOST_COLOURS:
            return notes
        moved = ", ".join(map(str, (0, *range(2, len(shape) + 1), 1)))
        return [
            *notes,
            f"samples of {format_shape(shape)} have {shape[-1]} channels, the last size; if the channels are the first "
            f"one, {shape[0]}, write x.transpose({moved})",
        ]


def check_finite(values: np.ndarray, indices: np.ndarray, name: str) -> None:
    """Refuse NaN and infinity in ``values``, the first dimension of which runs over the samples ``indices``.

    The `UserError` names the first such sample.
    """
    # Minimum and maximum pass NaN on, and need no temporary of the size of the values.
    if not values.size or (np.isfinite(values.min()) and np.isfinite(values.max())):
        return
    bad = indices[next(i for i, sample in enumerate(values) if not np.isfinite(sample).all())]
    raise UserError(f"{name}: sample {bad} holds a number that is not finite (NaN or infinity); mend or remove it")


def check_labels(labels: np.ndarray, indices: np.ndarray, classes: int, name: str) -> None:
    """Refuse labels outside of 0 to ``classes`` - 1; their first dimension runs over the samples ``indices``.

    The `UserError` names the first sample that has one, and its label.
    """
    wrong = np.argwhere((labels < 0) | (labels >= classes))
    if wrong.size:
        label, index = labels[tuple(wrong[0])], indices[wrong[0][0]]
        raise UserError(
            f"{name}: sample {index} has the label {label}, but {classes} classes have the labels 0 to {classes - 1}; "
            "mend the labels, or give the right --classes where the data set does not fix them"
        )


def check_size(path: object, size: int, count: int, each: int, what: str, before: int = 0) -> None:
    """Refuse a file whose ``size`` in bytes is not ``before + count * each``: a `UserError` with the equation."""
    if size != before + count * each:
        header = f"{before} + " if before else ""
        raise UserError(
            f"{path} has {size} bytes, but {header}{count} {what} x {each} bytes = {before + count * each}: "
            "the file is damaged or not the right one; fetch it again"
        )


def whole(shape: tuple[int, ...]) -> Box:
    """The box that is everything of ``shape``."""
    return tuple((0, size) for size in shape)


def format_shape(shape: tuple[int, ...]) -> str:
    """``(28, 28, 1)`` as ``28x28x1``."""
    return "x".join(map(str, shape)) if shape and math.prod(shape) else str(tuple(shape))
