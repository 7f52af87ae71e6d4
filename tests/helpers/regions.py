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
        backend = run.local.backend
        for value in run.local.parameters.values():
            backend.from_host(rng.normal(size=value.shape), value)
        whole, frame = run.forward(x), backend.asarray(framed(layer, run.shapes, 0, x))
        y = layer.prepare(run.local, frame)
        cuts = [sorted({0, size, *rng.integers(0, size + 1, size=2).tolist()}) for size in y.shape[1:-1]]
        regions = list(itertools.product(*(itertools.pairwise(cut) for cut in cuts)))
        rng.shuffle(regions)
        for region in regions:
            spaces = tuple(slice(int(a), int(b)) for a, b in region)
            layer.compute(run.local, (slice(0, shape[0]), *spaces, slice(0, y.shape[-1])), y, frame)
        np.testing.assert_allclose(backend.to_host(y), whole, rtol=1e-12, atol=1e-12)
        layer.compute(run.local, (slice(None), slice(2, 2), *(slice(None),) * (y.ndim - 2)), y, frame)  # nothing
        np.testing.assert_allclose(backend.to_host(y), whole, rtol=1e-12, atol=1e-12)
        dy = backend.asarray(rng.normal(size=y.shape))
        pieces, at_once = layer.backward_input(run.local, dy), layer.backward(run.local, dy)[0]
        np.testing.assert_array_equal(backend.to_host(pieces), backend.to_host(at_once))
