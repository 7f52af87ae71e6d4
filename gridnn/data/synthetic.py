"""Samples made up from (seed, global index): any shape, any number, nothing stored."""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np

from gridnn.data.base import Box, Data, Dataset
from gridnn.errors import UserError
from gridnn.kernels.random import uniform

TRAIN, TEST, TEMPLATE = range(3)
UNIT = math.sqrt(3.0)  # uniform numbers in +-UNIT have variance 1
TEST_SHARE = 5  # one test sample for five to train with


class Synthetic(Dataset):
    """Sample = template of its class + noise, both of variance 1, so that it can be learned.

    The template is a product of one random vector per dimension: any box of it is made from these few numbers. The
    class of a sample is its index modulo the number of classes. The ``seed`` names templates and noise; TRAIN and TEST,
    the ``part``, have the same templates and other noise.
    """

    def __init__(self, shape: tuple[int, ...], classes: int, samples: int, seed: int, part: int):
        self.name, self.sample_shape, self.classes = "synthetic", tuple(shape), classes
        self._samples, self._key = samples, (seed, part)

    @cached_property
    def _vectors(self) -> list[np.ndarray]:
        """For every dimension one vector per class; made when samples are read, so that planning makes none."""
        classes, seed = self.classes, self._key[0]
        return [
            _centred(uniform(np, (seed, TEMPLATE, axis), ((0, classes), (0, size)), (classes, size)))
            for axis, size in enumerate(self.sample_shape)
        ]

    def __len__(self) -> int:
        return self._samples

    def read(self, indices: np.ndarray, box: Box, out: np.ndarray, step: int = 0) -> None:
        uniform(np, self._key, (indices, *box), (self._samples, *self.sample_shape), out=out)
        _centred(out)
        out += self._templates(indices % self.classes, box, out.dtype)

    def _templates(self, labels: np.ndarray, box: Box, dtype: np.dtype) -> np.ndarray:
        """The part ``box`` of the template of every label."""
        product = np.ones((len(labels),) + (1,) * len(box), dtype)
        for axis, (vector, (start, stop)) in enumerate(zip(self._vectors, box, strict=True), 1):
            along = (len(labels),) + (1,) * (axis - 1) + (stop - start,) + (1,) * (len(box) - axis)
            product = product * vector[labels, start:stop].astype(dtype).reshape(along)
        return product

    def targets(self, indices: np.ndarray, box: Box | None = None) -> np.ndarray:
        return indices % self.classes


def _centred(values: np.ndarray) -> np.ndarray:
    """Uniform numbers in [0, 1) made uniform in +-UNIT, in place."""
    values *= 2 * UNIT
    values -= UNIT
    return values


def open_synthetic(shape: tuple[int, ...], classes: int, samples: int, seed: int) -> Data:
    """``samples`` to train with, and a fifth of that to test; `UserError` if a number is below 1."""
    for name, value in (("shape", min(shape, default=0)), ("classes", classes), ("samples", samples)):
        if value < 1:
            raise UserError(f"dataset synthetic: {name} {shape if name == 'shape' else value} must be at least 1")
    tests = -(-samples // TEST_SHARE)
    return Data(
        Synthetic(shape, classes, samples, seed, TRAIN), Synthetic(shape, classes, tests, seed, TEST), "synthetic"
    )
