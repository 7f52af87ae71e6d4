"""Maximum and average over windows, and over the whole of space."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from gridnn.errors import UserError
from gridnn.layers.base import Array, Context, Layer, Shape, Shapes
from gridnn.layers.computation import ACTIVATION, BufferSpec, Computation, LayerPart, Task, simple
from gridnn.layers.sliding import Padding, Sizes, Space, output_sizes, padding_pairs, per_axis, windows
from gridnn.layout.partition import Window


@dataclass(frozen=True)
class Pool(Layer):
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
    is_tiled: ClassVar[bool] = True
    memory_passes: ClassVar[tuple[float, float]] = (2.5, 2.0)

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


@dataclass(frozen=True)
class MaxPool(Pool):
    """The maximum of every window; the gradient goes to the first element that has it (abstract)."""

    padding_value: ClassVar[float] = -math.inf

    @property
    def index_dtype(self) -> str:
        """Of the number of a tap."""
        return "uint8" if math.prod(self.kernel) <= 256 else "uint32"

    def computation(self, part: LayerPart) -> Computation:
        forward = Task("forward", ("x",), ("index", "y"))
        backward = Task("backward", ("dy", "index"), ("dx",))
        index = BufferSpec("index", part.output, self.index_dtype)
        return Computation((forward,), (backward,), (index,), workspaces=(ACTIVATION,))

    def forward(self, context: Context, x: Array, index: Array, y: Array) -> None:
        """Write the maxima over the windows of a region, and which tap has each."""
        context.kernels.max_pool(x, self.kernel, self.stride, y, index, context.workspace())

    def backward(self, context: Context, dy: Array, index: Array, dx: Array) -> None:
        """Write the gradient of the ghosted input to ``dx``."""
        context.kernels.max_pool_grad(dy, index, self.kernel, self.stride, dx, context.workspace())


@dataclass(frozen=True)
class AvgPool(Pool):
    """The mean of every window (abstract).

    Attributes
    ----------
    count_padding : bool
        Whether the mean is over the whole window; otherwise it is over what of the window is not padding.
    """

    count_padding: bool = True

    def computation(self, part: LayerPart) -> Computation:
        forward, backward = Task("forward", ("x",), ("y",)), Task("backward", ("dy",), ("dx",))
        if self.count_padding or not any(map(any, self.padding)):
            return Computation((forward,), (backward,), workspaces=(ACTIVATION,))
        backward = Task("backward_weighted", ("dy",), ("weighted", "dx"))
        return Computation((forward,), (backward,), (BufferSpec("weighted", part.output),), workspaces=(ACTIVATION,))

    def forward(self, context: Context, x: Array, y: Array) -> None:
        """Write the means over the windows of a region."""
        context.kernels.avg_pool(x, self.kernel, self.stride, y)
        for factor in self._factors(context):
            y *= factor

    def backward(self, context: Context, dy: Array, dx: Array) -> None:
        """Write the gradient of the ghosted input to ``dx``."""
        context.kernels.avg_pool_grad(dy, self.kernel, self.stride, dx, context.workspace())

    def backward_weighted(self, context: Context, dy: Array, weighted: Array, dx: Array) -> None:
        """As `backward`, where the mean is over what of the window is not padding."""
        for factor in self._factors(context):
            dy = context.backend.xp.multiply(dy, factor, out=weighted)
        self.backward(context, dy, dx)

    def _factors(self, context: Context) -> list[Array]:
        """For each padded axis, the taps of every window over those that are not padding, along its own dimension."""
        if self.count_padding:
            return []
        xp, factors, ndim = context.backend.xp, [], len(context.output_box)
        for dim, window in enumerate(self.windows(None).values(), 1):
            if window.before or window.after:
                first = xp.arange(*context.output_box[dim]) * window.stride - window.before
                last = xp.minimum(first + window.kernel, context.shapes.inputs[0][dim])
                factor = (window.kernel / (last - xp.maximum(first, 0))).astype(context.wide)
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

    memory_passes: ClassVar[tuple[float, float]] = (2.0, 1.0)

    def infer(self, *shapes: Shape) -> Shape:
        if len(shapes[0]) < 2:
            raise UserError(f"GlobalAvgPool needs samples of shape (*space, channels), this one is {shapes[0]}")
        return shapes[0][-1:]

    def flops(self, shapes: Shapes) -> int:
        return math.prod(shapes.inputs[0])

    def computation(self, part: LayerPart) -> Computation:
        return simple(())

    def forward(self, context: Context, x: Array, y: Array) -> None:
        """Write this rank's part of the means to ``y``."""
        context.kernels.mean_space(x, math.prod(context.shapes.inputs[0][1:-1]), y)

    def backward(self, context: Context, dy: Array, dx: Array) -> None:
        """Write the gradient of the input to ``dx``."""
        context.kernels.mean_space_grad(dy, math.prod(context.shapes.inputs[0][1:-1]), dx)
