"""Launch descriptors: the structs, passed by value, that describe arrays to the kernels of windows.cu and copies.cu."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from gridnn.kernels.reference.copying import Box
from gridnn.kernels.taps import Sizes, check_windows
from gridnn.kernels.tiles import Array

AXES = 5  # n, d, h, w, c
BOXES = 32  # of one launch, as in copies.cu
# The widest first. A copy takes as many bytes at once as all addresses and steps allow.
WORDS = {
    16: "Pack<unsigned long long, 2>",
    8: "unsigned long long",
    4: "unsigned int",
    2: "unsigned short",
    1: "unsigned char",
}

WINDOWS = np.dtype(
    [(name, np.int64, AXES) for name in ("outputs", "padded")]
    + [(name, np.int64, 3) for name in ("kernel", "stride", "dilation")]
    + [(name, np.int64, AXES) for name in ("x", "y", "index")]
    + [("w", np.int64, 4), ("first", np.int64, AXES)]
)
BATCH = np.dtype(
    [
        ("count", np.int64),
        ("steps", np.int64, AXES),
        ("low", np.int64, (BOXES, AXES)),
        ("sizes", np.int64, (BOXES, AXES)),
        ("start", np.int64, BOXES + 1),
    ]
)
COPIES = np.dtype(
    [(name, np.int64, AXES) for name in ("outputs", "inputs")]
    + [(name, np.int64, 3) for name in ("factor", "shift")]
    + [(name, np.int64, AXES) for name in ("x", "y")]
)
SAMPLING = np.dtype(
    [
        (name, np.int64)
        for name in (
            "area", "inputs", "outputs", "first_input", "first_output", "held_inputs", "held_outputs", "trail"
        )
    ]
)  # fmt: skip


def struct(kind: np.dtype, **fields: Any) -> np.ndarray:
    """One element of ``kind``, which a kernel takes by value; fields that are not named are 0."""
    made = np.zeros((), kind)
    for name, value in fields.items():
        made[name] = value
    return made


def steps_of(array: Array, width: int | None = None) -> Sizes:
    """The strides of ``array`` in elements, or in words of ``width`` bytes with one channel a word."""
    if width is None:
        return tuple(step // array.itemsize for step in array.strides)
    return (*(step // width for step in array.strides[:-1]), 1)


def five_axes(numbers: Sequence[int], middle: int) -> Sizes:
    """[n, *space, c] with three space axes; those that are not there are ``middle``."""
    first, *space, last = numbers
    return (first, *(middle,) * (3 - len(space)), *space, last)


def three_axes(numbers: Sequence[int]) -> Sizes:
    """One entry for each of three space axes."""
    return (1,) * (3 - len(numbers)) + tuple(numbers)


def window_descriptor(
    padded: Array, output: Array, kernel: Sizes, stride: Sizes, dilation: Sizes | None = None, **fields: Any
) -> np.ndarray:
    """The windows of ``padded`` [n, *padded, c], one for every row of ``output`` [n, *space, c].

    `ValueError` if the padded input ends before the last window does.
    """
    dilation = dilation or (1,) * len(kernel)
    check_windows(padded.shape, kernel, stride, dilation, output.shape)
    return struct(
        WINDOWS,
        outputs=five_axes((*output.shape[:-1], padded.shape[-1]), 1),
        padded=five_axes(padded.shape, 1),
        kernel=three_axes(kernel),
        stride=three_axes(stride),
        dilation=three_axes(dilation),
        x=five_axes(steps_of(padded), 0),
        y=five_axes(steps_of(output), 0),
        **fields,
    )


def word(array: Array, *numbers: int) -> int | None:
    """The most bytes that a copy of rows of ``array`` can take at once; None if its channels are not contiguous.

    ``numbers`` are what must be whole words beside its strides: addresses, and the bytes that rows begin and end at.
    """
    if array.shape[-1] > 1 and array.strides[-1] != array.itemsize:
        return None
    return math.gcd(max(WORDS), *array.strides[:-1], *numbers)


def box_word(array: Array, boxes: Sequence[Box], *addresses: int) -> int | None:
    """`word` of a copy of ``boxes`` of ``array`` from or to packed memory."""
    ends = (number * array.itemsize for box in boxes for number in _ranges(box, array.shape)[-1])
    return word(array, *addresses, *ends)


class Batch(NamedTuple):
    """The boxes of one launch: the struct, where they begin in flat memory and how long they are, in elements."""

    struct: np.ndarray
    start: int
    size: int


def batches(array: Array, boxes: Sequence[Box], width: int | None = None) -> Iterator[Batch]:
    """The ``boxes`` of ``array``, as many at a time as a launch takes; ``width`` as in `steps_of`."""
    each = 1 if width is None else width // array.itemsize
    start = 0
    for first in range(0, len(boxes), BOXES):
        places = [_ranges(box, array.shape) for box in boxes[first : first + BOXES]]
        made = struct(BATCH, count=len(places), steps=(0,) * (AXES - array.ndim) + steps_of(array, width))
        sizes = np.ones((len(places), AXES), np.int64)
        sizes[:, AXES - array.ndim :] = [[stop - low for low, stop in place] for place in places]
        sizes[:, -1] //= each
        made["sizes"][: len(places)] = sizes
        made["low"][: len(places), AXES - array.ndim :] = [[low for low, _ in place] for place in places]
        made["low"][:, -1] //= each
        ends = sizes.prod(axis=1).cumsum()
        made["start"][1 : len(places) + 1] = ends
        size = int(ends[-1]) * each
        yield Batch(made, start, size)
        start += size


def _ranges(box: Box, shape: Sizes) -> list[tuple[int, int]]:
    """The ranges of a box over every axis; none is shorter than 0."""
    whole = (*box, *(slice(None),) * (len(shape) - len(box)))
    ranges = (part.indices(size) for part, size in zip(whole, shape, strict=True))
    return [(start, max(start, stop)) for start, stop, _ in ranges]
