"""Layers of several inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gridnn.errors import UserError
from gridnn.layers.base import Array, Context, Cut, Layer, Shape, Shapes
from gridnn.layers.computation import Computation, LayerPart, Task, View, gradient, inputs
from gridnn.layout.partition import Clipped
from gridnn.layout.split import Split


@dataclass(frozen=True)
class Add(Layer):
    """The sum of inputs of one shape. All inputs have the same gradient, which is one array."""

    memory_passes: ClassVar[tuple[float, float]] = (1.5, 0.0)

    def infer(self, *shapes: Shape) -> Shape:
        if len(set(shapes)) > 1:
            raise UserError(f"Add: shapes {' != '.join(map(str, shapes))}; all inputs must have one shape")
        return shapes[0]

    def flops(self, shapes: Shapes) -> int:
        return (len(shapes.inputs) - 1) * super().flops(shapes)

    def computation(self, part: LayerPart) -> Computation:
        names = inputs(len(part.ghosted))
        views = tuple(View(gradient(name), "dy", part.output) for name in names)
        return Computation((Task("forward", names, ("y",), in_place=("x", "y")),), views=views)

    def forward(self, context: Context, x: Array, *others: Array) -> None:
        """Write the sum of all arrays but the last to the last one."""
        *others, y = others
        if not others:
            y[...] = x
            return
        context.backend.xp.add(x, others[0], out=y)
        for other in others[1:]:
            y += other


@dataclass(frozen=True)
class Concat(Layer):
    """Inputs one behind the other along the channels.

    With co divided every rank has an even part of the output, and of each input what falls into it: perhaps nothing.
    """

    memory_passes: ClassVar[tuple[float, float]] = (1.0, 0.0)

    def infer(self, *shapes: Shape) -> Shape:
        if len({shape[:-1] for shape in shapes}) > 1:
            raise UserError(f"Concat: shapes {', '.join(map(str, shapes))} may differ in their channels only")
        return (*shapes[0][:-1], sum(shape[-1] for shape in shapes))

    def cut_input(self, index: int, shapes: Shapes, split: Split) -> tuple[Cut, ...]:
        *cuts, channels = self.cut_output(shapes, split)
        offset = sum(shape[-1] for shape in shapes.inputs[:index])
        return (*cuts, Cut("co", Clipped.of(channels.partition, offset, shapes.inputs[index][-1])))

    def flops(self, shapes: Shapes) -> int:
        return 0

    def computation(self, part: LayerPart) -> Computation:
        names, views, start = inputs(len(part.ghosted)), [], 0
        whole = (slice(None),) * (len(part.output) - 1)
        for name, shape in zip(names, part.ghosted, strict=True):
            views.append(View(gradient(name), "dy", shape, (*whole, slice(start, start + shape[-1]))))
            start += shape[-1]
        return Computation((Task("forward", names, ("y",)),), views=tuple(views))

    def forward(self, context: Context, *arrays: Array) -> None:
        """Write all arrays but the last, one behind the other, to the last one."""
        *parts, y = arrays
        start = 0
        for x in parts:
            y[..., start : start + x.shape[-1]] = x
            start += x.shape[-1]
