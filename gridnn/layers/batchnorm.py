"""Batch normalisation over the whole batch and domain."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from gridnn.errors import UserError
from gridnn.layers.base import Array, Context, Layer, Parameter, Shapes
from gridnn.layers.computation import ACTIVATION, BufferSpec, Computation, LayerPart, Reduction, Task

WIDEST = "float64"


@dataclass(frozen=True)
class BatchNorm(Layer):
    """gamma * (x - mean) / sqrt(var + eps) + beta per channel (Ioffe and Szegedy 2015).

    Mean and variance are those of the global batch and domain in training, running ones otherwise. Each direction asks
    for one fused sum of two float64 words a channel: the moments about the running mean, which every rank knows
    beforehand and which keeps the sum of squares safe from cancellation.

    Attributes
    ----------
    momentum : float
        Weight of the new statistics in the running ones.
    eps : float
        Added to the variance.
    """

    is_global: ClassVar[bool] = True
    memory_passes: ClassVar[tuple[float, float]] = (
        2.5,
        2.4,
    )  # moments and affine; sums, two terms of dx

    momentum: float = 0.1
    eps: float = 1e-5

    def __post_init__(self):
        if not 0 <= self.momentum <= 1 or self.eps <= 0:
            raise UserError(f"{self}: momentum lies in [0, 1], and eps is positive")

    def weights(self, shapes: Shapes) -> dict[str, Parameter]:
        shape = shapes.output[-1:]
        return {"gamma": Parameter(shape, ("co",), value=1.0), "beta": Parameter(shape, ("co",))}

    def states(self, shapes: Shapes) -> dict[str, Parameter]:
        shape = shapes.output[-1:]
        return {"running_mean": Parameter(shape, ("co",)), "running_var": Parameter(shape, ("co",), value=1.0)}

    def flops(self, shapes: Shapes) -> int:
        return 6 * math.prod(shapes.output)

    def computation(self, part: LayerPart) -> Computation:
        if not part.training:
            return Computation((Task("evaluate", ("x",), ("y",)),))
        channels, axes = part.output[-1], self.output_axes(part.shapes)[:-1]
        forward = (
            Task("moments", ("x",), ("sums",), once=True, share=0.4),
            Reduction("sums", axes),
            Task("statistics", ("sums",), ("mean", "inverse"), once=True, share=0.0),
            Task("normalize", ("x", "mean", "inverse"), ("y",), share=0.6),
        )
        backward = (
            Task(
                "gradient_moments", ("dy", "x", "mean", "inverse"), ("gradient_sums",), stores_gradients=True, share=0.5
            ),
            Reduction("gradient_sums", axes),
            Task("backward_input", ("dy", "x", "mean", "inverse", "gradient_sums"), ("dx",), share=0.5),
        )
        sums = (BufferSpec(name, (2, channels), WIDEST) for name in ("sums", "gradient_sums"))
        kept = (BufferSpec(name, (channels,), WIDEST) for name in ("mean", "inverse"))
        return Computation(forward, backward, (*sums, *kept), workspaces=(WIDEST, ACTIVATION))

    def moments(self, context: Context, x: Array, sums: Array) -> None:
        """Write this rank's sums of x and x**2 about the running mean."""
        shift = context.state["running_mean"].astype(WIDEST)
        context.kernels.moments(x, shift, sums, context.workspace(WIDEST))

    def statistics(self, context: Context, sums: Array, mean: Array, inverse: Array) -> None:
        """Write the global mean and 1 / sqrt(var + eps); update the running ones (with the unbiased variance)."""
        xp, count = context.backend.xp, self._count(context.shapes)
        off = sums[0] / count
        variance = xp.maximum(sums[1] / count - off * off, 0)
        xp.add(context.state["running_mean"].astype(WIDEST), off, out=mean)
        xp.divide(1, xp.sqrt(variance + self.eps), out=inverse)
        for name, value in (("running_mean", mean), ("running_var", variance * (count / (count - 1)))):
            running = context.state[name]
            running *= 1 - self.momentum
            running += self.momentum * value

    def normalize(self, context: Context, x: Array, mean: Array, inverse: Array, y: Array) -> None:
        """Write gamma * (x - mean) * inverse + beta to ``y``."""
        scale = inverse * context.parameters["gamma"]
        offset = context.parameters["beta"] - mean * scale
        context.kernels.affine(x, scale.astype(context.wide), offset.astype(context.wide), y)

    def evaluate(self, context: Context, x: Array, y: Array) -> None:
        """As `normalize`, with the running statistics."""
        mean, variance = (context.state[name].astype(WIDEST) for name in ("running_mean", "running_var"))
        self.normalize(context, x, mean, 1 / context.backend.xp.sqrt(variance + self.eps), y)

    def gradient_moments(self, context: Context, dy: Array, x: Array, mean: Array, inverse: Array, sums: Array) -> None:
        """Write this rank's sums of dy and dy * (x - mean); store its gradients of beta and gamma."""
        context.kernels.moments_grad(x, dy, mean, sums, context.workspace(WIDEST))
        context.gradients["beta"][...] = sums[0]
        context.gradients["gamma"][...] = sums[1] * inverse

    def backward_input(
        self, context: Context, dy: Array, x: Array, mean: Array, inverse: Array, sums: Array, dx: Array
    ) -> None:
        """Write scale * (dy - mean(dy) - (x - mean) * inverse**2 * mean(dy * (x - mean))) to ``dx``."""
        kernels, count, scale = context.kernels, self._count(context.shapes), inverse * context.parameters["gamma"]
        slope = scale * inverse * inverse * sums[1] / count
        offset = mean * slope - scale * sums[0] / count
        kernels.affine(x, (-slope).astype(context.wide), offset.astype(context.wide), dx)
        kernels.add_scaled(dy, scale.astype(context.wide), dx, context.workspace())

    def check_training(self, shapes: Shapes) -> None:
        if self._count(shapes) < 2:
            over = " x ".join(map(str, shapes.output[:-1]))
            raise UserError(f"BatchNorm in training over {over} = 1 value per channel has no variance")

    @staticmethod
    def _count(shapes: Shapes) -> int:
        return math.prod(shapes.output[:-1])
