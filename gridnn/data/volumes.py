"""Volumes made up from (seed, global index), with numbers to be found out from them."""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np

from gridnn.data.base import Box, Data, Dataset, format_shape, whole
from gridnn.data.synthetic import TEST_SHARE, UNIT
from gridnn.errors import UserError
from gridnn.kernels.random import uniform
from gridnn.layout.layout import box_shape

TRAIN, TEST, TARGETS = 0, 1, 0x7A61
NOISE = 0.5  # its standard deviation


class Volumes(Dataset):
    """A sample is the sum of K waves, the heights of which are its targets, and noise.

    The k-th wave is a product of one cosine per space axis, half a period for a frequency of one; the waves are those
    of the lowest frequencies, which begin with the constant one. The targets are uniform in [-1, 1].

    x[d, h, w, c] = sum_k t_k f_k(d) g_k(h) e_k(w) + noise

    so that any box of it is made from a few numbers along each axis. A sample has one to three space axes, and
    channels, which differ in their noise only. The ``seed`` names targets and noise; TRAIN and TEST, the ``part``, have
    others.
    """

    classes = None

    def __init__(self, shape: tuple[int, ...], targets: int, samples: int, seed: int, part: int):
        self.name, self.sample_shape, self.target_shape = "volumes", tuple(shape), (targets,)
        self._samples, self._key = samples, (seed, part)
        self._frequencies = lowest(targets, len(shape) - 1)

    def __len__(self) -> int:
        return self._samples

    def targets(self, indices: np.ndarray, box: Box | None = None) -> np.ndarray:
        (interval,) = whole(self.target_shape) if box is None else box
        heights = uniform(np, (*self._key, TARGETS), (indices, interval), (self._samples, *self.target_shape))
        return 2 * heights - 1

    def read(self, indices: np.ndarray, box: Box, out: np.ndarray, step: int = 0) -> None:
        uniform(np, self._key, (indices, *box), (self._samples, *self.sample_shape), out=out)
        out -= 0.5
        out *= 2 * UNIT * NOISE
        heights = self.targets(indices)
        first, *rest = self._waves(box[:-1])
        depth, *across, channels = box_shape(box)
        for sample, height in zip(out.reshape(len(out), depth, math.prod(across), channels), heights, strict=True):
            for k, t in enumerate(height):
                plane = functools.reduce(np.multiply.outer, (wave[k] for wave in rest), np.float64(t)).reshape(-1)
                sample += np.multiply.outer(first[k].astype(out.dtype), plane.astype(out.dtype))[..., None]

    def _waves(self, space: Box) -> list[np.ndarray]:
        """For every space axis, the factors of the waves along a part of it: arrays (targets, extent)."""
        middles = [(np.arange(*part) + 0.5) / size for part, size in zip(space, self.sample_shape, strict=False)]
        return [np.cos(np.pi * f[:, None] * x) for f, x in zip(self._frequencies.T, middles, strict=True)]


def lowest(count: int, axes: int) -> np.ndarray:
    """The ``count`` lowest frequencies in ``axes`` dimensions, by their sum, as an array (count, axes)."""
    largest = next(total for total in itertools.count() if math.comb(total + axes, axes) >= count)
    every = itertools.product(range(largest + 1), repeat=axes)
    return np.array(sorted(every, key=lambda f: (sum(f), f))[:count])


def open_volumes(shape: tuple[int, ...], targets: int, samples: int, seed: int) -> Data:
    """``samples`` to train with, a fifth of that to test; `UserError` if the shape has not one to three space axes."""
    if len(shape) not in (2, 3, 4):
        raise UserError(
            f"dataset volumes: --shape {format_shape(shape)}: write space and channels, as 64x64x64x1 (or 128x128x1)"
        )
    made = (Volumes(shape, targets, n, seed, part) for n, part in ((samples, TRAIN), (-(-samples // TEST_SHARE), TEST)))
    return Data(*made, name="volumes")
