"""Reading data sets in tests."""

from __future__ import annotations

import struct

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


def python_2_pickle(pixels, labels):
    """What Python 2 wrote: its strings become bytes."""

    def text(value):
        return b"T" + struct.pack("<i", len(value)) + value

    def integer(value):
        return b"J" + struct.pack("<i", value)

    def class_(module, name):
        return b"c" + module + b"\n" + name + b"\n"

    array = class_(b"numpy.core.multiarray", b"_reconstruct") + class_(b"numpy", b"ndarray")
    array += integer(0) + b"\x85" + text(b"b") + b"\x87R"
    dtype = class_(b"numpy", b"dtype") + text(b"u1") + integer(0) + integer(1) + b"\x87R"
    dtype += b"(" + integer(3) + text(b"|") + b"NNN" + integer(-1) + integer(-1) + integer(0) + b"tb"
    shape = b"".join(integer(size) for size in pixels.shape) + b"\x86"
    array += b"(" + integer(1) + shape + dtype + b"\x89" + text(pixels.tobytes()) + b"tb"
    numbers = b"](" + b"".join(integer(int(label)) for label in labels) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(b"labels") + numbers + b"u."
