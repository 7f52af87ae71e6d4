"""Local response normalisation across channels (AlexNet)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from gridnn.errors import UserError
from gridnn.layers.base import Array, Layer, Local, Shapes
from gridnn.layers.rooms import Part, Room, Rooms
from gridnn.layout.layout import box_shape
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

    passes: ClassVar[tuple[float, float]] = (28.0, 16.0)  # array by array, with a window of 5

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

    def rooms(self, part: Part) -> Rooms:
        forward = Room("base", part.output, "wide"), Room("scale", part.output, "wide"), Room("y", part.output)
        through = Room("through", part.output, "wide")
        backward = Room("share", part.output, "wide"), Room("dx", part.frames[0]), through
        return Rooms(forward, backward, ("x", "base", "scale"))

    def forward(self, local: Local, *inputs: Array) -> Array:
        x, xp = inputs[0], local.backend.xp
        shape = box_shape(local.output_box)
        base, scale = local.buffer("base", shape, local.wide), local.buffer("scale", shape, local.wide)
        y = local.buffer("y", shape)
        base[...] = 0
        for part in self._channels(shape[-1]):
            base += xp.square(x[..., part], out=scale, dtype=local.wide)
        base *= self.alpha / self.size
        base += self.k
        xp.power(base, -self.beta, out=scale)
        xp.multiply(self._middle(x, shape[-1]), scale, out=y)
        local.saved.update(x=x, base=base, scale=scale)
        return y

    def backward(self, local: Local, gradient: Array) -> tuple[Array | None, ...]:
        x, base, scale = (local.saved[name] for name in ("x", "base", "scale"))
        xp, channels = local.backend.xp, gradient.shape[-1]
        # y_c = x_c base_c**-beta, and every x_j under the window of c has a part in base_c
        share = local.buffer("share", gradient.shape, local.wide)
        xp.multiply(gradient, scale, out=share)
        dx = local.buffer("dx", x.shape)
        dx[...] = 0
        through = local.buffer("through", gradient.shape, local.wide)
        xp.multiply(share, self._middle(x, channels), out=through)
        through /= base
        through *= -2 * self.alpha * self.beta / self.size
        for part in self._channels(channels):
            target = dx[..., part]
            target += through
        dx *= x
        middle = self._middle(dx, channels)
        middle += share
        return (dx,)

    def _channels(self, channels: int) -> list[slice]:
        """For each place in the window, the channels of the frame that stand there."""
        return [slice(offset, offset + channels) for offset in range(self.size)]

    def _middle(self, frame: Array, channels: int) -> Array:
        """What of a frame is the input itself."""
        return frame[..., self.size // 2 : self.size // 2 + channels]
