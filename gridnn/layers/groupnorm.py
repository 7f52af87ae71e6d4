"""Group normalisation: of every sample by itself, over the domain and the channels of a group."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from gridnn.errors import UserError
from gridnn.layers.base import Array, Layer, Local, Parameter, Reduction, Shape, Shapes
from gridnn.layers.rooms import Part, Room, Rooms, usual
from gridnn.layout.layout import box_shape

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

    passes: ClassVar[tuple[float, float]] = (3.0, 3.5)  # as batch norm, sample by sample

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

    def reductions(self, shapes: Shapes, output_box: tuple[tuple[int, int], ...], training: bool) -> list[Reduction]:
        words = 2 * (output_box[0][1] - output_box[0][0]) * self.groups
        phases = ("forward", "backward") if training else ("forward",)
        return [Reduction(phase, self._summed(shapes), words) for phase in phases]

    def flops(self, shapes: Shapes) -> int:
        return 8 * math.prod(shapes.output)

    def rooms(self, part: Part) -> Rooms:
        sums = Room("sums", (part.output[0], 2, part.output[-1]), WIDE)
        made = usual(part, "x", extra=() if part.recomputing else (sums._replace(until="y"),))
        return made._replace(backward=(sums, *made.backward), workspaces=(WIDE, None))

    def forward(self, local: Local, *inputs: Array) -> Array:
        x, backend = inputs[0], local.backend
        if not local.recomputing:
            local.kept["statistics"] = self._statistics(local, x)
        mean, inverse = local.kept["statistics"]
        scale = self._of_channels(local, inverse) * local.parameters["gamma"]
        offset = local.parameters["beta"] - self._of_channels(local, mean) * scale
        y = local.buffer("y", box_shape(local.output_box))
        for i in range(x.shape[0]):
            backend.kernels.affine(x[i], scale[i].astype(local.wide), offset[i].astype(local.wide), y[i])
        local.saved.update(x=x, scale=scale)
        return y

    def backward(self, local: Local, gradient: Array) -> tuple[Array | None, ...]:
        x, scale, backend = local.saved["x"], local.saved["scale"], local.backend
        (mean, inverse), gamma = local.kept["statistics"], local.parameters["gamma"]
        sums, centre = local.buffer("sums", (x.shape[0], 2, x.shape[-1]), WIDE), self._of_channels(local, mean)
        for i in range(x.shape[0]):
            backend.kernels.moments_grad(x[i], gradient[i], centre[i], sums[i], backend.workspace(WIDE))
        local.gradients["beta"][...] = sums[:, 0].sum(axis=0)
        local.gradients["gamma"][...] = (sums[:, 1] * self._of_channels(local, inverse)).sum(axis=0)
        sums *= gamma
        first, second = self._means(local, sums)
        if not local.needs_gradient:
            return (None,)
        # dx = scale * dy - inverse * mean(gamma dy) - (x - mean) * inverse**3 * mean(gamma dy (x - mean))
        slope = self._of_channels(local, inverse**3 * second)
        offset = centre * slope - self._of_channels(local, inverse * first)
        dx, workspace = local.buffer("dx", x.shape), backend.workspace(local.dtype)
        for i in range(x.shape[0]):
            backend.kernels.affine(x[i], (-slope[i]).astype(local.wide), offset[i].astype(local.wide), dx[i])
            backend.kernels.add_scaled(gradient[i], scale[i].astype(local.wide), dx[i], workspace)
        return (dx,)

    def _statistics(self, local: Local, x: Array) -> tuple[Array, Array]:
        """Mean and 1 / sqrt(variance + eps) of every local sample and every group [n, groups]."""
        backend, sums = local.backend, local.buffer("sums", (x.shape[0], 2, x.shape[-1]), WIDE)
        shift = backend.zeros((x.shape[-1],), WIDE)
        for i in range(x.shape[0]):
            backend.kernels.moments(x[i], shift, sums[i], backend.workspace(WIDE))
        mean, square = self._means(local, sums)
        return mean, 1 / backend.xp.sqrt(backend.xp.maximum(square - mean * mean, 0) + self.eps)

    def _means(self, local: Local, sums: Array) -> tuple[Array, Array]:
        """Two sums a sample and local channel [n, 2, local channels] as global means over the groups, [n, groups]."""
        first, last = local.output_box[-1]
        totals, width = local.backend.zeros((*sums.shape[:2], self.groups), WIDE), self._width(local.shapes)
        for group in range(first // width, -(-last // width)):
            inside = slice(max(first, group * width) - first, min(last, (group + 1) * width) - first)
            totals[:, :, group] = sums[:, :, inside].sum(axis=2)
        local.sum(totals, self._summed(local.shapes))
        totals /= math.prod(local.shapes.output[1:]) // self.groups
        return totals[:, 0], totals[:, 1]

    def _of_channels(self, local: Local, values: Array) -> Array:
        """``values`` [n, groups] as one value per local channel [n, local channels]."""
        return local.backend.xp.repeat(values, self._width(local.shapes), axis=1)[:, slice(*local.output_box[-1])]

    def _summed(self, shapes: Shapes) -> tuple[str, ...]:
        return self.output_axes(shapes)[1:]

    def _width(self, shapes: Shapes) -> int:
        """Channels a group."""
        return shapes.output[-1] // self.groups
