"""Volumes that are made up: any box alone, and targets that can be found out."""

from __future__ import annotations

import numpy as np
import pytest
from reading import check_boxes, read

from gridnn.data.datasets import open_dataset
from gridnn.data.volumes import lowest
from gridnn.errors import UserError

BOXES = {
    (16, 12, 10, 2): [
        ((2, 5), (0, 7), (1, 3), (0, 1)),
        ((8, 9), (6, 7), (0, 2), (0, 2)),
        ((3, 3), (0, 1), (0, 2), (0, 2)),
    ],
    (9, 14, 1): [((2, 9), (0, 4), (0, 1)), ((0, 9), (13, 14), (0, 0))],
    (31, 2): [((2, 5), (0, 1)), ((0, 31), (1, 2))],
}


def volumes(**options):
    return open_dataset("volumes", **{"shape": (16, 12, 10, 1), "samples": 40, "seed": 3, **options})


@pytest.mark.parametrize("shape", BOXES)
def test_boxes(shape):
    check_boxes(volumes(shape=shape).train, *BOXES[shape])


def test_sizes_and_targets():
    data = volumes(targets=3)
    assert (len(data.train), len(data.test), data.train.classes, data.train.target_shape) == (40, 8, None, (3,))
    targets = data.train.targets(np.arange(40))
    assert targets.min() >= -1 and targets.max() < 1 and targets.std() > 0.4
    np.testing.assert_array_equal(data.train.targets(np.array([7, 1]), ((1, 3),)), targets[[7, 1], 1:])


def test_seed_and_part_name_the_numbers():
    here, other = volumes(), volumes(seed=4)
    for data in (other.train, here.test):
        assert not np.array_equal(read(here.train, [1]), read(data, [1]))
        assert not np.array_equal(here.train.targets(np.array([1])), data.targets(np.array([1])))


def test_the_waves_are_the_lowest():
    assert lowest(5, 3).tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0], [0, 0, 2]]
    assert lowest(3, 1).tolist() == [[0], [1], [2]]
    assert sorted(sum(f) for f in lowest(20, 3)) == [0] + [1] * 3 + [2] * 6 + [3] * 10


def test_a_sample_is_its_waves_and_noise():
    data = volumes(targets=2).train
    difference = read(data, range(40)) - np.einsum(
        "nk,kw->nw", data.targets(np.arange(40)), [np.ones(10), np.cos(np.pi * (np.arange(10) + 0.5) / 10)]
    ).reshape(40, 1, 1, 10, 1)
    assert abs(difference.mean()) < 0.01
    assert abs(difference.std() - 0.5) < 0.01


def test_the_targets_can_be_found_out_from_means_of_eight_parts():
    data = volumes(shape=(32, 32, 32, 1), samples=60)

    def means(part):
        x = read(part, range(len(part)), dtype="float32").reshape(len(part), 2, 16, 2, 16, 2, 16).mean((2, 4, 6))
        return np.c_[x.reshape(len(part), -1), np.ones(len(part))]

    train, test = (part.targets(np.arange(len(part))) for part in (data.train, data.test))
    weights = np.linalg.lstsq(means(data.train), train, rcond=None)[0]
    assert ((means(data.test) @ weights - test) ** 2).mean() < 0.001 * (test**2).mean()


def test_refused():
    with pytest.raises(UserError, match="--shape 64: write space and channels, as 64x64x64x1"):
        volumes(shape=(64,))
