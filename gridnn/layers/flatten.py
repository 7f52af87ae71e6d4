"""From images to vectors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from gridnn.layers.base import Cut, Layer, Shape, Shapes
from gridnn.layers.computation import Computation, LayerPart, identity
from gridnn.layout.partition import Even, Scaled
from gridnn.layout.split import Split


@dataclass(frozen=True)
class Flatten(Layer):
    """[n, *space, c] -> [n, prod(space) * c], c the fastest.

    What is divided over the first space axis stays where it is; vectors pass through.
    """

    memory_passes: ClassVar[tuple[float, float]] = (0.0, 0.0)  # views

    def infer(self, *shapes: Shape) -> Shape:
        return (math.prod(shapes[0]),)

    def output_axes(self, shapes: Shapes) -> tuple[str, ...]:
        return ("n", self.input_axes(0, shapes)[1])

    def contracted(self, shapes: Shapes) -> tuple[str, ...]:
        return ()

    def cut_output(self, shapes: Shapes, split: Split) -> tuple[Cut, ...]:
        lines, inner = shapes.inputs[0][1], math.prod(shapes.inputs[0][2:])
        samples, axis = Even(shapes.output[0], split.parts("n")), self.output_axes(shapes)[1]
        return Cut("n", samples), Cut(axis, Scaled.of(Even(lines, split.parts(axis)), inner))

    def cut_input(self, index: int, shapes: Shapes, split: Split) -> tuple[Cut, ...]:
        axes = self.input_axes(index, shapes)
        return tuple(Cut(a, Even(size, split.parts(a))) for a, size in zip(axes, shapes.inputs[index], strict=True))

    def flops(self, shapes: Shapes) -> int:
        return 0

    def computation(self, part: LayerPart) -> Computation:
        return identity(part)
