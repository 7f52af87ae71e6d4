"""Group normalisation: of every sample by itself, over the domain and the channels of a group."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from gridnn.errors import UserError
from gridnn.layers.base import Array, Context, Layer, Parameter, Shape, Shapes
from gridnn.layers.computation import ACTIVATION, BufferSpec, Computation, LayerPart, Reduction, Task

WIDE = "float64"


@dataclass(frozen=True)
class GroupNorm(Layer):
    """gamma * (x - mean) / sqrt(var + eps) + beta, with mean and variance per sample and group (Wu and He 2018).

    A group is ``channels / groups`` consecutive channels. Forward, in training and outside it, asks for one sum of two
    float64 words a local sample and group over the ranks that divide space and channels; so does backward.

    Attributes
    ----------
    groups : int
        They divide the channels; 1 is layer normalisation over space and channels, the number of channels is instance
        normalisation.
    eps : float
        Added to the variance.
    """

    is_global: ClassVar[bool] = True
    memory_passes: ClassVar[tuple[float, float]] = (3.0, 3.5)  # as batch norm, sample by sample

    groups: int
    eps: float = 1e-5

    def __post_init__(self):
        if self.groups < 1 or self.eps <= 0:
            raise UserError(f"{self}: at least one group is needed, and eps is positive")

    def infer(self, *shapes: Shape) -> Shape:
        channels = shapes[0][-1]
        if channels % self.groups:
            equation = f"{channels} channels / {self.groups} groups = {channels / self.groups:g}"
            raise UserError(f"GroupNorm: {equation}; give groups that divide the channels")
        if math.prod(shapes[0]) == self.groups:
            raise UserError(
                f"GroupNorm: {math.prod(shapes[0])} values a sample / {self.groups} groups = 1 value a group has no "
                "variance; give fewer groups"
            )
        return shapes[0]

    def weights(self, shapes: Shapes) -> dict[str, Parameter]:
        shape = shapes.output[-1:]
        return {"gamma": Parameter(shape, ("co",), value=1.0), "beta": Parameter(shape, ("co",))}

    def flops(self, shapes: Shapes) -> int:
        return 8 * math.prod(shapes.output)

    def computation(self, part: LayerPart) -> Computation:
        samples, channels, axes = part.output[0], part.output[-1], self.output_axes(part.shapes)[1:]
        forward = (
            Task("moments", ("x",), ("sums", "totals"), once=True, share=0.4),
            Reduction("totals", axes),
            Task("statistics", ("totals",), ("mean", "inverse"), once=True, share=0.0),
            Task("normalize", ("x", "mean", "inverse"), ("y",), share=0.6),
        )
        moments = ("gradient_sums", "gradient_totals")
        backward = (
            Task("gradient_moments", ("dy", "x", "mean", "inverse"), moments, stores_gradients=True, share=0.5),
            Reduction("gradient_totals", axes),
            Task("backward_input", ("dy", "x", "mean", "inverse", "gradient_totals"), ("dx",), share=0.5),
        )
        sums = (BufferSpec(name, (samples, 2, channels), WIDE) for name in ("sums", "gradient_sums"))
        totals = (BufferSpec(name, (samples, 2, self.groups), WIDE) for name in ("totals", "gradient_totals"))
        kept = (BufferSpec(name, (samples, self.groups), WIDE) for name in ("mean", "inverse"))
        return Computation(forward, backward, (*sums, *totals, *kept), workspaces=(WIDE, ACTIVATION))

    def moments(self, context: Context, x: Array, sums: Array, totals: Array) -> None:
        """Write this rank's sums of x and x**2 a sample and channel, and a sample and group."""
        shift = context.backend.zeros((x.shape[-1],), WIDE)
        for i in range(x.shape[0]):
            context.kernels.moments(x[i], shift, sums[i], context.workspace(WIDE))
        self._add_channels(context, sums, totals)

    def statistics(self, context: Context, totals: Array, mean: Array, inverse: Array) -> None:
        """Write mean and 1 / sqrt(variance + eps) of every local sample and every group."""
        xp = context.backend.xp
        xp.divide(totals[:, 0], self._count(context.shapes), out=mean)
        variance = xp.maximum(totals[:, 1] / self._count(context.shapes) - mean * mean, 0)
        xp.divide(1, xp.sqrt(variance + self.eps), out=inverse)

    def normalize(self, context: Context, x: Array, mean: Array, inverse: Array, y: Array) -> None:
        """Write gamma * (x - mean) * inverse + beta to ``y``."""
        scale = self._of_channels(context, inverse) * context.parameters["gamma"]
        offset = context.parameters["beta"] - self._of_channels(context, mean) * scale
        for i in range(x.shape[0]):
            context.kernels.affine(x[i], scale[i].astype(context.wide), offset[i].astype(context.wide), y[i])

    def gradient_moments(
        self, context: Context, dy: Array, x: Array, mean: Array, inverse: Array, sums: Array, totals: Array
    ) -> None:
        """Write this rank's sums of gamma dy and gamma dy (x - mean); store its gradients of beta and gamma."""
        centre = self._of_channels(context, mean)
        for i in range(x.shape[0]):
            context.kernels.moments_grad(x[i], dy[i], centre[i], sums[i], context.workspace(WIDE))
        context.gradients["beta"][...] = sums[:, 0].sum(axis=0)
        context.gradients["gamma"][...] = (sums[:, 1] * self._of_channels(context, inverse)).sum(axis=0)
        sums *= context.parameters["gamma"]
        self._add_channels(context, sums, totals)

    def backward_input(
        self, context: Context, dy: Array, x: Array, mean: Array, inverse: Array, totals: Array, dx: Array
    ) -> None:
        """Write scale * dy - inverse * mean(gamma dy) - (x - mean) * inverse**3 * mean(gamma dy (x - mean))."""
        first, second = (totals[:, i] / self._count(context.shapes) for i in (0, 1))
        scale = self._of_channels(context, inverse) * context.parameters["gamma"]
        slope = self._of_channels(context, inverse**3 * second)
        offset = self._of_channels(context, mean) * slope - self._of_channels(context, inverse * first)
        kernels, workspace = context.kernels, context.workspace()
        for i in range(x.shape[0]):
            kernels.affine(x[i], (-slope[i]).astype(context.wide), offset[i].astype(context.wide), dx[i])
            kernels.add_scaled(dy[i], scale[i].astype(context.wide), dx[i], workspace)

    def _add_channels(self, context: Context, sums: Array, totals: Array) -> None:
        """Sums a sample and local channel [n, 2, local channels] as sums over the groups [n, 2, groups]."""
        (first, last), width = context.output_box[-1], self._width(context.shapes)
        totals[...] = 0
        for group in range(first // width, -(-last // width)):
            inside = slice(max(first, group * width) - first, min(last, (group + 1) * width) - first)
            totals[:, :, group] = sums[:, :, inside].sum(axis=2)

    def _of_channels(self, context: Context, values: Array) -> Array:
        """``values`` [n, groups] as one value per local channel [n, local channels]."""
        wide = context.backend.xp.repeat(values, self._width(context.shapes), axis=1)
        return wide[:, slice(*context.output_box[-1])]

    def _count(self, shapes: Shapes) -> int:
        """Values a sample and group."""
        return math.prod(shapes.output[1:]) // self.groups

    def _width(self, shapes: Shapes) -> int:
        """Channels a group."""
        return shapes.output[-1] // self.groups
