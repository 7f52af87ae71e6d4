"""All splits of a layer over P ranks, for the tests."""

from __future__ import annotations

from collections.abc import Iterator

from gridnn.errors import UserError
from gridnn.layers.base import Layer, Shapes
from gridnn.layout.split import REPLICAS, Split


def ordered_factors(number: int) -> Iterator[tuple[int, ...]]:
    """The products of factors above 1, in every order: 6 gives (6,), (2, 3), (3, 2)."""
    if number == 1:
        yield ()
    for first in range(2, number + 1):
        if number % first == 0:
            for rest in ordered_factors(number // first):
                yield (first, *rest)


def admitted_splits(layer: Layer, shapes: Shapes, ranks: int) -> Iterator[Split]:
    """Every split that the layer accepts, replicas included, each axis named at most once."""
    sizes = dict(zip(layer.input_axes(0, shapes), shapes.inputs[0], strict=True))
    sizes.update(zip(layer.output_axes(shapes), shapes.output, strict=True))
    axes = (*layer.axes(shapes), REPLICAS)
    for factors in ordered_factors(ranks):
        for chosen in _choices(axes, len(factors)):
            split = Split(tuple(zip(chosen, factors, strict=True)))
            if all(split.parts(axis) <= sizes[axis] for axis in chosen if axis != REPLICAS):
                try:
                    layer.check(shapes, split)
                except UserError:
                    continue
                yield split


def _choices(axes: tuple[str, ...], count: int) -> Iterator[tuple[str, ...]]:
    if count == 0:
        yield ()
        return
    for i, axis in enumerate(axes):
        for rest in _choices(axes[:i] + axes[i + 1 :], count - 1):
            yield (axis, *rest)
