"""Random layouts for the transfer tests: every kind of division, replicas, partial sums and halos."""

from __future__ import annotations

import random

from gridnn.layout.layout import Dim, Layout
from gridnn.layout.partition import Clipped, Even, Scaled, Window, Windowed
from gridnn.layout.split import Split

SHAPE = (5, 14, 6)  # n, h, channels
NAMES = ("n", "h", "co")


def random_split(rng: random.Random, ranks: int, axes: tuple[str, ...]) -> Split:
    """P as a product of factors, each given to an axis."""
    factors, left = [], ranks
    while left > 1:
        divisor = rng.choice([d for d in range(2, left + 1) if left % d == 0])
        factors.append((rng.choice(axes), divisor))
        left //= divisor
    rng.shuffle(factors)
    return Split(tuple(factors))


def random_source(rng: random.Random, ranks: int) -> Layout:
    """Divided, replicated and partial (ci) in any mixture; parts do not overlap."""
    split = random_split(rng, ranks, ("n", "h", "co", "replicas", "ci"))
    dims = [Dim(Even(size, split.parts(a)), split.mesh_axes(a)) for a, size in zip(NAMES, SHAPE, strict=True)]
    if rng.random() < 0.3:  # rows of a flattened image
        dims[1] = Dim(Scaled.of(Even(SHAPE[1] // 2, split.parts("h")), 2), split.mesh_axes("h"))
    return Layout(split.mesh, tuple(dims), split.mesh_axes("ci"))


def random_target(rng: random.Random, ranks: int) -> Layout:
    """Divided and replicated in any mixture, perhaps with a halo or a section of a larger tensor."""
    split = random_split(rng, ranks, ("n", "h", "co", "replicas"))
    dims = [Dim(Even(size, split.parts(a)), split.mesh_axes(a)) for a, size in zip(NAMES, SHAPE, strict=True)]
    choice = rng.random()
    if choice < 0.5:
        window = Window(rng.randint(1, 6), rng.randint(1, 3), rng.randint(1, 2), rng.randint(0, 3), rng.randint(0, 3))
        outputs = window.outputs(SHAPE[1])
        if outputs > 0:
            dims[1] = Dim(Windowed.of(Even(outputs, split.parts("h")), window, SHAPE[1]), split.mesh_axes("h"))
    elif choice < 0.65:
        dims[2] = Dim(Clipped.of(Even(SHAPE[2] + 5, split.parts("co")), 2, SHAPE[2]), split.mesh_axes("co"))
    return Layout(split.mesh, tuple(dims))


def following_target(rng: random.Random, source: Layout) -> Layout:
    """A target on the source's own mesh, so that the patterns of collectives come up often."""
    mesh_axes: list[list[int]] = [[d for d in dim.mesh_axes if rng.random() < 0.7] for dim in source.dims]
    used = {d for dim in mesh_axes for d in dim}
    for mesh_axis in (*source.replicas, *source.partial, *(set(range(len(source.mesh))) - used)):
        place = rng.randint(0, 3)
        if mesh_axis not in used and place < 3:
            mesh_axes[place].append(mesh_axis)
            used.add(mesh_axis)
    dims = []
    for size, own in zip(SHAPE, mesh_axes, strict=True):
        parts = 1
        for mesh_axis in own:
            parts *= source.mesh[mesh_axis]
        dims.append(Dim(Even(size, parts), tuple(own)))
    return Layout(source.mesh, tuple(dims))
