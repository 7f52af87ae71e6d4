"""What one cut into f parts costs a layer and its edges, by the axis that each divides: SoyBean's table made general.

Any axis (the successors of the paper divide space as well, by halos), any factor, any layer; volume only, as the paper.
Each number is what all ranks of one side of the earlier cuts receive together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from gridnn.layout.partition import Even
from gridnn.layout.split import REPLICAS, Split, ordered_axes
from gridnn.planning.search.arrays import Numbers
from gridnn.planning.search.groups import GroupLayer

Tiling = int | str
ROWS, COLUMNS = 0, 1  # R and C: halved along dimension 0 or 1
REPLICA, SUMS = "r", "red"  # whole on both sides; partial sums, which only a product gives
SHIFTED = -1  # a cut of the same dimension into other parts
ADJOINTS: dict[Tiling, Tiling] = {REPLICA: SUMS, SUMS: REPLICA}  # of the others: they themselves


@dataclass(frozen=True)
class CutLayer:
    """A layer on one side of the earlier cuts."""

    one: GroupLayer  # the layer, and its global shapes
    cuts: tuple[tuple[str, int], ...] = ()  # tuple of (axis, parts): what the earlier cuts divided, the first cut first

    def cut(self, axis: str, factor: int) -> CutLayer:
        """The layer after one more cut."""
        return replace(self, cuts=(*self.cuts, (axis, factor)))

    @property
    def split(self) -> Split:
        """The cuts as a split; neighbouring ones of one axis are one."""
        factors: list[tuple[str, int]] = []
        for axis, parts in self.cuts:
            if factors and factors[-1][0] == axis:
                parts *= factors.pop()[1]
            factors.append((axis, parts))
        return Split(tuple(factors))

    def choices(self, factor: int, axes: tuple[str, ...] | None = None) -> tuple[str, ...]:
        """The axes, of ``axes`` if they are given, that this cut may divide; replicas where there is none."""
        one, split, sizes = self.one, self.split, self.one.sizes
        own = [axis for axis in ordered_axes(one.layer.axes(one.shapes)) if axes is None or axis in axes]
        fitting = (axis for axis in own if split.parts(axis) * factor <= sizes[axis])
        return tuple(axis for axis in fitting if one.can_have(Split(((axis, factor),)))) or (REPLICAS,)

    def output(self, axis: str) -> Tiling:
        """What a cut along ``axis`` makes of the output."""
        layer = self.one.layer
        if axis in layer.contracted(self.one.shapes):
            return SUMS
        axes = layer.output_axes(self.one.shapes)
        return axes.index(axis) if axis in axes else REPLICA

    def input(self, index: int, axis: str) -> Tiling:
        """What a cut along ``axis`` asks of input ``index``."""
        axes = self.one.layer.input_axes(index, self.one.shapes)
        if axis not in axes:
            return REPLICA
        place, shape = axes.index(axis), self.one.shapes.inputs[index]
        joined = len(self.one.shapes.inputs) > 1 and shape[place] != self.one.shapes.output[place]
        return SHIFTED if joined else place

    def earlier(self, place: Tiling, index: int | None = None) -> tuple[int, ...]:
        """The earlier cuts that divide dimension ``place`` of the output, or of input ``index``."""
        tiling = self.output if index is None else partial(self.input, index)
        return tuple(number for number, (axis, _) in enumerate(self.cuts) if tiling(axis) == place)

    def output_size(self) -> float:
        """Elements of the output on this side."""
        return self._share(self.one.shapes.output, self.one.layer.output_axes(self.one.shapes))

    def input_size(self, index: int) -> float:
        """Elements of input ``index`` that this side needs, without what other sides need too."""
        return self._share(self.one.shapes.inputs[index], self.one.layer.input_axes(index, self.one.shapes))

    def _share(self, shape: tuple[int, ...], axes: tuple[str | None, ...]) -> float:
        split = self.split
        return math.prod(shape) / math.prod(split.parts(axis) for axis in axes if axis)

    def own_cost(self, axis: str, factor: int) -> float:
        """The sums of weight gradients and of statistics across a cut along ``axis``."""
        layer, parts = self.one.layer, Split((*self.cuts, (axis, factor)))
        words = sum(
            self._share(parameter.shape, parameter.axes)
            for parameter in layer.weights(self.one.shapes).values()
            if axis not in parameter.axes
        )
        extents = zip(layer.output_axes(self.one.shapes), self.one.shapes.output, strict=True)
        box = tuple((0, -(-size // parts.parts(a))) for a, size in extents)
        words += sum(r.words for r in layer.reductions(self.one.shapes, box, True) if axis in r.axes)
        return conversion(SUMS, REPLICA, words, factor)

    def overlap(self, index: int, axis: str, factor: int) -> float:
        """Elements of input ``index`` that the parts of a cut along ``axis`` need in common: halos, whole groups."""
        if axis not in self.one.layer.input_axes(index, self.one.shapes):
            return 0.0
        before, after = (self._needed(index, Split(cuts)) for cuts in (self.cuts, (*self.cuts, (axis, factor))))
        sides = math.prod(self.one.shapes.inputs[index]) / self.input_size(index)
        return max(0.0, after - before) / sides

    def _needed(self, index: int, split: Split) -> int:
        """The sum over all parts of what a split needs of an input."""
        cuts = self.one.layer.cut_input(index, self.one.shapes, split)
        return math.prod(p.size if isinstance(p, Even) else sum(map(p.extent, range(p.parts))) for _, p in cuts)


def edge_costs(
    before: CutLayer, after: CutLayer, index: int, axes: tuple[tuple[str, ...], tuple[str, ...]], factor: int
) -> Numbers:
    """What moves between two layers, forward and backward, by the choices of both.

    Backward the adjoint moves: a replica has become partial sums, and partial sums a replica.
    """
    had, asked = before.output_size(), after.input_size(index)
    out = np.zeros((len(axes[0]), len(axes[1])))
    for j, axis in enumerate(axes[1]):
        overlap = after.overlap(index, axis, factor)
        for i, other in enumerate(axes[0]):
            source, target = before.output(other), after.input(index, axis)
            if source == REPLICA:
                continue
            if source == target and before.earlier(source) != after.earlier(source, index):
                target = SHIFTED
            out[i, j] = overlap + conversion(source, target, had, factor, asked)
            if before.one.has_gradient:
                out[i, j] += overlap + conversion(_adjoint(target), _adjoint(source), asked, factor, had)
    return out


def _adjoint(tiling: Tiling) -> Tiling:
    return ADJOINTS.get(tiling, tiling)


def conversion(source: Tiling, target: Tiling, size: float, factor: int = 2, asked: float | None = None) -> float:
    """Elements that all devices together receive where a tensor goes from one tiling to another.

    The paper's table is ``factor`` 2: the same 0, r to anything 0, cut to another cut A/2, cut to r A, red to cut A,
    red to r 2A. ``size`` is A, the elements that a side has before the cut into ``factor`` parts. Where earlier cuts
    divide the two sides differently, ``asked`` are those of the target's side: sums are taken at ``size``, replicas
    made at ``asked``, and parts exchanged at the smaller of the two. As a target only the adjoint of a movement has
    partial sums, "red": whoever has a part adds zeros to it, and nothing moves.
    """
    asked = size if asked is None else asked
    if target in (source, SUMS) or source == REPLICA:
        return 0.0
    summed = (factor - 1) * size if source == SUMS else 0.0
    gathered = (factor - 1) * asked if target == REPLICA else 0.0
    return summed + gathered or min(size, asked) * (factor - 1) / factor
