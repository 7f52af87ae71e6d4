"""Batch normalisation over the whole batch and domain."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from gridnn.errors import UserError
from gridnn.layers.base import Array, Layer, Local, Parameter, Reduction, Shapes
from gridnn.layers.rooms import Part, Room, Rooms, usual
from gridnn.layout.layout import box_shape


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

    passes: ClassVar[tuple[float, float]] = (2.5, 2.4)  # moments and affine; sums of the gradient, two terms of dx

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

    def reductions(self, shapes: Shapes, output_box: tuple[tuple[int, int], ...], training: bool) -> list[Reduction]:
        if not training:
            return []
        words = 2 * (output_box[-1][1] - output_box[-1][0])
        return [Reduction(phase, self._summed(shapes), words) for phase in ("forward", "backward")]

    def flops(self, shapes: Shapes) -> int:
        return 6 * math.prod(shapes.output)

    def rooms(self, part: Part) -> Rooms:
        sums = Room("sums", (2, part.output[-1]), "float64")
        made = usual(part, "x", extra=() if part.recomputing else (sums._replace(until="y"),))
        return made._replace(backward=(sums, *made.backward), workspaces=("float64", None))

    def forward(self, local: Local, *inputs: Array) -> Array:
        x, kernels = inputs[0], local.backend.kernels
        if local.training:
            if not local.recomputing:
                local.kept["statistics"] = self._statistics(local, x)
            mean, variance = local.kept["statistics"]
        else:
            wide = local.backend.xp.float64
            mean, variance = (local.state[name].astype(wide) for name in ("running_mean", "running_var"))
        inverse = 1 / local.backend.xp.sqrt(variance + self.eps)
        scale = inverse * local.parameters["gamma"]
        offset = local.parameters["beta"] - mean * scale
        local.saved.update(x=x, mean=mean, inverse=inverse, scale=scale)
        y = local.buffer("y", box_shape(local.output_box))
        kernels.affine(x, scale.astype(local.wide), offset.astype(local.wide), y)
        return y

    def backward(self, local: Local, gradient: Array) -> tuple[Array | None, ...]:
        x, mean, inverse, scale = (local.saved[name] for name in ("x", "mean", "inverse", "scale"))
        backend, count = local.backend, self._count(local.shapes)
        sums = local.buffer("sums", (2, x.shape[-1]), "float64")
        backend.kernels.moments_grad(x, gradient, mean, sums, backend.workspace("float64"))
        local.gradients["beta"][...] = sums[0]
        local.gradients["gamma"][...] = sums[1] * inverse
        local.sum(sums, self._summed(local.shapes))
        if not local.needs_gradient:
            return (None,)
        # dx = scale * (dy - mean(dy) - (x - mean) * inverse**2 * mean(dy * (x - mean)))
        slope = scale * inverse * inverse * sums[1] / count
        offset = mean * slope - scale * sums[0] / count
        dx = local.buffer("dx", x.shape)
        backend.kernels.affine(x, (-slope).astype(local.wide), offset.astype(local.wide), dx)
        backend.kernels.add_scaled(gradient, scale.astype(local.wide), dx, backend.workspace(local.dtype))
        return (dx,)

    def _statistics(self, local: Local, x: Array) -> tuple[Array, Array]:
        """The global mean and variance; updates the running ones (with the unbiased variance)."""
        backend, count = local.backend, self._count(local.shapes)
        shift = local.state["running_mean"].astype(backend.xp.float64)
        sums = local.buffer("sums", (2, x.shape[-1]), "float64")
        backend.kernels.moments(x, shift, sums, backend.workspace("float64"))
        local.sum(sums, self._summed(local.shapes))
        off = sums[0] / count
        mean, variance = shift + off, backend.xp.maximum(sums[1] / count - off * off, 0)
        for name, value in (("running_mean", mean), ("running_var", variance * (count / (count - 1)))):
            running = local.state[name]
            running *= 1 - self.momentum
            running += self.momentum * value
        return mean, variance

    def _summed(self, shapes: Shapes) -> tuple[str, ...]:
        return self.output_axes(shapes)[:-1]

    @staticmethod
    def _count(shapes: Shapes) -> int:
        count = math.prod(shapes.output[:-1])
        if count < 2:
            raise UserError(
                f"BatchNorm in training over {' x '.join(map(str, shapes.output[:-1]))} = {count} value per channel "
                "has no variance: use a batch of at least 2"
            )
        return count
