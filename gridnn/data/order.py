"""In which order the samples come: keyed by (seed, epoch), the same on every grid."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

TEST_SHARE = 5  # one sample in five


def permutation(count: int, seed: int, stream: int) -> np.ndarray:
    """A random order of ``count`` things, keyed by (seed, stream).

    It is made from the raw words of the counter-based generator, which NumPy promises never to change.
    """
    words = np.random.Philox(key=[seed, stream]).random_raw(count)
    return np.argsort(words, kind="stable").astype(np.int64)


def epoch_order(count: int, seed: int, epoch: int, shuffle: bool) -> np.ndarray:
    """The order in which ``epoch`` visits ``count`` samples; their own order without ``shuffle``."""
    return permutation(count, seed, epoch) if shuffle else np.arange(count, dtype=np.int64)


def batches(order: np.ndarray, batch: int, drop_last: bool = False) -> Iterator[np.ndarray]:
    """``order`` in pieces of ``batch``; the last one is what is left, or dropped if it is short and ``drop_last``."""
    stop = len(order) - len(order) % batch if drop_last else len(order)
    for start in range(0, stop, batch):
        yield order[start : start + batch]


def first_batches(count: int, batch: int, seed: int, steps: int, drop_last: bool = False) -> Iterator[np.ndarray]:
    """The first ``steps`` batches of training, over as many epochs as it takes."""
    epochs = (batches(epoch_order(count, seed, epoch, True), batch, drop_last) for epoch in itertools.count(1))
    return itertools.islice(itertools.chain.from_iterable(epochs), steps)


def split_in_two(count: int) -> tuple[np.ndarray, np.ndarray]:
    """The samples to train and to test with, of a set that does not say: always the same, a fifth to test."""
    order = permutation(count, 0, 0)
    tests = -(-count // TEST_SHARE)
    return np.sort(order[tests:]), np.sort(order[:tests])
