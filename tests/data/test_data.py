from __future__ import annotations

import sys

import numpy as np
import pytest
from reading import IMAGE_BOXES, check_boxes, read

from gridnn.data.datasets import open_dataset
from gridnn.data.order import batches, epoch_order, split_in_two
from gridnn.errors import UserError

ORDER_8_0_1 = [5, 3, 7, 2, 4, 1, 0, 6]


class TestOrder:
    def test_an_epoch_visits_all_and_depends_on_seed_and_epoch(self):
        order = epoch_order(100, 5, 1, True)
        assert (order.dtype, sorted(order)) == (np.int64, list(range(100)))
        np.testing.assert_array_equal(order, epoch_order(100, 5, 1, True))
        assert any(order != epoch_order(100, 5, 2, True))
        assert any(order != epoch_order(100, 6, 1, True))
        assert list(epoch_order(4, 5, 1, False)) == [0, 1, 2, 3]

    def test_the_order_never_changes(self):
        assert list(epoch_order(8, 0, 1, True)) == ORDER_8_0_1
        assert list(epoch_order(8, 2**63 - 1, 1, True)) != ORDER_8_0_1

    def test_batches_use_the_short_one_unless_told(self):
        order = np.arange(10)
        assert [list(b) for b in batches(order, 4)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
        assert [list(b) for b in batches(order, 4, drop_last=True)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
        assert [len(b) for b in batches(order, 5, drop_last=True)] == [5, 5]

    def test_split_in_two(self):
        train, test = split_in_two(11)
        assert (len(train), len(test), sorted([*train, *test])) == (8, 3, list(range(11)))


class TestDigits:
    def test_sizes_and_split(self):
        data = open_dataset("digits")
        assert (len(data.train), len(data.test)) == (1437, 360)
        assert (data.train.sample_shape, data.train.classes, data.train.target_shape) == ((8, 8, 1), 10, ())
        np.testing.assert_array_equal(
            data.test.targets(np.arange(360)), open_dataset("digits", seed=9).test.targets(np.arange(360))
        )
        counts = np.bincount(data.train.targets(np.arange(1437)))
        assert counts.min() > 120

    def test_samples_are_centred(self):
        samples = read(open_dataset("digits").train, range(1437))
        assert abs(samples.mean()) < 0.02
        assert abs(samples.std() - 1) < 0.02

    def test_boxes(self):
        check_boxes(open_dataset("digits").train, *IMAGE_BOXES)

    def test_without_scikit_learn(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
        with pytest.raises(UserError, match=r"scikit-learn, which is not installed: pip install 'gridnn\[data\]'"):
            open_dataset("digits")

    def test_classes_are_fixed(self):
        with pytest.raises(UserError, match="digits has 10 classes, not 7: leave --classes out"):
            open_dataset("digits", classes=7)


class TestSynthetic:
    def open(self, **options):
        return open_dataset("synthetic", **{"shape": (9, 7, 2), "classes": 5, "samples": 40, "seed": 3, **options})

    def test_sizes(self):
        data = self.open()
        assert (len(data.train), len(data.test), data.train.classes) == (40, 8, 5)
        assert list(data.train.targets(np.array([0, 6, 39]))) == [0, 1, 4]

    @pytest.mark.parametrize(
        ("shape", "boxes"),
        [
            ((11,), [((3, 9),), ((10, 11),)]),
            ((13, 2), [((3, 9), (1, 2)), ((12, 13), (0, 2))]),
            ((9, 7, 2), [((2, 5), (0, 7), (1, 2)), ((8, 9), (6, 7), (0, 2))]),
            ((5, 9, 7, 2), [((1, 3), (2, 5), (0, 7), (1, 2)), ((4, 5), (8, 9), (6, 7), (0, 2))]),
        ],
    )
    def test_boxes(self, shape, boxes):
        check_boxes(self.open(shape=shape).train, *boxes)

    def test_a_rank_may_have_no_sample_or_place(self):
        data = self.open().train
        for indices, box in (([], ((0, 9), (0, 7), (0, 2))), ([], ((4, 4), (0, 7), (0, 2)))):
            out = np.empty((0, *(stop - start for start, stop in box)))
            data.read(np.array(indices, np.int64), box, out)

    def test_seed_and_part_name_the_numbers(self):
        here, other = self.open(), self.open(seed=4)
        assert not np.array_equal(read(here.train, [1]), read(other.train, [1]))
        assert not np.array_equal(read(here.train, [1]), read(here.test, [1]))

    def test_it_can_be_learned(self):
        data = self.open(samples=200)
        x, y = read(data.train, range(200)), data.train.targets(np.arange(200))
        means = np.stack([x[y == label].mean(0).ravel() for label in range(5)])
        test = read(data.test, range(40)).reshape(40, -1)
        distances = ((test[:, None] - means) ** 2).sum(-1)
        assert (distances.argmin(1) == data.test.targets(np.arange(40))).mean() > 0.95

    def test_refused(self):
        with pytest.raises(UserError, match="synthetic: samples 0 must be at least 1"):
            self.open(samples=0)


def test_unknown_name():
    with pytest.raises(UserError, match="unknown dataset 'cifar-10': did you mean cifar10"):
        open_dataset("cifar-10")
