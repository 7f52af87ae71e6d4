"""The fully connected layer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from gridnn.errors import UserError
from gridnn.layers.base import Array, Context, Layer, Parameter, Shape, Shapes
from gridnn.layers.computation import Computation, LayerPart, Task

GAIN = math.sqrt(1 / 3)  # weights in +-1 / sqrt(fan_in), as in PyTorch: wide layers begin with small outputs


@dataclass(frozen=True)
class Linear(Layer):
    """y = x W + b, with x [n, ci], W [ci, co], b [co].

    Divided over ``ci`` the output is a partial sum; divided over ``co`` the gradient of the input is.

    Attributes
    ----------
    features : int
        Outputs per sample.
    bias : bool
        Whether there is a b.
    """

    bound_by: ClassVar[str] = "gemm"
    has_epilogue: ClassVar[bool] = True

    features: int
    bias: bool = True

    def __post_init__(self):
        if self.features < 1:
            raise UserError(f"Linear({self.features}): at least one feature is needed")

    def infer(self, *shapes: Shape) -> Shape:
        if len(shapes[0]) != 1:
            raise UserError(f"Linear needs samples of shape (features,), this one is {shapes[0]}: put a Flatten before")
        return (self.features,)

    def input_axes(self, index: int, shapes: Shapes) -> tuple[str, ...]:
        return ("n", "ci")

    def weights(self, shapes: Shapes) -> dict[str, Parameter]:
        inputs = shapes.inputs[0][1]
        weights = {"weight": Parameter((inputs, self.features), ("ci", "co"), inputs, GAIN)}
        if self.bias:
            weights["bias"] = Parameter((self.features,), ("co",))
        return weights

    def flops(self, shapes: Shapes) -> int:
        return 2 * shapes.inputs[0][0] * shapes.inputs[0][1] * self.features

    def computation(self, part: LayerPart) -> Computation:
        forward = Task("forward", ("x",), ("y",))
        to_input = Task("backward_input", ("dy", "x"), ("dx",))
        return Computation((forward,), (to_input, Task("backward_weights", ("dy", "x"), stores_gradients=True)))

    def forward(self, context: Context, x: Array, y: Array) -> None:
        """Write x W + b, and the activation after it where that is fused, to ``y``."""
        fused, masked = context.fused, context.fused.masked and context.training
        bias = added_bias(self, context)
        context.mask = context.kernels.linear(x, context.parameters["weight"], bias, fused.activation, y, masked)

    def backward_input(self, context: Context, dy: Array, x: Array, dx: Array) -> None:
        """Write dy W^T, and the derivative of the activation before it where that is fused, to ``dx``."""
        weight, fused = context.parameters["weight"], context.fused
        context.kernels.linear_grad_input(dy, weight, fused.derivative, x, context.input_mask, dx)

    def backward_weights(self, context: Context, dy: Array, x: Array) -> None:
        """Store the gradients of W and b."""
        whole = self.bias and context.part("ci") == 0
        db = context.gradients["bias"] if whole else None
        context.kernels.linear_grad_weight(x, dy, context.gradients["weight"], db)
        if self.bias and not whole:
            context.gradients["bias"][...] = 0


def added_bias(layer: Any, context: Context) -> Array | None:
    """The bias of a layer where it is added: where ``ci`` begins."""
    return context.parameters["bias"] if layer.bias and context.part("ci") == 0 else None


def bias_gradient(context: Context, dy: Array) -> None:
    """Store the gradient of a bias that is added where ``ci`` begins."""
    if context.part("ci") == 0:
        context.kernels.sum_rows(dy, context.gradients["bias"])
    else:
        context.gradients["bias"][...] = 0
