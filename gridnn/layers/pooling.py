"""Maximum and average over windows, and over the whole of space."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from gridnn.comm.layout import box_shape
from gridnn.comm.partition import Window
from gridnn.layers.base import Array, Layer, Local, Shape, Shapes
from gridnn.layers.sliding import Pair, output_sizes, padding_pairs, pair, windows


@dataclass(frozen=True)
class Pool2d(Layer):
    """A reduction over the windows of x [n, h, w, c] (abstract).

    Attributes
    ----------
    kernel : int or (h, w)
        Taps.
    stride : int or (h, w), optional
        Step between outputs; the kernel by default, so that the windows tile the input.
    padding : int, (h, w) or ((before, after), (before, after))
        At most half of the kernel on each side, so that every window has an element of the input.
    """

    kernel: int | Pair
    stride: int | Pair | None = None
    padding: int | Pair | tuple[Pair, Pair] = 0

    def __post_init__(self):
        object.__setattr__(self, "kernel", pair("kernel", self.kernel, 1))
        object.__setattr__(self, "stride", pair("stride", self.kernel if self.stride is None else self.stride, 1))
        object.__setattr__(self, "padding", padding_pairs(self.padding))
        for axis, taps, padding in zip("hw", self.kernel, self.padding, strict=True):
            if 2 * max(padding) > taps:
                raise ValueError(
                    f"{type(self).__name__}: padding {max(padding)} over {axis} > kernel / 2 = {taps / 2:g}, "
                    "a window could be all padding; use less padding or a larger kernel"
                )

    def infer(self, *shapes: Shape) -> Shape:
        return (*output_sizes(type(self).__name__, shapes[0], self.windows(None)), shapes[0][2])

    def windows(self, shapes: Shapes | None) -> dict[str, Window]:
        return windows(self.kernel, self.stride, self.padding)

    def flops(self, shapes: Shapes) -> int:
        return math.prod(shapes.output) * math.prod(self.kernel)


@dataclass(frozen=True)
class MaxPool2d(Pool2d):
    """The maximum of every window; the gradient goes to the first element that has it."""

    fill: ClassVar[float] = -math.inf

    def forward(self, local: Local, *inputs: Array) -> Array:
        x, backend = inputs[0], local.backend
        shape = box_shape(local.output_box)
        index = local.buffer("index", shape, "uint8" if math.prod(self.kernel) <= 256 else "uint32")
        y = local.buffer("y", shape)
        backend.kernels.max_pool2d(x, self.kernel, self.stride, y, index, backend.workspace(local.dtype))
        local.saved["index"], local.saved["frame"] = index, x.shape
        return y

    def backward(self, local: Local, gradient: Array) -> tuple[Array | None, ...]:
        dx, index = local.buffer("dx", local.saved["frame"]), local.saved["index"]
        workspace = local.backend.workspace(local.dtype)
        local.backend.kernels.max_pool2d_grad(gradient, index, self.kernel, self.stride, dx, workspace)
        return (dx,)


@dataclass(frozen=True)
class AvgPool2d(Pool2d):
    """The mean of every window, padding included."""

    def forward(self, local: Local, *inputs: Array) -> Array:
        local.saved["frame"] = inputs[0].shape
        y = local.buffer("y", box_shape(local.output_box))
        local.backend.kernels.avg_pool2d(inputs[0], self.kernel, self.stride, y)
        return y

    def backward(self, local: Local, gradient: Array) -> tuple[Array | None, ...]:
        dx = local.buffer("dx", local.saved["frame"])
        workspace = local.backend.workspace(local.dtype)
        local.backend.kernels.avg_pool2d_grad(gradient, self.kernel, self.stride, dx, workspace)
        return (dx,)


@dataclass(frozen=True)
class GlobalAvgPool(Layer):
    """The mean over all of space: [n, h, w, c] -> [n, c]. With h or w divided, the output is a partial sum."""

    def infer(self, *shapes: Shape) -> Shape:
        if len(shapes[0]) < 2:
            raise ValueError(f"GlobalAvgPool needs samples of shape (h, w, channels), this one is {shapes[0]}")
        return shapes[0][-1:]

    def flops(self, shapes: Shapes) -> int:
        return math.prod(shapes.inputs[0])

    def forward(self, local: Local, *inputs: Array) -> Array:
        x = inputs[0]
        local.saved["shape"] = x.shape
        y = local.buffer("y", box_shape(local.output_box))
        local.backend.xp.sum(x, axis=tuple(range(1, x.ndim - 1)), out=y)
        y /= math.prod(local.shapes.inputs[0][1:-1])
        return y

    def backward(self, local: Local, gradient: Array) -> tuple[Array | None, ...]:
        shape = local.saved["shape"]
        dx = local.buffer("dx", shape)
        share = gradient / math.prod(local.shapes.inputs[0][1:-1])
        dx[...] = share.reshape(shape[0], *(1 for _ in shape[1:-1]), shape[-1])
        return (dx,)
