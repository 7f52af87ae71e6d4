"""The fully connected layer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from gridnn.comm.layout import box_shape
from gridnn.layers.base import Array, Layer, Local, Parameter, Shape, Shapes
from gridnn.layers.rooms import Part, Rooms, usual

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

    work: ClassVar[str] = "gemm"

    features: int
    bias: bool = True

    def __post_init__(self):
        if self.features < 1:
            raise ValueError(f"Linear({self.features}): at least one feature is needed")

    def infer(self, *shapes: Shape) -> Shape:
        if len(shapes[0]) != 1:
            raise ValueError(
                f"Linear needs samples of shape (features,), this one is {shapes[0]}: put a Flatten before"
            )
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

    def rooms(self, part: Part) -> Rooms:
        return usual(part, "x")

    def forward(self, local: Local, *inputs: Array) -> Array:
        local.saved["x"] = inputs[0]
        y = local.buffer("y", box_shape(local.output_box))
        local.backend.kernels.matmul(inputs[0], local.parameters["weight"], y)
        if self.bias and local.part("ci") == 0:
            y += local.parameters["bias"]
        return y

    def backward(self, local: Local, gradient: Array) -> tuple[Array | None, ...]:
        x, kernels = local.saved["x"], local.backend.kernels
        kernels.matmul(x.T, gradient, local.gradients["weight"])
        if self.bias:
            bias_gradient(local, gradient)
        if not local.needs_gradient:
            return (None,)
        dx = local.buffer("dx", x.shape)
        kernels.matmul(gradient, local.parameters["weight"].T, dx)
        return (dx,)


def bias_gradient(local: Local, gradient: Array) -> None:
    """The gradient of a bias that is added where ``ci`` begins."""
    if local.part("ci") == 0:
        local.backend.kernels.sum_rows(gradient, local.gradients["bias"])
    else:
        local.gradients["bias"][...] = 0
