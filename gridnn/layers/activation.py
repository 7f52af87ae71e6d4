"""Activations: element by element, so any axis may be divided."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gridnn.layers.base import Array, Layer, Local
from gridnn.layers.rooms import Part, Room, Rooms, usual


@dataclass(frozen=True)
class ReLU(Layer):
    """max(x, 0)."""

    def rooms(self, part: Part) -> Rooms:
        return usual(part, "y")

    def forward(self, local: Local, *inputs: Array) -> Array:
        y = local.saved["y"] = local.buffer("y", inputs[0].shape)
        local.backend.kernels.relu(inputs[0], y)
        return y

    def backward(self, local: Local, gradient: Array) -> tuple[Array | None, ...]:
        dx = local.buffer("dx", gradient.shape)
        local.backend.kernels.relu_grad(local.saved["y"], gradient, dx)
        return (dx,)


@dataclass(frozen=True)
class LeakyReLU(Layer):
    """x where it is positive, ``slope * x`` elsewhere (Maas, Hannun, Ng 2013).

    Attributes
    ----------
    slope : float
        In [0, 1].
    """

    slope: float = 0.01

    def __post_init__(self):
        if not 0 <= self.slope <= 1:
            raise ValueError(f"LeakyReLU({self.slope}): the slope lies in [0, 1]")

    def rooms(self, part: Part) -> Rooms:
        return usual(part, "y")

    def forward(self, local: Local, *inputs: Array) -> Array:
        y, xp = local.buffer("y", inputs[0].shape), local.backend.xp
        local.saved["y"] = y
        xp.multiply(inputs[0], self.slope, out=y)
        xp.maximum(inputs[0], y, out=y)
        return y

    def backward(self, local: Local, gradient: Array) -> tuple[Array | None, ...]:
        dx, xp = local.buffer("dx", gradient.shape), local.backend.xp
        xp.greater(local.saved["y"], 0, out=dx)  # y has the sign of x, or is 0
        xp.maximum(dx, self.slope, out=dx)
        dx *= gradient
        return (dx,)


@dataclass(frozen=True)
class Tanh(Layer):
    """The hyperbolic tangent."""

    def rooms(self, part: Part) -> Rooms:
        return usual(part, "y")

    def forward(self, local: Local, *inputs: Array) -> Array:
        y = local.saved["y"] = local.buffer("y", inputs[0].shape)
        local.backend.xp.tanh(inputs[0], out=y)
        return y

    def backward(self, local: Local, gradient: Array) -> tuple[Array | None, ...]:
        dx = local.buffer("dx", gradient.shape)
        local.backend.kernels.tanh_grad(local.saved["y"], gradient, dx)
        return (dx,)


@dataclass(frozen=True)
class GELU(Layer):
    """x * Phi(x), Phi the normal distribution function (Hendrycks and Gimpel 2016).

    Attributes
    ----------
    approximate : str
        "none": by the error function; "tanh": by the paper's approximation.
    """

    passes: ClassVar[tuple[float, float]] = (40.0, 1.0)  # the error function

    approximate: str = "none"

    def __post_init__(self):
        if self.approximate not in ("none", "tanh"):
            raise ValueError(f"GELU(approximate={self.approximate!r}): choose 'none' or 'tanh'")

    def rooms(self, part: Part) -> Rooms:
        return usual(part, "slope", extra=(Room("slope", part.output),))

    def forward(self, local: Local, *inputs: Array) -> Array:
        x = inputs[0]
        y = local.buffer("y", x.shape)
        slope = local.buffer("slope", x.shape) if local.training else None
        local.saved["slope"] = slope
        local.backend.kernels.gelu(x, y, slope, self.approximate)
        return y

    def backward(self, local: Local, gradient: Array) -> tuple[Array | None, ...]:
        dx = local.buffer("dx", gradient.shape)
        local.backend.xp.multiply(gradient, local.saved["slope"], out=dx)
        return (dx,)
