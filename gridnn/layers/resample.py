"""Resampling space: up-sampling and adaptive pooling, a linear map along each axis."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from gridnn.errors import UserError
from gridnn.layers.base import SPACE, Array, Cut, Layer, Local, Shape, Shapes
from gridnn.layers.rooms import Part, Rooms, chained, usual
from gridnn.layers.sliding import Sizes, per_axis
from gridnn.layout.layout import box_shape
from gridnn.layout.partition import Interval
from gridnn.layout.sampling import Resampled
from gridnn.layout.split import Split

MODES = ("nearest", "linear")


@dataclass(frozen=True)
class Resample(Layer):
    """Along each space axis of x [n, *space, c] one matrix product with the rule's matrix [out, in] (abstract)."""

    @property
    def rule(self) -> str:
        """The rule of `gridnn.layout.sampling.resampled_from`."""
        raise NotImplementedError

    def cut_input(self, index: int, shapes: Shapes, split: Split) -> tuple[Cut, ...]:
        samples, *space, channels = self.cut_output(shapes, split)
        moved = (
            Cut(cut.axis, Resampled.of(cut.partition, self.rule, size))
            for cut, size in zip(space, shapes.inputs[0][1:-1], strict=True)
        )
        return (samples, *moved, channels)

    def flops(self, shapes: Shapes) -> int:
        return 2 * math.prod(max(pair) for pair in zip(shapes.inputs[0], shapes.output, strict=True))

    def rooms(self, part: Part) -> Rooms:
        changed = self._changed(part.shapes)
        if not changed:
            return Rooms((), (), output="x")
        forward = chained(list(_between(part.frames[0], part.output, changed)), "product", "y")
        backward = chained(list(_between(part.output, part.frames[0], changed[::-1])), "product", "dx")
        return Rooms(forward, backward)

    def forward(self, local: Local, *inputs: Array) -> Array:
        y = inputs[0]
        for dim in self._changed(local.shapes):
            y = self._along(local, "resample", y, dim, local.output_box[dim])
        return y

    def backward(self, local: Local, gradient: Array) -> tuple[Array | None, ...]:
        dx = gradient
        for dim in reversed(self._changed(local.shapes)):
            dx = self._along(local, "resample_grad", dx, dim, local.input_boxes[0][dim])
        return (dx,)

    def _along(self, local: Local, kernel: str, x: Array, dim: int, made: Interval) -> Array:
        """What a kernel makes of ``x`` along one dimension, of which it then has ``made``."""
        y = local.buffer("product", (*x.shape[:dim], made[1] - made[0], *x.shape[dim + 1 :]))
        extents = (local.shapes.inputs[0][dim], local.shapes.output[dim])
        here = (local.input_boxes[0][dim], local.output_box[dim])
        getattr(local.backend.kernels, kernel)(x, dim, self.rule, extents, here, y)
        return y

    @staticmethod
    def _changed(shapes: Shapes) -> list[int]:
        """The dimensions that are not left as they are."""
        return [d for d, (a, b) in enumerate(zip(shapes.inputs[0], shapes.output, strict=True)) if a != b]


@dataclass(frozen=True)
class Upsample(Resample):
    """Every element becomes ``factor`` elements along each space axis.

    Attributes
    ----------
    factor : int or one per space axis
        At least 1.
    mode : str
        "nearest": copies; "linear": between the centres of the elements (linear, bilinear or trilinear, what PyTorch
        calls align_corners=False).
    """

    factor: int | Sizes
    mode: str = "nearest"

    def __post_init__(self):
        if self.mode not in MODES:
            raise UserError(f"Upsample(mode={self.mode!r}): choose {' or '.join(map(repr, MODES))}")
        if not isinstance(self.factor, int):
            object.__setattr__(self, "factor", tuple(self.factor))
        self._factors(1 if isinstance(self.factor, int) else len(self.factor))

    @property
    def rule(self) -> str:
        return self.mode

    def _factors(self, dims: int) -> Sizes:
        return per_axis("factor", self.factor, 1, SPACE.get(dims + 2, SPACE[5]))

    def infer(self, *shapes: Shape) -> Shape:
        *space, channels = check_space(self, shapes[0])
        return (*(a * b for a, b in zip(space, self._factors(len(space)), strict=True)), channels)

    def rooms(self, part: Part) -> Rooms:
        return super().rooms(part) if self.mode != "nearest" else usual(part)

    def forward(self, local: Local, *inputs: Array) -> Array:
        if self.mode != "nearest":
            return super().forward(local, *inputs)
        y = local.buffer("y", box_shape(local.output_box))
        local.backend.kernels.repeat(inputs[0], *self._copies(local), y)
        return y

    def backward(self, local: Local, gradient: Array) -> tuple[Array | None, ...]:
        if self.mode != "nearest":
            return super().backward(local, gradient)
        dx = local.buffer("dx", box_shape(local.input_boxes[0]))
        local.backend.kernels.repeat_grad(gradient, *self._copies(local), dx)
        return (dx,)

    def _copies(self, local: Local) -> tuple[Sizes, Sizes]:
        """The factor of every space axis, and by how much the first output here is not the first copy of its input."""
        *boxes, _ = zip(local.input_boxes[0], local.output_box, strict=True)
        factors = self._factors(len(boxes) - 1)
        shifts = (made[0] - held[0] * f for (held, made), f in zip(boxes[1:], factors, strict=True))
        return factors, tuple(shifts)


@dataclass(frozen=True)
class AdaptiveAvgPool(Resample):
    """The means over ``size`` ranges that together cover space, as even as they can be: PyTorch's.

    Output ``o`` is the mean over [floor(o * in / size), ceil((o + 1) * in / size)); an axis that has the size already
    is left as it is.

    Attributes
    ----------
    size : int or one per space axis
        Of the output.
    """

    size: int | Sizes

    def __post_init__(self):
        if not isinstance(self.size, int):
            object.__setattr__(self, "size", tuple(self.size))
        self._sizes(1 if isinstance(self.size, int) else len(self.size))

    @property
    def rule(self) -> str:
        return "area"

    def _sizes(self, dims: int) -> Sizes:
        return per_axis("size", self.size, 1, SPACE.get(dims + 2, SPACE[5]))

    def infer(self, *shapes: Shape) -> Shape:
        *space, channels = check_space(self, shapes[0])
        return (*self._sizes(len(space)), channels)


def check_space(layer: Layer, shape: Shape) -> Shape:
    """``shape``, if it has one to three space axes and channels.

    Raises
    ------
    UserError
        If it has not.
    """
    if not 2 <= len(shape) <= 4:
        raise UserError(f"{type(layer).__name__} needs samples of shape (*space, channels), this one is {shape}")
    return shape


def _between(first: Shape, last: Shape, dims: list[int]) -> Iterator[Shape]:
    """The shapes from ``first`` to ``last`` when one of ``dims`` after the other is changed."""
    shape = list(first)
    for dim in dims:
        shape[dim] = last[dim]
        yield tuple(shape)
