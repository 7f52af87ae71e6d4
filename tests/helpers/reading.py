"""Reading data sets in tests."""

from __future__ import annotations

import numpy as np


def read(dataset, indices, box=None, dtype="float64", step=0):
    """The box (default: all) of some samples."""
    box = box or tuple((0, size) for size in dataset.sample_shape)
    out = np.full((len(indices), *(stop - start for start, stop in box)), np.nan, dtype)
    dataset.read(np.asarray(indices, np.int64), box, out, step)
    return out


def check_boxes(dataset, *boxes):
    """Any box is that part of the whole samples, in any order, in both types."""
    indices = np.array([3, 0, len(dataset) - 1, 3], np.int64)
    for dtype in ("float32", "float64"):
        whole = read(dataset, indices, dtype=dtype)
        assert np.isfinite(whole).all()
        for box in boxes:
            part = whole[(slice(None), *(slice(*interval) for interval in box))]
            np.testing.assert_array_equal(read(dataset, indices, box, dtype), part)


IMAGE_BOXES = [((0, 4), (0, 5), (0, 1)), ((3, 7), (1, 2), (0, 1)), ((2, 2), (0, 3), (0, 1))]
