"""The checksum of a tensor: the same however it is divided, another one after any change."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from strict import StrictBackend

from gridnn.kernels import get_backend
from gridnn.kernels.checksum import checksum

SHAPE = (7, 5, 9)
WHOLE = tuple((0, size) for size in SHAPE)
BACKEND = get_backend("numpy")


def tensor(dtype: str) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(SHAPE).astype(dtype)


def of(array: np.ndarray, box=WHOLE) -> int:
    return checksum(BACKEND, array[tuple(slice(*interval) for interval in box)], box, SHAPE)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("axis", range(3))
def test_parts_add_up(dtype, axis):
    array, cuts = tensor(dtype), (0, 2, 3, SHAPE[axis])
    boxes = [(*WHOLE[:axis], cut, *WHOLE[axis + 1 :]) for cut in itertools.pairwise(cuts)]
    assert sum(of(array, box) for box in boxes) % 2**64 == of(array) != 0


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_every_bit_of_every_element_counts(dtype):
    array, known = tensor(dtype), of(tensor(dtype))
    bits = array.view(f"uint{8 * array.itemsize}").reshape(-1)
    for place in range(0, bits.size, 13):
        for bit in range(8 * array.itemsize):
            bits[place] ^= bits.dtype.type(1 << bit)
            assert of(array) != known, (place, bit)
            bits[place] ^= bits.dtype.type(1 << bit)
    assert of(array) == known


def test_elements_that_change_places_or_signs_in_pairs_are_seen():
    array = tensor("float64")
    known = of(array)
    array[0, 0, 0], array[3, 1, 2] = -array[0, 0, 0], -array[3, 1, 2]
    assert of(array) != known
    array = tensor("float64")
    array[[0, 1]] = array[[1, 0]]
    assert of(array) != known


def test_a_tensor_larger_than_what_is_done_at_once():
    array = np.arange(300_000, dtype=np.float32)
    whole, shape = ((0, 300_000),), (300_000,)
    parts = [((0, 100_001),), ((100_001, 300_000),)]
    shares = [checksum(BACKEND, array[slice(*box[0])], box, shape) for box in parts]
    assert sum(shares) % 2**64 == checksum(BACKEND, array, whole, shape)


def test_a_number_and_an_empty_part():
    assert checksum(BACKEND, np.array(1.5), (), ()) != checksum(BACKEND, np.array(2.5), (), ()) != 0
    assert of(tensor("float32"), ((2, 2), (0, 5), (0, 9))) == 0


def test_it_is_computed_on_the_device():
    strict = StrictBackend()
    assert checksum(strict, strict.asarray(tensor("float64")), WHOLE, SHAPE) == of(tensor("float64"))
