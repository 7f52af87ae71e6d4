"""A layer computed in pieces: they may come in any order and need no more than what their windows reach."""

from __future__ import annotations

import itertools

import numpy as np
from serial import Serial, framed


def check_regions(layer, shape, seeds=4):
    """The output put together from random boxes equals the one computed whole, bit by bit or to rounding."""
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=shape)
        run = Serial(layer, shape)
        for value in run.local.parameters.values():
            value[...] = rng.normal(size=value.shape)
        whole, frame = run.forward(x), framed(layer, run.shapes, 0, x)
        y = layer.prepare(run.local, frame)
        cuts = [sorted({0, size, *rng.integers(0, size + 1, size=2).tolist()}) for size in y.shape[1:-1]]
        regions = list(itertools.product(*(itertools.pairwise(cut) for cut in cuts)))
        rng.shuffle(regions)
        for region in regions:
            spaces = tuple(slice(int(a), int(b)) for a, b in region)
            layer.compute(run.local, (slice(0, shape[0]), *spaces, slice(0, y.shape[-1])), y, frame)
        np.testing.assert_allclose(y, whole, rtol=1e-12, atol=1e-12)
        layer.compute(run.local, (slice(None), slice(2, 2), *(slice(None),) * (y.ndim - 2)), y, frame)  # nothing
        np.testing.assert_allclose(y, whole, rtol=1e-12, atol=1e-12)
        dy = rng.normal(size=y.shape)
        np.testing.assert_array_equal(layer.backward_input(run.local, dy), layer.backward(run.local, dy)[0])
