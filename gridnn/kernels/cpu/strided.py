"""Strided views: arrays as the flat memory that they touch, for compiled loops."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gridnn.kernels.taps import Sizes, check_windows

AXES = 4  # n, d, h, w


class StridedView(NamedTuple):
    """The memory of an array [n, *space, c] from its first element to its last, and its strides in elements.

    Shorter arrays have leading axes of size 1.
    """

    flat: np.ndarray
    at: tuple[int, ...]


def strided_view(array: np.ndarray) -> StridedView | None:
    """``array`` as a `StridedView`; None if channels are not contiguous, or strides negative or no whole elements."""
    size = array.itemsize
    if array.ndim > AXES + 1 or not array.size:
        return None
    if array.flags.c_contiguous:
        flat = array.reshape(-1)
    else:
        if any(step < 0 or step % size for step in array.strides):
            return None
        if array.shape[-1] > 1 and array.strides[-1] != size:
            return None
        length = 1 + sum((count - 1) * step for count, step in zip(array.shape, array.strides, strict=True)) // size
        flat = np.lib.stride_tricks.as_strided(array, (length,), (size,))
    outer = tuple(step // size for step in array.strides[:-1])
    return StridedView(flat, (0,) * (AXES - len(outer)) + outer)


def counts_of(array: np.ndarray) -> tuple[int, ...]:
    """The sizes of [n, *space, c] but the last, with leading ones."""
    outer = array.shape[:-1]
    return (1,) * (AXES - len(outer)) + outer


def window_steps(at: tuple[int, ...], stride: tuple[int, ...]) -> tuple[int, ...]:
    """From the strides of a padded input to those of its windows' first elements."""
    steps = (1,) * (AXES - len(stride)) + tuple(stride)
    return tuple(size * step for size, step in zip(at, steps, strict=True))


def tap_offsets(at: tuple[int, ...], kernel: tuple[int, ...], dilation: tuple[int, ...]) -> np.ndarray:
    """How far every tap lies from the first, in ascending order of the taps."""
    offsets = np.zeros(1, np.int64)
    for size, count, apart in zip(at[AXES - len(kernel) :], kernel, dilation, strict=True):
        offsets = (offsets[:, None] + np.arange(count) * (apart * size)).reshape(-1)
    return offsets


class WindowView:
    """A padded array [n, *padded, c] and an array with one row for every window, for compiled loops.

    ``output`` [n, *space, c] may have any number of channels where it only counts the windows; ``index`` is like it, of
    integers. Windows are not dilated by default; `ValueError` if the padded input ends before the last window does.

    Attributes
    ----------
    possible : bool
        Whether compiled loops can take the arrays.
    padded, output, index, extents : tuple
        Their arguments: (memory, strides, taps), (memory, strides) twice, and (counts, channels).
    """

    def __init__(self, padded, output, kernel: Sizes, stride: Sizes, dilation: Sizes | None = None, index=None) -> None:
        dilation = dilation or (1,) * len(kernel)
        check_windows(padded.shape, kernel, stride, dilation, output.shape)
        views = [strided_view(array) for array in (padded, output, *([] if index is None else [index]))]
        self.possible = None not in views and same_floats(padded, output)
        if self.possible:
            self._at, self._windows = views[0].at, (kernel, dilation)
            self.padded = (views[0].flat, window_steps(self._at, stride), tap_offsets(self._at, kernel, dilation))
            self.output, self.index = views[1], views[-1]
            self.extents = (counts_of(output), padded.shape[-1])

    @property
    def lines(self) -> tuple:
        """``padded`` and ``extents`` as one, with the taps of a line as one run of channels where they touch."""
        (kernel, dilation), (memory, steps, _), (counts, channels) = self._windows, self.padded, self.extents
        if self._at[-1] != channels or (kernel[-1] > 1 and dilation[-1] != 1):
            return *self.padded, *self.extents
        taps = tap_offsets(self._at, (*kernel[:-1], 1), dilation)
        return memory, steps, taps, counts, kernel[-1] * channels


class RowView:
    """Arrays [..., c] of one shape, for compiled loops; ``flat``: contiguous ones are taken as one row.

    Attributes
    ----------
    possible, one_run : bool
        Whether compiled loops can take the arrays; whether all of them are flat and contiguous.
    views : list of StridedView
        Their memory and strides.
    extents : tuple
        (counts, channels).
    """

    def __init__(self, *arrays: np.ndarray, flat: bool = False) -> None:
        contiguous = all(array.flags.c_contiguous for array in arrays)
        if flat and contiguous:
            arrays = tuple(array.reshape(-1) for array in arrays)
        self.views = [strided_view(array) for array in arrays]
        self.one_run = contiguous and arrays[0].ndim == 1 and same_floats(*arrays)
        self.possible = None not in self.views and same_floats(*arrays)
        self.extents = (counts_of(arrays[0]), arrays[0].shape[-1] if arrays[0].ndim else 1)

    @property
    def arguments(self) -> list:
        """`views`, one after the other."""
        return [part for view in self.views for part in view]


def same_floats(*arrays: np.ndarray) -> bool:
    """Whether the arrays are all float32, or all float64."""
    dtype = arrays[0].dtype
    return dtype in (np.float32, np.float64) and all(array.dtype == dtype for array in arrays)
