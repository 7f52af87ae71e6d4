"""Data sets whose samples lie in arrays: in memory, or in files of which parts are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from gridnn.data.base import Box, Dataset, check_finite, check_labels, format_shape, whole
from gridnn.data.scaling import Scaling
from gridnn.data.sources import Held, Source
from gridnn.errors import UserError
from gridnn.layout.layout import box_shape

SHAPES = "(samples, features), or space and channels: (samples, w, c), (samples, h, w, c) or (samples, d, h, w, c)"


class Stored(Dataset):
    """Samples and targets in one or more arrays or sources, one after the other; `UserError` if they do not fit.

    Samples have the shape (n, features), (n, w, c), (n, h, w, c) or (n, d, h, w, c). Targets are labels (integers) of
    shape (n,) or (n, *space), or numbers of any shape: then ``classes`` is None. Of files and views only what is asked
    for is touched. ``scale``, ``mean`` and ``std`` are those of `Scaling`.
    """

    def __init__(
        self,
        name: str,
        samples: Sequence[np.ndarray | Source],
        targets: Sequence[np.ndarray | Source],
        classes: int | None,
        *,
        scale: float = 1.0,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
    ):
        for x, y in zip(samples, targets, strict=True):
            check_pair(name, x, y)
        self.name, self.classes = name, classes
        self._samples, self._targets = _sources(samples), _sources(targets)
        self.sample_shape, self.target_shape = samples[0].shape[1:], targets[0].shape[1:]
        self._scaling = Scaling(self.sample_shape[-1], scale, mean, std)
        self._starts = np.cumsum([0, *(x.shape[0] for x in samples)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def read(self, indices: np.ndarray, box: Box, out: np.ndarray, step: int = 0) -> None:
        for source, rows, places in self._parts(self._samples, indices):
            source.read(rows, box, out, places)
        self._scaling.apply(out, box[-1])
        if self._samples[0].dtype.kind == "f":
            check_finite(out, indices, self.name)

    def targets(self, indices: np.ndarray, box: Box | None = None) -> np.ndarray:
        box = whole(self.target_shape) if box is None else box
        labels = self.classes is not None
        out = np.empty((len(indices), *box_shape(box)), np.int64 if labels else self._targets[0].dtype)
        for source, rows, places in self._parts(self._targets, indices):
            source.read(rows, box, out, places)
        if labels:
            check_labels(out, indices, self.classes, self.name)
        else:
            check_finite(out, indices, f"{self.name}, targets")
        return out

    def _parts(self, sources: Sequence[Source], indices: np.ndarray) -> Iterator[tuple[Source, np.ndarray, np.ndarray]]:
        """For each source that holds some of ``indices``: the rows in it, and where in a batch they belong."""
        for source, start, stop in zip(sources, self._starts, self._starts[1:], strict=False):
            places = np.flatnonzero((indices >= start) & (indices < stop))
            if places.size:
                yield source, indices[places] - start, places


def _sources(arrays: Sequence[np.ndarray | Source]) -> list[Source]:
    return [array if isinstance(array, Source) else Held(array) for array in arrays]


def check_pair(name: str, samples: np.ndarray | Source, targets: np.ndarray | Source) -> None:
    """Refuse samples and targets that do not fit: none, not as many of both, or a shape that is none of a sample."""
    if len(samples.shape) not in range(2, 6) or not np.prod(samples.shape):
        raise UserError(
            f"{name}: the samples have the shape {format_shape(samples.shape)}; give at least one of the shape {SHAPES}"
        )
    if not targets.shape or samples.shape[0] != targets.shape[0]:
        count = targets.shape[0] if targets.shape else 0
        raise UserError(f"{name}: {samples.shape[0]} samples, but {count} targets; there must be as many")
