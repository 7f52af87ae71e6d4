"""The convolution over h and w."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from gridnn.comm.layout import box_shape
from gridnn.comm.partition import Even, Interval, Partition, Window
from gridnn.comm.split import Split
from gridnn.layers.base import Array, Cut, Layer, Local, Parameter, Shape, Shapes
from gridnn.layers.linear import bias_gradient
from gridnn.layers.sliding import Pair, output_sizes, padding_pairs, pair, windows


@dataclass(frozen=True)
class Grouped(Partition):
    """The input channels of all groups that a part of the output channels, ``base``, touches: parts may overlap."""

    base: Partition
    groups: int

    @classmethod
    def of(cls, base: Partition, groups: int, size: int) -> Partition:
        """The partition of ``size`` input channels; an even one where every part has whole groups."""
        if isinstance(base, Even) and groups % base.parts == 0:
            return Even(size, base.parts)
        return cls(size, base.parts, base, groups)

    def interval(self, part: int) -> Interval:
        start, stop = self.base.interval(part)
        outputs, inputs = self.base.size // self.groups, self.size // self.groups
        return start // outputs * inputs, -(-stop // outputs) * inputs

    def coarsen(self, factor: int) -> Partition | None:
        coarse = self.base.coarsen(factor)
        return None if coarse is None else Grouped.of(coarse, self.groups, self.size)


@dataclass(frozen=True)
class Conv2d(Layer):
    """A convolution of x [n, h, w, ci] with W [kh, kw, ci / groups, co], and a bias [co].

    Attributes
    ----------
    channels : int
        Output channels.
    kernel, stride, dilation : int or (h, w)
        Taps, step between outputs, step between taps.
    padding : int, (h, w) or ((before, after), (before, after))
        Zeros around the input.
    groups : int
        Into how many groups of channels that do not mix the layer falls; the number of input channels makes it
        depthwise.
    bias : bool
        Whether there is a bias.
    """

    channels: int
    kernel: int | Pair
    stride: int | Pair = 1
    padding: int | Pair | tuple[Pair, Pair] = 0
    dilation: int | Pair = 1
    groups: int = 1
    bias: bool = True

    def __post_init__(self):
        for name in ("kernel", "stride", "dilation"):
            object.__setattr__(self, name, pair(name, getattr(self, name), 1))
        object.__setattr__(self, "padding", padding_pairs(self.padding))
        if self.channels < 1 or self.groups < 1:
            raise ValueError(f"Conv2d: channels={self.channels}, groups={self.groups}; at least one of each is needed")
        self._check_groups("output", self.channels)

    def infer(self, *shapes: Shape) -> Shape:
        space = output_sizes("Conv2d", shapes[0], self.windows(None))
        self._check_groups("input", shapes[0][2])
        return (*space, self.channels)

    def _check_groups(self, side: str, channels: int) -> None:
        if channels % self.groups:
            equation = f"{channels} {side} channels / {self.groups} groups = {channels / self.groups:g}"
            raise ValueError(f"Conv2d: {equation}; give groups that divide the channels")

    def input_axes(self, index: int, shapes: Shapes) -> tuple[str, ...]:
        return ("n", "h", "w", "ci" if self.groups == 1 else "co")

    def windows(self, shapes: Shapes | None) -> dict[str, Window]:
        return windows(self.kernel, self.stride, self.padding, self.dilation)

    def cut_input(self, index: int, shapes: Shapes, split: Split) -> tuple[Cut, ...]:
        cuts = super().cut_input(index, shapes, split)
        if self.groups == 1:
            return cuts
        return (*cuts[:-1], Cut("co", Grouped.of(cuts[-1].partition, self.groups, shapes.inputs[0][3])))

    def check(self, shapes: Shapes, split: Split) -> None:
        if self.groups > 1 and split.parts("ci") > 1:
            raise ValueError(
                f"split ci={split.parts('ci')}: a Conv2d with groups={self.groups} sums over the "
                f"{shapes.inputs[0][3] // self.groups} input channels of a group only: divide co instead"
            )
        super().check(shapes, split)

    def weights(self, shapes: Shapes) -> dict[str, Parameter]:
        inputs = shapes.inputs[0][3] // self.groups
        shape = (*self.kernel, inputs, self.channels)
        axes = (None, None, "ci" if self.groups == 1 else None, "co")
        weights = {"weight": Parameter(shape, axes, fan_in=math.prod(shape[:3]))}
        if self.bias:
            weights["bias"] = Parameter((self.channels,), ("co",))
        return weights

    def flops(self, shapes: Shapes) -> int:
        return 2 * math.prod(shapes.output) * math.prod(self.kernel) * shapes.inputs[0][3] // self.groups

    def forward(self, local: Local, *inputs: Array) -> Array:
        x, weight, backend = inputs[0], local.parameters["weight"], local.backend
        local.saved["x"] = x
        y = local.buffer("y", box_shape(local.output_box))
        workspace = backend.workspace(local.dtype)
        for ci, co in self._pieces(local):
            part = weight[..., co]
            backend.kernels.conv2d(x[..., ci], part, self.stride, self.dilation, y[..., co], workspace)
        if self.bias and local.part("ci") == 0:
            y += local.parameters["bias"]
        return y

    def backward(self, local: Local, gradient: Array) -> tuple[Array | None, ...]:
        x, weight, dw = local.saved["x"], local.parameters["weight"], local.gradients["weight"]
        kernels, workspace = local.backend.kernels, local.backend.workspace(local.dtype)
        for ci, co in self._pieces(local):
            dy = gradient[..., co]
            kernels.conv2d_grad_weight(x[..., ci], dy, self.stride, self.dilation, dw[..., co], workspace)
        if self.bias:
            bias_gradient(local, gradient)
        if not local.needs_gradient:
            return (None,)
        dx = local.buffer("dx", x.shape)
        if self.groups > 1:
            dx[...] = 0  # two parts of the output may lie in one group
        for ci, co in self._pieces(local):
            dy = gradient[..., co]
            kernels.conv2d_grad_input(dy, weight[..., co], self.stride, self.dilation, dx[..., ci], workspace)
        return (dx,)

    def _pieces(self, local: Local) -> Iterator[tuple[slice, slice]]:
        """The local input and output channels of every group that this rank's output channels touch."""
        if self.groups == 1:
            yield slice(None), slice(None)
            return
        first, last = local.output_box[3]
        offset = local.input_boxes[0][3][0]
        outputs, inputs = self.channels // self.groups, local.shapes.inputs[0][3] // self.groups
        for group in range(first // outputs, -(-last // outputs)):
            start, stop = max(first, group * outputs), min(last, (group + 1) * outputs)
            ci = slice(group * inputs - offset, (group + 1) * inputs - offset)
            yield ci, slice(start - first, stop - first)
