"""Resampling space: up-sampling and adaptive pooling, a linear map along each axis."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from gridnn.errors import UserError
from gridnn.layers.base import SPACE, Array, Context, Cut, Layer, Shape, Shapes
from gridnn.layers.computation import BufferSpec, Computation, LayerPart, Task, identity, simple
from gridnn.layers.sliding import Sizes, per_axis
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

    def computation(self, part: LayerPart) -> Computation:
        changed = self._changed(part.shapes)
        if not changed:
            return identity(part)
        forward, products = self._chain("resample", "x", "y", part.ghosted[0], part.output, changed)
        backward, others = self._chain("resample_grad", "dy", "dx", part.output, part.ghosted[0], changed[::-1])
        return Computation(forward, backward, (*products, *others))

    @staticmethod
    def _chain(
        kernel: str, first: str, last: str, start: Shape, end: Shape, dims: list[int]
    ) -> tuple[tuple[Task, ...], list[BufferSpec]]:
        """One call along each of ``dims``, and the arrays between them."""
        shapes = list(_between(start, end, dims))
        specs = [BufferSpec(f"{last} along {dim}", shape) for dim, shape in zip(dims, shapes[:-1], strict=False)]
        names = [first, *(spec.name for spec in specs), last]
        share = 1 / len(dims)
        return tuple(
            Task("along", (source,), (target,), arguments=(kernel, dim), share=share)
            for dim, source, target in zip(dims, names, names[1:], strict=False)
        ), specs

    def along(self, context: Context, kernel: str, dim: int, x: Array, y: Array) -> None:
        """Write what a kernel makes of ``x`` along one dimension to ``y``."""
        extents = (context.shapes.inputs[0][dim], context.shapes.output[dim])
        here = (context.input_boxes[0][dim], context.output_box[dim])
        getattr(context.kernels, kernel)(x, dim, self.rule, extents, here, y)

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

    def computation(self, part: LayerPart) -> Computation:
        return super().computation(part) if self.mode != "nearest" else simple(())

    def forward(self, context: Context, x: Array, y: Array) -> None:
        """Write the copies of ``x`` to ``y``."""
        context.kernels.repeat(x, *self._copies(context), y)

    def backward(self, context: Context, dy: Array, dx: Array) -> None:
        """Write the sums over the copies to ``dx``."""
        context.kernels.repeat_grad(dy, *self._copies(context), dx)

    def _copies(self, context: Context) -> tuple[Sizes, Sizes]:
        """The factor of every space axis, and by how much the first output here is not the first copy of its input."""
        *boxes, _ = zip(context.input_boxes[0], context.output_box, strict=True)
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
