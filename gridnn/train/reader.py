"""This rank's box of a batch, from the data set into the arrays of a schedule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from gridnn.comm.recorder import READS, Recorder
from gridnn.data.base import Dataset
from gridnn.errors import UserError
from gridnn.kernels.backend import Backend
from gridnn.layers.computation import ACTIVATION
from gridnn.layout.layout import Box, box_shape
from gridnn.program.schedule import InputPart, Schedule
from gridnn.train.staging import HostBuffer, StagingBuffer, make_buffer

Array = Any
Filler = Callable[[Sequence[Array], Array | None], None]
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

    @property
    def name(self) -> str:
        """What it is called: a batch to train with has the number of its step."""
        return f"batch {self.step}" if self.step else "a batch to evaluate"

    def same(self, other: Batch) -> bool:
        """Whether both read the same numbers."""
        alike = self.data is other.data and self.step == other.step
        return alike and np.array_equal(self.indices, other.indices)


@dataclass(frozen=True)
class Places:
    """Where this rank's part of a batch goes: what it reads of the samples, for every input, and of the targets."""

    parts: tuple[InputPart, ...]
    inputs: list[HostBuffer | StagingBuffer]
    target_box: Box
    targets: HostBuffer | StagingBuffer


@dataclass(frozen=True)
class Read:
    """This rank's part of a batch in its places, and what went wrong."""

    batch: Batch
    places: Places
    mistake: str | None


class Reader:
    """Reads what this rank needs, the next batch in a thread while this one is worked on.

    The thread reads into host memory and, for a device, begins the copy there; there is one thread, and one batch in it
    at a time, so that the host holds one batch that waits. What it read is loaded by the thread that runs the
    schedule, which alone talks to MPI.

    A rank that finds a bad sample cannot stop on its own, since the others go on into the next collective. So the
    mistake is kept, the rank's share of the loss is made NaN, and all ranks stop together at the sum of the losses.

    Attributes
    ----------
    mistake : str or None
        The first thing that could not be read.
    """

    def __init__(self, backend: Backend, dtype: str, recorder: Recorder | None = None) -> None:
        self.backend, self.dtype, self.mistake = backend, dtype, None
        self.recorder = recorder or Recorder()
        self._buffers: dict[tuple, HostBuffer | StagingBuffer] = {}
        self._thread: ThreadPoolExecutor | None = None
        self._coming: Future[Read] | None = None

    def read(self, schedule: Schedule, batch: Batch) -> Filler:
        """What fills the input arrays of ``schedule``, and its targets, with this rank's part of ``batch``."""
        coming, self._coming = self._coming, None
        with self.recorder.doing(f"waiting for {batch.name}", READS):
            read = coming.result() if coming else None
            if read is None or not read.batch.same(batch):
                read = self._read(batch, self._places(schedule, batch))
        self.mistake = self.mistake or read.mistake

        def fill(inputs: Sequence[Array], target: Array | None) -> None:
            for array, buffer in zip(inputs, read.places.inputs, strict=True):
                buffer.load(array)
            if target is not None:
                read.places.targets.load(target)

        return fill

    def ahead(self, schedule: Schedule, batch: Batch) -> None:
        """Begin to read ``batch``, which ``schedule`` will run on next."""
        if self._thread is None:
            bind = self.backend.device.bind if self.backend.device else None
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="gridnn-reader", initializer=bind)
        self._coming = self._thread.submit(self._read, batch, self._places(schedule, batch))

    def close(self) -> None:
        """Read nothing more."""
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)

    def _read(self, batch: Batch, places: Places) -> Read:
        self.recorder.reads(f"reading {batch.name}")
        try:
            return self._read_into(batch, places)
        finally:
            self.recorder.reads("")

    @QUIET
    def _read_into(self, batch: Batch, places: Places) -> Read:
        data, mistake = batch.data, None
        try:
            for buffer, part in zip(places.inputs, places.parts, strict=True):
                samples, *box = part.box
                data.input(part.source).read(batch.indices[slice(*samples)], tuple(box), buffer.open(), batch.step)
            samples, *box = places.target_box
            places.targets.put(data.targets(batch.indices[slice(*samples)], tuple(box)))
        except UserError as error:
            mistake = str(error)
            places.targets.put(np.zeros(box_shape(places.target_box), self._kind(data)))
        for buffer in (*places.inputs, places.targets):
            buffer.send()
        return Read(batch, places, mistake)

    def _places(self, schedule: Schedule, batch: Batch) -> Places:
        """Where a batch goes; there is one place for each shape, of full and of short batches."""
        parts = schedule.inputs
        kinds = (self.dtype if part.dtype == ACTIVATION else part.dtype for part in parts)
        inputs = [
            self._buffer(n, box_shape(part.box), kind) for n, (part, kind) in enumerate(zip(parts, kinds, strict=True))
        ]
        target = schedule.target_box[: 1 + len(batch.data.target_shape)]
        schedule.program.loss.node.layer.check_target(box_shape(schedule.target_box), box_shape(target))
        return Places(parts, inputs, target, self._buffer("targets", box_shape(target), self._kind(batch.data)))

    def _kind(self, data: Dataset) -> str:
        """The type of the targets on a device: it holds what any data set has."""
        return "float64" if data.classes is None else "int64"

    def _buffer(self, name: Any, shape: tuple[int, ...], dtype: str) -> HostBuffer | StagingBuffer:
        if (name, shape, dtype) not in self._buffers:
            self._buffers[name, shape, dtype] = make_buffer(self.backend, shape, dtype)
        return self._buffers[name, shape, dtype]
