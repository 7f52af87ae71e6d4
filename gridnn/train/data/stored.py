"""Data sets whose samples lie in arrays: in memory, or mapped from files."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gridnn.errors import UserError
from gridnn.train.data.base import Box, Dataset, check_finite, check_labels, format_shape


class Stored(Dataset):
    """Samples and targets in one or more arrays, one after the other.

    Parameters
    ----------
    name : str
        What messages call it.
    samples, targets : sequence of array
        Shapes (n, h, w, c) or (n, features), and (n,) for labels (integers) or (n, k) for numbers. Memory maps and
        views with any strides: only what is asked for is touched.
    classes : int or None
        None: the targets are numbers.
    scale : float
        What the samples are multiplied by.
    mean, std : sequence of float
        Of the scaled samples, one for all channels or one for each: what is read is ``(scale * x - mean) / std``.

    Raises
    ------
    UserError
        If the arrays do not fit each other.
    """

    def __init__(
        self,
        name: str,
        samples: Sequence[np.ndarray],
        targets: Sequence[np.ndarray],
        classes: int | None,
        *,
        scale: float = 1.0,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
    ):
        for x, y in zip(samples, targets, strict=True):
            check_pair(name, x, y)
        self.name, self.classes = name, classes
        self._samples, self._targets = samples, targets
        self.sample_shape = samples[0].shape[1:]
        self.target_shape = () if classes is not None else targets[0].shape[1:]
        channels = self.sample_shape[-1]
        self._factor = scale / np.broadcast_to(std, channels).astype(np.float64)
        self._shift = np.broadcast_to(np.divide(mean, std), channels).astype(np.float64)
        self._starts = np.cumsum([0, *(len(part) for part in samples)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def read(self, indices: np.ndarray, box: Box, out: np.ndarray) -> None:
        within = (slice(None), *(slice(*interval) for interval in box))
        for part, start in zip(self._samples, self._starts, strict=False):
            here = (indices >= start) & (indices < start + len(part))
            if here.any():
                out[here] = part[within][indices[here] - start]  # the view first: only the box is read
        channels = slice(*box[-1])
        if (self._factor != 1).any():
            out *= self._factor[channels].astype(out.dtype)
        if self._shift.any():
            out -= self._shift[channels].astype(out.dtype)
        if self._samples[0].dtype.kind == "f":
            check_finite(out, indices, self.name)

    def targets(self, indices: np.ndarray) -> np.ndarray:
        labels = self.classes is not None
        dtype = np.int64 if labels else self._targets[0].dtype
        out = np.empty((len(indices), *self.target_shape), dtype)
        for part, start in zip(self._targets, self._starts, strict=False):
            here = (indices >= start) & (indices < start + len(part))
            out[here] = part[indices[here] - start]
        if labels:
            check_labels(out, indices, self.classes, self.name)
        else:
            check_finite(out, indices, f"{self.name}, targets")
        return out


def check_pair(name: str, samples: np.ndarray, targets: np.ndarray) -> None:
    """Refuse samples and targets that do not fit.

    Raises
    ------
    UserError
        If there are none, or not as many of both, or a shape is none of a sample.
    """
    if samples.ndim not in (2, 4) or not samples.size:
        raise UserError(
            f"{name}: the samples have the shape {format_shape(samples.shape)}; "
            "give at least one: (samples, height, width, channels) or (samples, features)"
        )
    if len(samples) != len(targets):
        raise UserError(f"{name}: {len(samples)} samples, but {len(targets)} targets; there must be as many")
