"""A layer computed in pieces: they may come in any order and need no more than what their windows reach."""

from __future__ import annotations

import copy
import itertools

import numpy as np
from serial import Serial

from gridnn.program.regions import under


def check_regions(layer, shape, seeds=4):
    """The output put together from random boxes equals the one computed whole, bit by bit or to rounding."""
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=shape)
        run = Serial(layer, shape)
        backend = run.context.backend
        for value in run.context.parameters.values():
            backend.from_host(rng.normal(size=value.shape), value)
        whole = run.forward(x)
        calls, (task,) = run.calls, run.calls.made.forward
        y = calls.array("y")
        y[...] = np.nan
        cuts = [sorted({0, size, *rng.integers(0, size + 1, size=2).tolist()}) for size in y.shape[1:-1]]
        regions = list(itertools.product(*(itertools.pairwise(cut) for cut in cuts)))
        rng.shuffle(regions)
        for region in regions:
            spaces = tuple(slice(int(a), int(b)) for a, b in region)
            compute(layer, run, task, (slice(0, shape[0]), *spaces, slice(0, y.shape[-1])))
        np.testing.assert_allclose(backend.to_host(y), whole, rtol=1e-12, atol=1e-12)
        nothing = (slice(0, shape[0]), slice(2, 2), *(slice(0, size) for size in y.shape[2:]))
        compute(layer, run, task, nothing)
        np.testing.assert_allclose(backend.to_host(y), whole, rtol=1e-12, atol=1e-12)


def compute(layer, run, task, region):
    """Call the layer's forward on a region of its output, as the schedule does."""
    calls, y = run.calls, run.calls.array("y")
    place = under(region, y.shape, layer.windows(run.shapes))
    context = copy.copy(run.context)
    context.output_box = tuple((part.start, part.stop) for part in region)
    order = [calls.array(name)[place if name == "x" else region] for name in (*task.reads, *task.writes)]
    getattr(layer, task.method)(context, *order)
