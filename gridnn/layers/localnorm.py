"""Local response normalisation across channels (AlexNet)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from gridnn.errors import UserError
from gridnn.layers.base import Array, Context, Layer, Shapes
from gridnn.layers.computation import WIDE, BufferSpec, Computation, LayerPart, Task
from gridnn.layout.partition import Window


@dataclass(frozen=True)
class LocalResponseNorm(Layer):
    """x / (k + alpha / size * sum of x**2 over the ``size`` channels around it)**beta.

    Krizhevsky et al. 2012, section 3.3, with PyTorch's division by ``size`` (the paper's alpha is ``alpha / size``).
    The window is over the channels: divided, they exchange a halo as space does.

    Attributes
    ----------
    size : int
        Channels under the window: ``size // 2`` before, the rest of ``size - 1`` behind.
    alpha : float
        Times the mean of the squares under the window; not negative.
    beta : float
        The exponent.
    k : float
        What is added to the squares; positive.
    """

    memory_passes: ClassVar[tuple[float, float]] = (28.0, 16.0)  # array by array, with a window of 5

    size: int
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 1.0

    def __post_init__(self):
        if self.size < 1 or self.alpha < 0 or self.k <= 0:
            raise UserError(f"{self}: size is at least 1, alpha not negative and k positive")

    def windows(self, shapes: Shapes) -> dict[str, Window]:
        return {"co": Window(self.size, before=self.size // 2, after=(self.size - 1) // 2)}

    def flops(self, shapes: Shapes) -> int:
        return (self.size + 5) * math.prod(shapes.output)

    def computation(self, part: LayerPart) -> Computation:
        forward = Task("forward", ("x",), ("base", "scale", "y"))
        backward = Task("backward", ("dy", "x", "base", "scale"), ("share", "through", "dx"))
        names = ("base", "scale", "share", "through")
        return Computation((forward,), (backward,), tuple(BufferSpec(name, part.output, WIDE) for name in names))

    def forward(self, context: Context, x: Array, base: Array, scale: Array, y: Array) -> None:
        """Write the output to ``y``; ``base`` is what has the exponent, ``scale`` its power."""
        xp = context.backend.xp
        base[...] = 0
        for part in self._channels(y.shape[-1]):
            base += xp.square(x[..., part], out=scale, dtype=context.wide)
        base *= self.alpha / self.size
        base += self.k
        xp.power(base, -self.beta, out=scale)
        xp.multiply(self._middle(x, y.shape[-1]), scale, out=y)

    def backward(
        self,
        context: Context,
        dy: Array,
        x: Array,
        base: Array,
        scale: Array,
        share: Array,
        through: Array,
        dx: Array,
    ) -> None:
        """Write the gradient of the ghosted input to ``dx``.

        y_c = x_c base_c**-beta, and every x_j under the window of c has a part in base_c.
        """
        xp, channels = context.backend.xp, dy.shape[-1]
        xp.multiply(dy, scale, out=share)
        dx[...] = 0
        xp.multiply(share, self._middle(x, channels), out=through)
        through /= base
        through *= -2 * self.alpha * self.beta / self.size
        for part in self._channels(channels):
            target = dx[..., part]
            target += through
        dx *= x
        middle = self._middle(dx, channels)
        middle += share

    def _channels(self, channels: int) -> list[slice]:
        """For each place in the window, the channels of the ghosted input that stand there."""
        return [slice(offset, offset + channels) for offset in range(self.size)]

    def _middle(self, ghosted: Array, channels: int) -> Array:
        """What of a ghosted input is the input itself."""
        return ghosted[..., self.size // 2 : self.size // 2 + channels]
