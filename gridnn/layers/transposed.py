"""The transposed convolution over one, two or three space axes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from gridnn.errors import UserError
from gridnn.layers.base import Array, Context, Cut, Layer, Parameter, Shape, Shapes, tensor_axes
from gridnn.layers.computation import ACTIVATION, BufferSpec, Computation, LayerPart, Task
from gridnn.layers.groups import Channels, check_groups, is_depthwise, kernel_of, refuse_divided_groups
from gridnn.layers.linear import bias_gradient
from gridnn.layers.sliding import Padding, Sizes, Space, check_sample, padding_pairs, per_axis, windows
from gridnn.layout.layout import box_shape
from gridnn.layout.partition import Even, Window, intersect
from gridnn.layout.sampling import Transposed
from gridnn.layout.split import Split


@dataclass(frozen=True)
class ConvTranspose(Layer):
    """The adjoint of a convolution from [n, *space, co] to x [n, *inputs, ci], and a bias [co] (abstract).

    W is [*kernel, co / groups, ci], the weight of that convolution: its gradient of the input is the forward pass here.
    Output ``o`` is the sum of ``x[i] W[k]`` over all ``i * stride - before + k * dilation = o``, so that there are
    ``(inputs - 1) * stride - before - after + reach + output_padding`` outputs.

    Attributes
    ----------
    channels : int
        Output channels.
    kernel, stride, dilation : int or one per space axis
        Taps, step in the output between inputs, step between taps.
    padding : int, one per space axis or one (before, after) per space axis
        What is cut off the output.
    output_padding : int or one per space axis
        Outputs added behind, which few or no inputs reach; less than the stride or the dilation.
    groups : int
        Into how many groups of channels that do not mix the layer falls.
    bias : bool
        Whether there is a bias.
    """

    space: ClassVar[Space] = ()
    bound_by: ClassVar[str] = "conv"

    channels: int
    kernel: int | Sizes
    stride: int | Sizes = 1
    padding: int | Sizes | Padding = 0
    output_padding: int | Sizes = 0
    dilation: int | Sizes = 1
    groups: int = 1
    bias: bool = True

    def __post_init__(self):
        for name, least in (("kernel", 1), ("stride", 1), ("dilation", 1), ("output_padding", 0)):
            object.__setattr__(self, name, per_axis(name, getattr(self, name), least, self.space))
        object.__setattr__(self, "padding", padding_pairs(self.padding, self.space))
        check_groups(self, "output", self.channels)
        for axis, extra, step, apart in zip(self.space, self.output_padding, self.stride, self.dilation, strict=True):
            if extra >= max(step, apart):
                raise UserError(
                    f"{type(self).__name__}: output_padding {extra} over {axis} >= max(stride {step}, dilation {apart})"
                    f" = {max(step, apart)}; use less"
                )

    def infer(self, *shapes: Shape) -> Shape:
        check_sample(type(self).__name__, shapes[0], self.space)
        check_groups(self, "input", shapes[0][-1])
        return (*(self._outputs(dim, size) for dim, size in enumerate(shapes[0][:-1])), self.channels)

    def _outputs(self, dim: int, size: int) -> int:
        window, extra = self._windows()[dim], self.output_padding[dim]
        padding = window.before + window.after
        count = (size - 1) * window.stride - padding + window.reach + extra
        if count < 1:
            raise UserError(
                f"{type(self).__name__} {window.kernel} on {self.space[dim]} of {size}: ({size} - 1) * {window.stride} "
                f"- {padding} + {window.reach} + {extra} = {count} outputs; use less padding"
            )
        return count

    def _windows(self) -> tuple[Window, ...]:
        """Over each space axis, the window of the convolution that this one is the adjoint of."""
        return tuple(windows(self.space, self.kernel, self.stride, self.padding, self.dilation).values())

    def input_axes(self, index: int, shapes: Shapes) -> tuple[str, ...]:
        return tensor_axes(len(shapes.output), "ci" if self.groups == 1 else "co")

    def cut_input(self, index: int, shapes: Shapes, split: Split) -> tuple[Cut, ...]:
        samples, *space, channels = super().cut_input(index, shapes, split)
        moved = (
            Cut(cut.axis, Transposed.of(output.partition, window, size))
            for cut, output, window, size in zip(
                space, self.cut_output(shapes, split)[1:-1], self._windows(), shapes.inputs[0][1:-1], strict=True
            )
        )
        if self.groups > 1:  # whole groups on both sides: see `check`
            channels = Cut("co", Even(shapes.inputs[0][-1], split.parts("co")))
        return (samples, *moved, channels)

    def check(self, shapes: Shapes, split: Split) -> None:
        refuse_divided_groups(self, shapes, split)
        parts = split.parts("co")
        if self.groups % parts and self.groups > 1 and not is_depthwise(self, shapes):
            raise UserError(
                f"split co={parts}: {self.groups} groups of a {type(self).__name__} / {parts} = {self.groups / parts:g}"
                "; divide co into a divisor of the groups"
            )
        super().check(shapes, split)

    def weights(self, shapes: Shapes) -> dict[str, Parameter]:
        inputs = shapes.inputs[0][-1]
        shape = (*self.kernel, self.channels // self.groups, inputs)
        none = (None,) * len(self.space)
        axes = (*none, "co", "ci") if self.groups == 1 else (*none, None, "co")
        # so many products are summed in one output
        fan_in = max(1, inputs // self.groups * math.prod(self.kernel) // math.prod(self.stride))
        weights = {"weight": Parameter(shape, axes, fan_in=fan_in)}
        if self.bias:
            weights["bias"] = Parameter((self.channels,), ("co",))
        return weights

    def flops(self, shapes: Shapes) -> int:
        return 2 * math.prod(shapes.inputs[0]) * math.prod(self.kernel) * self.channels // self.groups

    def computation(self, part: LayerPart) -> Computation:
        reach = self._reach(part)
        cut = reach != part.output_box[1:-1]
        whole = ("whole",) * cut
        forward = Task("forward", ("x",), (*whole, "y"))
        shape = (part.output[0], *box_shape(reach), part.output[-1])
        specs = tuple(BufferSpec(name, shape) for name in ("whole", "whole_gradient"))
        extend = (Task("extend", ("dy",), ("whole_gradient",), share=0.0),) * cut
        dy = "whole_gradient" if cut else "dy"
        to_input = Task("backward_input", (dy,), ("dx",))
        to_weights = Task("backward_weights", ("dy", *(dy,) * cut, "x"), stores_gradients=True)
        return Computation((forward,), (*extend, to_input, to_weights), specs if cut else (), workspaces=(ACTIVATION,))

    def forward(self, context: Context, x: Array, *made: Array) -> None:
        """Write the output to the last array; where it is cut, all that the inputs reach to the one before."""
        run, weight, workspace = (
            kernel_of(self, context, "_grad_input"),
            context.parameters["weight"],
            context.workspace(),
        )
        whole, y = made[0], made[-1]
        for ci, co in self._groups(context):
            run(x[..., ci], weight[..., ci], self.stride, self.dilation, whole[..., co], workspace)
        if whole is not y:
            inside, reached = self._common(context)
            y[...] = 0
            y[reached] = whole[inside]
        if self.bias and context.part("ci") == 0:
            y += context.parameters["bias"]

    def extend(self, context: Context, dy: Array, whole: Array) -> None:
        """Write ``dy``, and 0 where the output is cut off, to ``whole``."""
        inside, reached = self._common(context)
        whole[...] = 0
        whole[inside] = dy[reached]

    def backward_input(self, context: Context, dy: Array, dx: Array) -> None:
        """Write the gradient of the input to ``dx``."""
        run, weight, workspace = kernel_of(self, context, ""), context.parameters["weight"], context.workspace()
        for ci, co in self._groups(context):
            run(dy[..., co], weight[..., ci], self.stride, self.dilation, dx[..., ci], workspace)

    def backward_weights(self, context: Context, dy: Array, *arrays: Array) -> None:
        """Store the gradients of the weights and the bias, from ``dy`` and where it is extended that, and the input."""
        whole, x = arrays[0] if len(arrays) > 1 else dy, arrays[-1]
        run, dw, workspace = kernel_of(self, context, "_grad_weight"), context.gradients["weight"], context.workspace()
        for ci, co in self._groups(context):
            run(whole[..., co], x[..., ci], self.stride, self.dilation, dw[..., ci], workspace)
        if self.bias:
            bias_gradient(context, dy)

    def _reach(self, held: Context | LayerPart) -> tuple[tuple[int, int], ...]:
        """Over each space axis, the range of outputs that this rank's inputs reach, cut off or not."""
        ranges = []
        for window, (start, stop) in zip(self._windows(), held.input_boxes[0][1:-1], strict=True):
            first = start * window.stride - window.before
            ranges.append((first, first + (stop - start - 1) * window.stride + window.reach if stop > start else first))
        return tuple(ranges)

    def _common(self, context: Context) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """What of the reach this rank's part of the output is, and what of that part is reached."""
        inside, reached = [slice(None)], [slice(None)]
        for reach, held in zip(self._reach(context), context.output_box[1:-1], strict=True):
            start, stop = intersect(reach, held)
            inside.append(slice(start - reach[0], stop - reach[0]))
            reached.append(slice(start - held[0], stop - held[0]))
        return tuple(inside), tuple(reached)

    def _groups(self, context: Context) -> Iterator[Channels]:
        """The local input and output channels of every group; depthwise ones all together."""
        if self.groups == 1 or is_depthwise(self, context.shapes):
            yield slice(None), slice(None)
            return
        inputs, outputs = context.shapes.inputs[0][-1] // self.groups, self.channels // self.groups
        first, last = context.output_box[-1]
        for group in range((last - first) // outputs):
            yield slice(group * inputs, (group + 1) * inputs), slice(group * outputs, (group + 1) * outputs)


@dataclass(frozen=True)
class ConvTranspose1d(ConvTranspose):
    """`ConvTranspose` over sequences [n, w, ci]."""

    space: ClassVar[Space] = ("w",)


@dataclass(frozen=True)
class ConvTranspose2d(ConvTranspose):
    """`ConvTranspose` over images [n, h, w, ci]."""

    space: ClassVar[Space] = ("h", "w")


@dataclass(frozen=True)
class ConvTranspose3d(ConvTranspose):
    """`ConvTranspose` over volumes [n, d, h, w, ci]."""

    space: ClassVar[Space] = ("d", "h", "w")
