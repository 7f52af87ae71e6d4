"""Maximum and average over windows, and over the whole of space."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from gridnn.errors import UserError
from gridnn.layers.base import Array, Layer, Local, Partwise, Shape, Shapes
from gridnn.layers.rooms import Part, Room, Rooms, chained, usual
from gridnn.layers.sliding import Padding, Sizes, Space, output_sizes, padding_pairs, per_axis, under, windows
from gridnn.layout.layout import box_shape
from gridnn.layout.partition import Window


@dataclass(frozen=True)
class Pool(Partwise):
    """A reduction over the windows of x [n, *space, c] (abstract).

    Attributes
    ----------
    kernel : int or one per space axis
        Taps.
    stride : int or one per space axis, optional
        Step between outputs; the kernel by default, so that the windows tile the input.
    padding : int, one per space axis or one (before, after) per space axis
        At most half of the kernel on each side, so that every window has an element of the input.
    """

    space: ClassVar[Space] = ()
    passes: ClassVar[tuple[float, float]] = (2.5, 2.0)

    kernel: int | Sizes
    stride: int | Sizes | None = None
    padding: int | Sizes | Padding = 0

    def __post_init__(self):
        space = self.space
        object.__setattr__(self, "kernel", per_axis("kernel", self.kernel, 1, space))
        object.__setattr__(self, "stride", self.kernel if self.stride is None else self.stride)
        object.__setattr__(self, "stride", per_axis("stride", self.stride, 1, space))
        object.__setattr__(self, "padding", padding_pairs(self.padding, space))
        for axis, taps, padding in zip(space, self.kernel, self.padding, strict=True):
            if 2 * max(padding) > taps:
                raise UserError(
                    f"{type(self).__name__}: padding {max(padding)} over {axis} > kernel / 2 = {taps / 2:g}, "
                    "a window could be all padding; use less padding or a larger kernel"
                )

    def infer(self, *shapes: Shape) -> Shape:
        return (*output_sizes(type(self).__name__, shapes[0], self.windows(None)), shapes[0][-1])

    def windows(self, shapes: Shapes | None) -> dict[str, Window]:
        return windows(self.space, self.kernel, self.stride, self.padding)

    def flops(self, shapes: Shapes) -> int:
        return math.prod(shapes.output) * math.prod(self.kernel)

    def rooms(self, part: Part) -> Rooms:
        return usual(part, workspaces=(None,))

    def prepare(self, local: Local, *inputs: Array) -> Array:
        local.saved["frame"] = inputs[0].shape
        return local.buffer("y", box_shape(local.output_box))


@dataclass(frozen=True)
class MaxPool(Pool):
    """The maximum of every window; the gradient goes to the first element that has it (abstract)."""

    fill: ClassVar[float] = -math.inf

    @property
    def index_dtype(self) -> str:
        """Of the number of a tap."""
        return "uint8" if math.prod(self.kernel) <= 256 else "uint32"

    def rooms(self, part: Part) -> Rooms:
        index = Room("index", part.output, self.index_dtype)
        return usual(part, "index", extra=(index,), workspaces=(None,))

    def prepare(self, local: Local, *inputs: Array) -> Array:
        local.saved["index"] = local.buffer("index", box_shape(local.output_box), self.index_dtype)
        return super().prepare(local, *inputs)

    def compute(self, local: Local, region: tuple[slice, ...], y: Array, *inputs: Array) -> None:
        x, index = inputs[0][under(region, y.shape, self.windows(None))], local.saved["index"]
        workspace = local.backend.workspace(local.dtype)
        local.backend.kernels.max_pool(x, self.kernel, self.stride, y[region], index[region], workspace)

    def backward_input(self, local: Local, gradient: Array) -> Array | None:
        if not local.needs_gradient:
            return None
        dx, index = local.buffer("dx", local.saved["frame"]), local.saved["index"]
        workspace = local.backend.workspace(local.dtype)
        local.backend.kernels.max_pool_grad(gradient, index, self.kernel, self.stride, dx, workspace)
        return dx


@dataclass(frozen=True)
class AvgPool(Pool):
    """The mean of every window (abstract).

    Attributes
    ----------
    count_padding : bool
        Whether the mean is over the whole window; otherwise it is over what of the window is not padding.
    """

    count_padding: bool = True

    def rooms(self, part: Part) -> Rooms:
        padded = sum(any(pair) for pair in self.padding) if not self.count_padding else 0
        shapes = [part.output] * padded + [part.frames[0]]
        return super().rooms(part)._replace(backward=chained(shapes, "share", "dx"))

    def compute(self, local: Local, region: tuple[slice, ...], y: Array, *inputs: Array) -> None:
        x, part = inputs[0][under(region, y.shape, self.windows(None))], y[region]
        local.backend.kernels.avg_pool(x, self.kernel, self.stride, part)
        for factor in self._factors(local):
            part *= factor[tuple(r if n > 1 else slice(None) for r, n in zip(region, factor.shape, strict=True))]

    def backward_input(self, local: Local, gradient: Array) -> Array | None:
        if not local.needs_gradient:
            return None
        for factor in self._factors(local):
            gradient = local.backend.xp.multiply(gradient, factor, out=local.buffer("share", gradient.shape))
        dx, workspace = local.buffer("dx", local.saved["frame"]), local.backend.workspace(local.dtype)
        local.backend.kernels.avg_pool_grad(gradient, self.kernel, self.stride, dx, workspace)
        return dx

    def _factors(self, local: Local) -> list[Array]:
        """For each padded axis, the taps of every window over those that are not padding, along its own dimension."""
        if self.count_padding:
            return []
        xp, factors, ndim = local.backend.xp, [], len(local.output_box)
        for dim, window in enumerate(self.windows(None).values(), 1):
            if window.before or window.after:
                first = xp.arange(*local.output_box[dim]) * window.stride - window.before
                last = xp.minimum(first + window.kernel, local.shapes.inputs[0][dim])
                factor = (window.kernel / (last - xp.maximum(first, 0))).astype(local.wide)
                factors.append(factor.reshape(tuple(-1 if i == dim else 1 for i in range(ndim))))
        return factors


@dataclass(frozen=True)
class MaxPool1d(MaxPool):
    """`MaxPool` over sequences [n, w, c]."""

    space: ClassVar[Space] = ("w",)


@dataclass(frozen=True)
class MaxPool2d(MaxPool):
    """`MaxPool` over images [n, h, w, c]."""

    space: ClassVar[Space] = ("h", "w")


@dataclass(frozen=True)
class MaxPool3d(MaxPool):
    """`MaxPool` over volumes [n, d, h, w, c]."""

    space: ClassVar[Space] = ("d", "h", "w")


@dataclass(frozen=True)
class AvgPool1d(AvgPool):
    """`AvgPool` over sequences [n, w, c]."""

    space: ClassVar[Space] = ("w",)


@dataclass(frozen=True)
class AvgPool2d(AvgPool):
    """`AvgPool` over images [n, h, w, c]."""

    space: ClassVar[Space] = ("h", "w")


@dataclass(frozen=True)
class AvgPool3d(AvgPool):
    """`AvgPool` over volumes [n, d, h, w, c]."""

    space: ClassVar[Space] = ("d", "h", "w")


@dataclass(frozen=True)
class GlobalAvgPool(Layer):
    """The mean over all of space: [n, *space, c] -> [n, c]. With space divided, the output is a partial sum."""

    passes: ClassVar[tuple[float, float]] = (2.0, 1.0)

    def infer(self, *shapes: Shape) -> Shape:
        if len(shapes[0]) < 2:
            raise UserError(f"GlobalAvgPool needs samples of shape (*space, channels), this one is {shapes[0]}")
        return shapes[0][-1:]

    def flops(self, shapes: Shapes) -> int:
        return math.prod(shapes.inputs[0])

    def forward(self, local: Local, *inputs: Array) -> Array:
        x = inputs[0]
        local.saved["shape"] = x.shape
        y = local.buffer("y", box_shape(local.output_box))
        local.backend.kernels.mean_space(x, math.prod(local.shapes.inputs[0][1:-1]), y)
        return y

    def backward(self, local: Local, gradient: Array) -> tuple[Array | None, ...]:
        dx = local.buffer("dx", local.saved["shape"])
        local.backend.kernels.mean_space_grad(gradient, math.prod(local.shapes.inputs[0][1:-1]), dx)
        return (dx,)
