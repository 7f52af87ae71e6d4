"""Dropout, the same elements on every grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gridnn.errors import UserError
from gridnn.layers.base import Array, Context, Layer
from gridnn.layers.computation import BufferSpec, Computation, LayerPart, identity, simple


@dataclass(frozen=True)
class Dropout(Layer):
    """Zero with probability p, else x / (1 - p); nothing outside training (Srivastava et al. 2014).

    Which elements is a function of (seed, layer, step, global index).

    Attributes
    ----------
    p : float
        In [0, 1).
    """

    memory_passes: ClassVar[tuple[float, float]] = (20.0, 1.0)  # most of it random numbers

    p: float = 0.5

    def __post_init__(self):
        if not 0 <= self.p < 1:
            raise UserError(f"Dropout({self.p}): the probability is at least 0 and less than 1")

    def computation(self, part: LayerPart) -> Computation:
        if not part.training:
            return identity(part)
        made = simple(("mask",), (BufferSpec("mask", part.output),))
        return made._replace(forward=(made.forward[0]._replace(stochastic=True),))

    def forward(self, context: Context, x: Array, mask: Array, y: Array) -> None:
        """Draw the ``mask`` of 0 and 1 / (1 - p), and write ``x`` times it to ``y``."""
        context.kernels.dropout(x, self.p, context.key, context.indices, context.shapes.output, mask, y)

    def backward(self, context: Context, dy: Array, mask: Array, dx: Array) -> None:
        """Write the gradient of the input to ``dx``."""
        context.backend.xp.multiply(dy, mask, out=dx)
