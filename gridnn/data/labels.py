"""How many classes labels have, and what labels of another form are made of."""

from __future__ import annotations

import numpy as np

from gridnn.data.base import Dataset
from gridnn.errors import UserError

LOOKED_AT = 1000  # targets, to say what they may be meant as
SHOWN = 4  # labels in a message


def count_classes(name: str, *labels: np.ndarray) -> int:
    """One more than the largest of the labels, which are those of one or more parts of the data set ``name``.

    `UserError` if less than half of so many classes occur: that is a last layer which is wider than it should be.
    """
    classes = 1 + max(int(part.max(initial=0)) for part in labels)
    found = sorted(set().union(*(np.unique(part).tolist() for part in labels)))
    if found and found[0] >= 0 and 2 * len(found) < classes:
        some = ", ".join(str(int(label)) for label in found[:SHOWN]) + (", ..." if len(found) > SHOWN else "")
        raise UserError(
            f"{name}: {len(found)} of {classes:,} classes occur (the labels are {some}): number them 0 to "
            f"{len(found) - 1}, or say --classes {classes}"
        )
    return classes


def label_advice(targets: np.ndarray) -> str:
    """How to make labels of ``targets`` that look like labels in another form; nothing if they do not.

    Parameters
    ----------
    targets : array of numbers, shape (n, ...)
        Some of the targets.

    Examples
    --------
    >>> label_advice(np.array([[1.0], [3.0]]))
    'labels must be integers: y.astype(int)'
    >>> label_advice(np.array([[0, 1], [1, 0]]))
    'they are one-hot, but labels must be one integer each: y.argmax(-1)'
    >>> label_advice(np.array([0.5, 2.0]))
    ''
    """
    if not targets.size:
        return ""
    if targets.ndim > 1 and targets.shape[-1] > 1 and _is_one_hot(targets):
        return "they are one-hot, but labels must be one integer each: y.argmax(-1)"
    if targets.dtype.kind == "f" and (targets == np.rint(targets)).all() and targets.min() >= 0:
        return "labels must be integers: y.astype(int)"
    return ""


def advise_labels(dataset: Dataset) -> str:
    """`label_advice` on the first targets of a data set whose targets are numbers."""
    return label_advice(dataset.targets(np.arange(min(len(dataset), LOOKED_AT))))


def _is_one_hot(targets: np.ndarray) -> bool:
    return bool(((targets == 0) | (targets == 1)).all() and (targets.sum(-1) == 1).all())
