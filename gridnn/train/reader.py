"""This rank's box of a batch, from the data set into the arrays of an executable."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from gridnn.arrays.backend import Backend
from gridnn.comm.layout import Box, box_shape
from gridnn.errors import UserError
from gridnn.execute_rounds import Runs
from gridnn.train.data import Dataset

QUIET = np.errstate(over="ignore", invalid="ignore")  # numbers that are not finite are refused by name


@dataclass(frozen=True)
class Batch:
    """What one pass reads.

    Attributes
    ----------
    indices : array of int64
        Its samples, on all ranks.
    step : int
        The training step that it belongs to; 0 in evaluation.
    """

    data: Dataset
    indices: np.ndarray
    step: int = 0

    def same(self, other: Batch) -> bool:
        """Whether both read the same numbers."""
        alike = self.data is other.data and self.step == other.step
        return alike and np.array_equal(self.indices, other.indices)


@dataclass(frozen=True)
class Read:
    """This rank's part of a batch in the host's memory: an array for every input feed, its targets, what went wrong."""

    batch: Batch
    inputs: list[np.ndarray]
    targets: np.ndarray
    mistake: str | None


class Reader:
    """Reads what this rank needs, the next batch in a thread while this one is worked on.

    The thread only reads into host memory; there is one of it, and one batch in it at a time, so that the host holds
    one batch that waits. What it read is loaded into the executable by the thread that runs it, which alone talks to
    MPI.

    A rank that finds a bad sample cannot stop on its own, since the others go on into the next collective. So the
    mistake is kept, the rank's share of the loss is made NaN, and all ranks stop together at the sum of the losses.

    Attributes
    ----------
    mistake : str or None
        The first thing that could not be read.
    """

    def __init__(self, backend: Backend, dtype: str) -> None:
        self.backend, self.dtype, self.mistake = backend, dtype, None
        self._rooms: dict[tuple[int, tuple[int, ...]], np.ndarray] = {}
        self._thread: ThreadPoolExecutor | None = None
        self._coming: Future[Read] | None = None

    def read(self, executable: Runs, batch: Batch) -> Any:
        """Fill the input arrays with this rank's part of ``batch``, and give its targets back."""
        coming, self._coming = self._coming, None
        read = coming.result() if coming else None
        if read is None or not read.batch.same(batch):
            read = self._read(batch, *_boxes(executable))
        for feed, room in zip(executable.input_feeds, read.inputs, strict=True):
            feed.load(self.backend.asarray(room))
        self.mistake = self.mistake or read.mistake
        return self.backend.asarray(read.targets)

    def ahead(self, executable: Runs, batch: Batch) -> None:
        """Begin to read ``batch``, which ``executable`` will run next."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="gridnn-reader")
        self._coming = self._thread.submit(self._read, batch, *_boxes(executable))

    @QUIET
    def _read(self, batch: Batch, inputs: list[Box], output: Box) -> Read:
        rooms = [self._room(number, box_shape(box)) for number, box in enumerate(inputs)]
        data, targets = batch.data, output[: 1 + len(batch.data.target_shape)]
        try:
            for room, (samples, *box) in zip(rooms, inputs, strict=True):
                data.read(batch.indices[slice(*samples)], tuple(box), room, batch.step)
            samples, *box = targets
            return Read(batch, rooms, data.targets(batch.indices[slice(*samples)], tuple(box)), None)
        except UserError as error:
            nothing = np.zeros(box_shape(targets), self.dtype if data.classes is None else np.int64)
            return Read(batch, rooms, nothing, str(error))

    def _room(self, number: int, shape: tuple[int, ...]) -> np.ndarray:
        """The host's array for one input; there is one for each shape, of full and of short batches."""
        if (number, shape) not in self._rooms:
            self._rooms[number, shape] = np.empty(shape, self.dtype)
        return self._rooms[number, shape]


def _boxes(executable: Runs) -> tuple[list[Box], Box]:
    """What this rank reads of samples, for every input, and the box of its targets."""
    return [feed.box for feed in executable.input_feeds], executable.target_box
