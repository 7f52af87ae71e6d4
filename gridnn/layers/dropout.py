"""Dropout, the same elements on every grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gridnn.errors import UserError
from gridnn.layers.base import Array, Layer, Local
from gridnn.layers.rooms import Part, Room, Rooms, usual


@dataclass(frozen=True)
class Dropout(Layer):
    """Zero with probability p, else x / (1 - p); nothing outside training (Srivastava et al. 2014).

    Which elements is a function of (seed, layer, step, global index).

    Attributes
    ----------
    p : float
        In [0, 1).
    """

    draws: ClassVar[bool] = True
    passes: ClassVar[tuple[float, float]] = (20.0, 1.0)  # most of it random numbers

    p: float = 0.5

    def __post_init__(self):
        if not 0 <= self.p < 1:
            raise UserError(f"Dropout({self.p}): the probability is at least 0 and less than 1")

    def rooms(self, part: Part) -> Rooms:
        return usual(part, "mask", extra=(Room("mask", part.output),))

    def forward(self, local: Local, *inputs: Array) -> Array:
        x = inputs[0]
        if not local.training:
            return x
        mask = local.saved["mask"] = local.buffer("mask", x.shape)
        y = local.buffer("y", x.shape)
        local.backend.kernels.dropout(x, self.p, local.key, local.indices, local.shapes.output, mask, y)
        return y

    def backward(self, local: Local, gradient: Array) -> tuple[Array | None, ...]:
        dx = local.buffer("dx", gradient.shape)
        local.backend.xp.multiply(gradient, local.saved["mask"], out=dx)
        return (dx,)
