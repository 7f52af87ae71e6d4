"""This rank's box of a batch, from the data set into the buffers of an executable."""

from __future__ import annotations

from typing import Any

import numpy as np

from gridnn.arrays.backend import Backend
from gridnn.comm.layout import box_shape
from gridnn.errors import UserError
from gridnn.execute import Executable, Feed
from gridnn.train.data import Dataset


class Reader:
    """Reads what this rank needs, and remembers what it could not read.

    A rank that finds a bad sample cannot stop on its own, since the others go on into the next collective. So the
    mistake is kept, the rank's share of the loss is made NaN, and all ranks stop together at the sum of the losses.

    Attributes
    ----------
    mistake : str or None
        The first thing that could not be read.
    """

    def __init__(self, backend: Backend, dtype: str) -> None:
        self.backend, self.dtype, self.mistake = backend, dtype, None
        self._rooms: dict[tuple[int, ...], np.ndarray] = {}

    def read(self, executable: Executable, data: Dataset, indices: np.ndarray) -> Any:
        """Fill the input buffers with this rank's part of the samples ``indices``, and give its targets back."""
        try:
            for feed in executable.input_feeds:
                self._fill(feed, data, indices)
            return self.backend.asarray(self._targets(executable, data, indices))
        except UserError as error:
            self.mistake = self.mistake or str(error)
            box = executable.loss.input_boxes[0]
            labels = data.classes is not None
            return self.backend.zeros(box_shape(box[:1] if labels else box), "int64" if labels else self.dtype)

    def _fill(self, feed: Feed, data: Dataset, indices: np.ndarray) -> None:
        samples, *box = feed.box
        shape = box_shape(feed.box)
        if shape not in self._rooms:
            self._rooms[shape] = np.empty(shape, self.dtype)
        room = self._rooms[shape]
        data.read(indices[slice(*samples)], tuple(box), room)
        feed.load(self.backend.asarray(room))

    def _targets(self, executable: Executable, data: Dataset, indices: np.ndarray) -> np.ndarray:
        samples, *rest = executable.loss.input_boxes[0]
        targets = data.targets(indices[slice(*samples)])
        if data.classes is not None:
            return targets
        return targets[(slice(None), *(slice(*interval) for interval in rest))]
