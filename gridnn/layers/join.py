"""Layers of several inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gridnn.errors import UserError
from gridnn.layers.base import Array, Cut, Layer, Local, Shape, Shapes
from gridnn.layers.rooms import Part, Rooms, usual
from gridnn.layout.layout import box_shape
from gridnn.layout.partition import Clipped
from gridnn.layout.split import Split


@dataclass(frozen=True)
class Add(Layer):
    """The sum of inputs of one shape. All inputs have the same gradient, which ``backward`` returns as one array."""

    passes: ClassVar[tuple[float, float]] = (1.5, 0.0)

    def infer(self, *shapes: Shape) -> Shape:
        if len(set(shapes)) > 1:
            raise UserError(f"Add: shapes {' != '.join(map(str, shapes))}; all inputs must have one shape")
        return shapes[0]

    def flops(self, shapes: Shapes) -> int:
        return (len(shapes.inputs) - 1) * super().flops(shapes)

    def rooms(self, part: Part) -> Rooms:
        return usual(part)._replace(backward=())

    def forward(self, local: Local, *inputs: Array) -> Array:
        local.saved["inputs"] = len(inputs)
        y = local.buffer("y", inputs[0].shape)
        y[...] = inputs[0]
        for x in inputs[1:]:
            y += x
        return y

    def backward(self, local: Local, gradient: Array) -> tuple[Array | None, ...]:
        return (gradient,) * local.saved["inputs"]


@dataclass(frozen=True)
class Concat(Layer):
    """Inputs one behind the other along the channels.

    With co divided every rank has an even part of the output, and of each input what falls into it: perhaps nothing.
    """

    passes: ClassVar[tuple[float, float]] = (1.0, 0.0)

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

    def rooms(self, part: Part) -> Rooms:
        return usual(part)._replace(backward=())

    def forward(self, local: Local, *inputs: Array) -> Array:
        y = local.buffer("y", box_shape(local.output_box))
        start, parts = 0, []
        for x in inputs:
            parts.append(slice(start, start + x.shape[-1]))
            y[..., parts[-1]] = x
            start += x.shape[-1]
        local.saved["parts"] = parts
        return y

    def backward(self, local: Local, gradient: Array) -> tuple[Array | None, ...]:
        return tuple(gradient[..., part] for part in local.saved["parts"])
