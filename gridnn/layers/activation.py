"""Activations: element by element, so any axis may be divided."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gridnn.errors import UserError
from gridnn.layers.base import Array, Layer, Local
from gridnn.layers.rooms import Part, Room, Rooms, usual


@dataclass(frozen=True)
class Ruled(Layer):
    """An activation with two kernels, its own and its gradient by the output (abstract); a neighbour may do either."""

    def rooms(self, part: Part) -> Rooms:
        return usual(part, "y")

    def forward(self, local: Local, *inputs: Array) -> Array:
        if local.fused.applied:
            local.saved["y"] = inputs[0]
            return inputs[0]
        y = local.saved["y"] = local.buffer("y", inputs[0].shape)
        getattr(local.backend.kernels, self.activation)(inputs[0], y)
        return y

    def backward(self, local: Local, gradient: Array) -> tuple[Array | None, ...]:
        if local.fused.derived:
            return (gradient,)
        dx = local.buffer("dx", gradient.shape)
        getattr(local.backend.kernels, f"{self.activation}_grad")(local.saved["y"], gradient, dx)
        return (dx,)


@dataclass(frozen=True)
class ReLU(Ruled):
    """max(x, 0)."""

    activation: ClassVar[str] = "relu"


@dataclass(frozen=True)
class Tanh(Ruled):
    """The hyperbolic tangent."""

    activation: ClassVar[str] = "tanh"


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
            raise UserError(f"LeakyReLU({self.slope}): the slope lies in [0, 1]")

    def rooms(self, part: Part) -> Rooms:
        return usual(part, "y")

    def forward(self, local: Local, *inputs: Array) -> Array:
        y = local.saved["y"] = local.buffer("y", inputs[0].shape)
        local.backend.kernels.leaky_relu(inputs[0], self.slope, y)
        return y

    def backward(self, local: Local, gradient: Array) -> tuple[Array | None, ...]:
        dx = local.buffer("dx", gradient.shape)
        local.backend.kernels.leaky_relu_grad(local.saved["y"], gradient, self.slope, dx)  # y has the sign of x
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
            raise UserError(f"GELU(approximate={self.approximate!r}): choose 'none' or 'tanh'")

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
