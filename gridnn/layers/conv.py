"""The convolution over one, two or three space axes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from gridnn.layers.base import Array, Context, Cut, Layer, Parameter, Shape, Shapes, tensor_axes
from gridnn.layers.computation import ACTIVATION, Computation, LayerPart, Task
from gridnn.layers.groups import Channels, Grouped, check_groups, is_depthwise, kernel_of, refuse_divided_groups
from gridnn.layers.linear import added_bias, bias_gradient
from gridnn.layers.sliding import Padding, Sizes, Space, output_sizes, padding_pairs, per_axis, windows
from gridnn.layout.partition import Window
from gridnn.layout.split import Split


@dataclass(frozen=True)
class Conv(Layer):
    """A convolution of x [n, *space, ci] with W [*kernel, ci / groups, co], and a bias [co] (abstract).

    Attributes
    ----------
    channels : int
        Output channels.
    kernel, stride, dilation : int or one per space axis
        Taps, step between outputs, step between taps.
    padding : int, one per space axis or one (before, after) per space axis
        Zeros around the input.
    groups : int
        Into how many groups of channels that do not mix the layer falls; the number of input channels makes it
        depthwise.
    bias : bool
        Whether there is a bias.
    """

    space: ClassVar[Space] = ()
    bound_by: ClassVar[str] = "conv"
    has_epilogue: ClassVar[bool] = True
    is_tiled: ClassVar[bool] = True

    channels: int
    kernel: int | Sizes
    stride: int | Sizes = 1
    padding: int | Sizes | Padding = 0
    dilation: int | Sizes = 1
    groups: int = 1
    bias: bool = True

    def __post_init__(self):
        for name in ("kernel", "stride", "dilation"):
            object.__setattr__(self, name, per_axis(name, getattr(self, name), 1, self.space))
        object.__setattr__(self, "padding", padding_pairs(self.padding, self.space))
        check_groups(self, "output", self.channels)

    def infer(self, *shapes: Shape) -> Shape:
        space = output_sizes(type(self).__name__, shapes[0], self.windows(None))
        check_groups(self, "input", shapes[0][-1])
        return (*space, self.channels)

    def input_axes(self, index: int, shapes: Shapes) -> tuple[str, ...]:
        return tensor_axes(len(shapes.output), "ci" if self.groups == 1 else "co")

    def windows(self, shapes: Shapes | None) -> dict[str, Window]:
        return windows(self.space, self.kernel, self.stride, self.padding, self.dilation)

    def cut_input(self, index: int, shapes: Shapes, split: Split) -> tuple[Cut, ...]:
        cuts = super().cut_input(index, shapes, split)
        if self.groups == 1:
            return cuts
        return (*cuts[:-1], Cut("co", Grouped.of(cuts[-1].partition, self.groups, shapes.inputs[0][-1])))

    def check(self, shapes: Shapes, split: Split) -> None:
        refuse_divided_groups(self, shapes, split)
        super().check(shapes, split)

    def weights(self, shapes: Shapes) -> dict[str, Parameter]:
        inputs = shapes.inputs[0][-1] // self.groups
        shape = (*self.kernel, inputs, self.channels)
        axes = (*(None for _ in self.space), "ci" if self.groups == 1 else None, "co")
        weights = {"weight": Parameter(shape, axes, fan_in=math.prod(shape[:-1]))}
        if self.bias:
            weights["bias"] = Parameter((self.channels,), ("co",))
        return weights

    def flops(self, shapes: Shapes) -> int:
        return 2 * math.prod(shapes.output) * math.prod(self.kernel) * shapes.inputs[0][-1] // self.groups

    def computation(self, part: LayerPart) -> Computation:
        forward = Task("forward", ("x",), ("y",))
        to_input = Task("backward_input", ("dy",), ("dx",))
        to_weights = Task("backward_weights", ("dy", "x"), stores_gradients=True)
        return Computation((forward,), (to_input, to_weights), workspaces=(ACTIVATION,))

    def forward(self, context: Context, x: Array, y: Array) -> None:
        """Write the convolution of ``x``, a region of the ghosted input, to the region ``y`` of the output."""
        weight, run, workspace = context.parameters["weight"], kernel_of(self, context, ""), context.workspace()
        for ci, co in self._groups(context):
            run(x[..., ci], weight[..., co], self.stride, self.dilation, y[..., co], workspace)
        bias, activation = added_bias(self, context), context.fused.activation
        if bias is not None or activation != "none":
            context.kernels.finish(y, bias, activation)

    def backward_input(self, context: Context, dy: Array, dx: Array) -> None:
        """Write the gradient of the ghosted input to ``dx``."""
        weight, workspace = context.parameters["weight"], context.workspace()
        run = kernel_of(self, context, "_grad_input")
        for ci, co in self._groups(context):
            run(dy[..., co], weight[..., co], self.stride, self.dilation, dx[..., ci], workspace)

    def backward_weights(self, context: Context, dy: Array, x: Array) -> None:
        """Store the gradients of the weights and the bias."""
        dw, workspace = context.gradients["weight"], context.workspace()
        run = kernel_of(self, context, "_grad_weight")
        for ci, co in self._groups(context):
            run(x[..., ci], dy[..., co], self.stride, self.dilation, dw[..., co], workspace)
        if self.bias:
            bias_gradient(context, dy)

    def _groups(self, context: Context) -> Iterator[Channels]:
        """The local channels of every group that this rank's output channels touch; depthwise ones all together."""
        if self.groups == 1 or is_depthwise(self, context.shapes):
            yield slice(None), slice(None)
            return
        first, last = context.output_box[-1]
        offset = context.input_boxes[0][-1][0]
        outputs, inputs = self.channels // self.groups, context.shapes.inputs[0][-1] // self.groups
        for group in range(first // outputs, -(-last // outputs)):
            start, stop = max(first, group * outputs), min(last, (group + 1) * outputs)
            ci = slice(group * inputs - offset, (group + 1) * inputs - offset)
            yield ci, slice(start - first, stop - first)


@dataclass(frozen=True)
class Conv1d(Conv):
    """`Conv` over sequences [n, w, ci]."""

    space: ClassVar[Space] = ("w",)


@dataclass(frozen=True)
class Conv2d(Conv):
    """`Conv` over images [n, h, w, ci]."""

    space: ClassVar[Space] = ("h", "w")


@dataclass(frozen=True)
class Conv3d(Conv):
    """`Conv` over volumes [n, d, h, w, ci]."""

    space: ClassVar[Space] = ("d", "h", "w")
