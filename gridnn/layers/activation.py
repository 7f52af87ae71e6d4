"""Activations: element by element, so any axis may be divided."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gridnn.errors import UserError
from gridnn.layers.base import Array, Context, Layer
from gridnn.layers.computation import BufferSpec, Computation, LayerPart, View, simple


@dataclass(frozen=True)
class Pointwise(Layer):
    """An activation with two kernels, its own and its gradient by the output (abstract); a neighbour may do either."""

    def computation(self, part: LayerPart) -> Computation:
        made = simple(("y",), in_place=True)
        applied, derived = part.fused.applied, part.fused.derived
        views = (View("y", "x", part.output),) * applied + (View("dx", "dy", part.output),) * derived
        return made._replace(
            forward=() if applied else made.forward, backward=() if derived else made.backward, views=views
        )

    def forward(self, context: Context, x: Array, y: Array) -> None:
        """Write the activation of ``x`` to ``y``."""
        getattr(context.kernels, self.activation)(x, y)

    def backward(self, context: Context, dy: Array, y: Array, dx: Array) -> None:
        """Write the gradient of the input to ``dx``, from the output."""
        getattr(context.kernels, f"{self.activation}_grad")(y, dy, dx)


@dataclass(frozen=True)
class ReLU(Pointwise):
    """max(x, 0)."""

    activation: ClassVar[str] = "relu"


@dataclass(frozen=True)
class Tanh(Pointwise):
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

    def computation(self, part: LayerPart) -> Computation:
        return simple(("y",))

    def forward(self, context: Context, x: Array, y: Array) -> None:
        """Write the activation of ``x`` to ``y``."""
        context.kernels.leaky_relu(x, self.slope, y)

    def backward(self, context: Context, dy: Array, y: Array, dx: Array) -> None:
        """Write the gradient of the input to ``dx``; the output has the sign of the input."""
        context.kernels.leaky_relu_grad(y, dy, self.slope, dx)


@dataclass(frozen=True)
class GELU(Layer):
    """x * Phi(x), Phi the normal distribution function (Hendrycks and Gimpel 2016).

    Attributes
    ----------
    approximate : str
        "none": by the error function; "tanh": by the paper's approximation.
    """

    memory_passes: ClassVar[tuple[float, float]] = (40.0, 1.0)  # the error function

    approximate: str = "none"

    def __post_init__(self):
        if self.approximate not in ("none", "tanh"):
            raise UserError(f"GELU(approximate={self.approximate!r}): choose 'none' or 'tanh'")

    def computation(self, part: LayerPart) -> Computation:
        return simple(("slope",), (BufferSpec("slope", part.output),) if part.training else ())

    def forward(self, context: Context, x: Array, *made: Array) -> None:
        """Write the activation of ``x`` to the last array, and in training its slope to the one before."""
        *slope, y = made
        context.kernels.gelu(x, y, slope[0] if slope else None, self.approximate)

    def backward(self, context: Context, dy: Array, slope: Array, dx: Array) -> None:
        """Write the gradient of the input to ``dx``."""
        context.backend.xp.multiply(dy, slope, out=dx)
