"""A layer from outside the package: integers in, a parameter with an axis that no output has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gridnn.layers.base import Layer, Parameter
from gridnn.layers.computation import Computation, Task


@dataclass(frozen=True)
class Embedding(Layer):
    """A row of a table for every id; the axis ``v`` of the table may be divided: then every rank has a partial sum."""

    reads_integers: ClassVar[bool] = True
    words: int
    features: int

    def infer(self, shape):
        return (*shape, self.features)

    def input_axes(self, index, shapes):
        return ("n", "w")

    def output_axes(self, shapes):
        return ("n", "w", "co")

    def contracted(self, shapes):
        return ("v",)

    def extents(self, shapes):
        return {**super().extents(shapes), "v": self.words}

    def weights(self, shapes):
        return {"weight": Parameter((self.words, self.features), ("v", "co"), self.words)}

    def computation(self, part):
        backward = Task("backward", ("dy", "x"), stores_gradients=True)
        return Computation((Task("forward", ("x",), ("y",)),), (backward,))

    def forward(self, context, x, y):
        start, stop = context.parameter_boxes["weight"][0]
        mine = (x >= start) & (x < stop)
        y[...] = np.where(mine[..., None], context.parameters["weight"][np.where(mine, x - start, 0)], 0)

    def backward(self, context, dy, x):
        start, stop = context.parameter_boxes["weight"][0]
        table = context.gradients["weight"]
        table[...] = 0
        mine = (x >= start) & (x < stop)
        np.add.at(table, x[mine] - start, dy[mine])
