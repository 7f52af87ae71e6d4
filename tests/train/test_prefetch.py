"""The next batch is read in the background: the same numbers, in the same order, and the same mistakes."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import numpy as np
import pytest
from running import job_of

from gridnn.data.base import Dataset, whole
from gridnn.errors import UserError
from gridnn.kernels import get_backend
from gridnn.layers.losses import MeanSquaredError
from gridnn.layout.layout import box_shape
from gridnn.program.schedule import InputPart
from gridnn.train.config import RunConfig
from gridnn.train.reader import Batch, Reader
from gridnn.train.session import Session

LIMIT = 20  # seconds that a thread is waited for


class Told(Dataset):
    """Sample i is full of i; it remembers which thread read what, and waits where it is told to."""

    name, sample_shape, classes, target_shape = "told", (6, 4, 1), None, (2,)

    def __init__(self, bad=()):
        self.bad, self.log, self.go = bad, [], threading.Event()
        self.go.set()

    def __len__(self):
        return 40

    def read(self, indices, box, out, step=0):
        assert self.go.wait(LIMIT)
        self.log.append((threading.current_thread().name, list(indices), box, step))
        for place, index in enumerate(indices):
            if index in self.bad:
                raise UserError(f"sample {index} is bad")
            out[place] = index

    def targets(self, indices, box=None):
        box = box or whole(self.target_shape)
        return np.broadcast_to(indices[:, None] * 10.0, (len(indices), *box_shape(box))).copy()


def schedule(samples=4, box=((0, 3), (0, 4), (0, 1))):
    loss = SimpleNamespace(node=SimpleNamespace(layer=MeanSquaredError()))
    boxes = {"inputs": (InputPart("input", ((0, samples), *box), "activation"),), "target_box": ((0, samples), (0, 1))}
    return SimpleNamespace(program=SimpleNamespace(loss=loss), **boxes)


def reader():
    return Reader(get_backend("numpy"), "float64")


def load(fill, samples=4):
    """What ``fill`` brings: the number of every sample, and the targets."""
    x, targets = np.full((samples, 3, 4, 1), np.nan), np.full((samples, 1), np.nan)
    fill([x], targets)
    assert (x == x[:, :1, :1]).all()
    return x[:, 0, 0, 0].tolist(), targets


def test_the_next_batch_is_read_while_this_one_is_used():
    data, one, read = Told(), schedule(), reader()
    first, second = (Batch(data, np.arange(start, start + 4), step) for step, start in ((1, 0), (2, 20)))
    samples, _ = load(read.read(one, first))
    data.go.clear()
    read.ahead(one, second)
    assert len(data.log) == 1 and samples == [0, 1, 2, 3]  # not waited for
    data.go.set()
    samples, targets = load(read.read(one, second))
    assert samples == [20, 21, 22, 23]
    np.testing.assert_array_equal(targets, [[200.0], [210.0], [220.0], [230.0]])
    (name, *_), (other, indices, box, step) = data.log
    assert name == threading.current_thread().name and other.startswith("gridnn-reader")
    assert (indices, box, step) == ([20, 21, 22, 23], ((0, 3), (0, 4), (0, 1)), 2)


def test_what_was_loaded_is_not_overwritten_by_what_is_read_ahead():
    data, one, read = Told(), schedule(), reader()
    x, targets = np.empty((4, 3, 4, 1)), np.empty((4, 1))
    for step in range(1, 9):
        now, following = (Batch(data, np.arange(s, s + 4), s) for s in (step, step + 1))
        read.read(one, now)([x], targets)
        read.ahead(one, following)
        read._coming.exception(LIMIT)
        assert x[:, 0, 0, 0].tolist() == [step, step + 1, step + 2, step + 3]
        assert targets[:, 0].tolist() == [10 * step, 10 * step + 10, 10 * step + 20, 10 * step + 30]
    assert [step for _, _, _, step in data.log] == list(range(1, 10))


def test_another_batch_than_the_one_read_ahead():
    data, one, read = Told(), schedule(), reader()
    read.ahead(one, Batch(data, np.arange(4), 2))
    for other in (Batch(data, np.arange(4), 3), Batch(data, np.arange(1, 5), 2), Batch(Told(), np.arange(4), 2)):
        read.ahead(one, Batch(data, np.arange(4), 2))
        assert load(read.read(one, other))[0] == other.indices.tolist()
        assert other.data.log[-1][0] == threading.current_thread().name


def test_a_mistake_counts_when_its_turn_comes():
    data, one, read = Told(bad=(21,)), schedule(), reader()
    read.ahead(one, Batch(data, np.arange(20, 24), 2))
    assert read._coming.result(LIMIT).mistake == "sample 21 is bad"
    assert read.mistake is None
    fill = read.read(one, Batch(data, np.arange(20, 24), 2))
    assert read.mistake == "sample 21 is bad"
    targets = np.full((4, 1), np.nan)
    fill([np.empty((4, 3, 4, 1))], targets)
    np.testing.assert_array_equal(targets, np.zeros((4, 1)))


def test_a_defect_is_raised_where_the_batch_is_used():
    data, one, read = Told(), schedule(), reader()
    data.read = lambda *args: 1 / 0
    read.ahead(one, Batch(data, np.arange(4), 2))
    with pytest.raises(ZeroDivisionError):
        read.read(one, Batch(data, np.arange(4), 2))


class Watched(Dataset):
    """Another data set, and which thread asked for what."""

    def __init__(self, data, log):
        self.name, self.classes = data.name, data.classes
        self.sample_shape, self.target_shape = data.sample_shape, data.target_shape
        self._data, self._log = data, log

    def __len__(self):
        return len(self._data)

    def read(self, indices, box, out, step=0):
        self._log.append((threading.current_thread() is threading.main_thread(), len(indices), step))
        self._data.read(indices, box, out, step)

    def targets(self, indices, box=None):
        return self._data.targets(indices, box)


def session(comm, **options):
    config = RunConfig.of(model="mlp", widths="8", dataset="synthetic", shape="6x5x2", samples=33, batch=10, **options)
    made, log = Session(config, job_of(comm)), []
    data = made.data
    object.__setattr__(data, "train", Watched(data.train, log))
    object.__setattr__(data, "test", Watched(data.test, log))
    return made, log


@pytest.mark.mpi
@pytest.mark.parametrize("accumulate", [1, 2])
def test_all_but_the_first_pass_are_read_in_the_background(comm, accumulate):
    """With the numbers that are computed without."""
    made, log = session(comm, accumulate=accumulate)
    batches = [np.arange(start, min(start + 10, 33)) for start in range(0, 33, 10)]
    ahead = [
        made.step(b, step, after) for step, (b, after) in enumerate(zip(batches, [*batches[1:], None], strict=True), 1)
    ]
    assert [main for main, _, _ in log] == [True] + [False] * (4 * accumulate - 1)
    assert [step for _, _, step in log] == [step for step in range(1, 5) for _ in range(accumulate)]
    log.clear()
    assert ahead == [made.step(b, step) for step, b in enumerate(batches, 1)]
    log.clear()
    made.evaluate(made.data.test)
    assert [main for main, _, _ in log] == [True] + [False] * (len(log) - 1)
    assert {step for _, _, step in log} == {0}


@pytest.mark.mpi
def test_a_bad_sample_that_is_read_ahead_stops_all_ranks_at_its_own_step(comm):
    made, _ = session(comm)
    read = made.data.train.read

    def fail(indices, box, out, step=0):
        if step == 2 and 13 in indices:
            raise UserError("sample 13 is bad")
        read(indices, box, out, step)

    made.data.train.read = fail
    made.step(np.arange(10), 1, np.arange(10, 20))
    with pytest.raises(UserError, match="sample 13 is bad"):
        made.step(np.arange(10, 20), 2)
