"""The fully connected layer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from gridnn.errors import UserError
from gridnn.layers.base import Apart, Array, Local, Parameter, Shape, Shapes
from gridnn.layers.rooms import Part, Rooms, usual
from gridnn.layout.layout import box_shape

GAIN = math.sqrt(1 / 3)  # weights in +-1 / sqrt(fan_in), as in PyTorch: wide layers begin with small outputs


@dataclass(frozen=True)
class Linear(Apart):
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
    finishes: ClassVar[bool] = True

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

    def rooms(self, part: Part) -> Rooms:
        return usual(part, "x")

    def forward(self, local: Local, *inputs: Array) -> Array:
        x, fused, kernels = inputs[0], local.fused, local.backend.kernels
        local.saved["x"] = x
        y = local.buffer("y", box_shape(local.output_box))
        masked = fused.masked and local.training
        mask = kernels.linear(x, local.parameters["weight"], added_bias(self, local), fused.activation, y, masked)
        if mask is not None:
            local.saved["mask"] = mask
        return y

    def backward_input(self, local: Local, gradient: Array) -> Array | None:
        if not local.needs_gradient:
            return None
        x, fused = local.saved["x"], local.fused
        dx = local.buffer("dx", x.shape)
        mask = fused.maker.saved.get("mask") if fused.maker else None  # gone where that layer will be recomputed
        weight, kernels = local.parameters["weight"], local.backend.kernels
        kernels.linear_grad_input(gradient, weight, fused.derivative, x, mask, dx)
        return dx

    def backward_weights(self, local: Local, gradient: Array) -> None:
        whole = self.bias and local.part("ci") == 0
        db = local.gradients["bias"] if whole else None
        local.backend.kernels.linear_grad_weight(local.saved["x"], gradient, local.gradients["weight"], db)
        if self.bias and not whole:
            local.gradients["bias"][...] = 0


def added_bias(layer: Any, local: Local) -> Array | None:
    """The bias of a layer where it is added: where ``ci`` begins."""
    return local.parameters["bias"] if layer.bias and local.part("ci") == 0 else None


def bias_gradient(local: Local, gradient: Array) -> None:
    """The gradient of a bias that is added where ``ci`` begins."""
    if local.part("ci") == 0:
        local.backend.kernels.sum_rows(gradient, local.gradients["bias"])
    else:
        local.gradients["bias"][...] = 0
