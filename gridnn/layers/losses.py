"""The losses, summed over samples."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gridnn.errors import UserError
from gridnn.layers.base import Array, Local, Loss, Reduction, Shape, Shapes
from gridnn.layers.rooms import Part, Room, Rooms

WIDE = "float64"


@dataclass(frozen=True)
class SoftmaxCrossEntropy(Loss):
    """log(sum(exp(x))) - x[label] for logits x [n, co], or the mean of it over the places of x [n, *space, co].

    The classes may be divided: their maximum and two sums a place are exchanged, never the logits. A right answer is
    a label whose logit is the largest one; with places, a sample counts as the fraction of them that are right.
    """

    def infer(self, *shapes: Shape) -> Shape:
        if not 1 <= len(shapes[0]) <= 4:
            wanted = "(classes,) or (*space, classes)"
            raise UserError(f"SoftmaxCrossEntropy needs logits of shape {wanted} a sample, these are {shapes[0]}")
        return shapes[0]

    def reductions(self, shapes: Shapes, output_box: tuple[tuple[int, int], ...], training: bool) -> list[Reduction]:
        if not _divided(shapes, output_box):
            return []
        places = math.prod(stop - start for start, stop in output_box[:-1])
        return [Reduction("forward", ("co",), places), Reduction("forward", ("co",), 2 * places)]

    def flops(self, shapes: Shapes) -> int:
        return 5 * math.prod(shapes.output)

    def target(self, shape: Shape) -> Room:
        return Room("target", shape[:-1], "int64")

    def rooms(self, part: Part) -> Rooms:
        logits = part.frames[0]
        forward = (
            Room("largest", logits[:-1], WIDE),
            Room("exponentials", logits, WIDE),
            Room("hot", logits, "bool"),
            Room("sums", (*logits[:-1], 2), WIDE),
        )
        return Rooms(forward, (Room("dx", logits),), ("exponentials", "hot", "sums"), output=None)

    def forward(self, local: Local, *inputs: Array) -> Array:
        x, xp = inputs[0], local.backend.xp
        target, divided = local.saved["target"], _divided(local.shapes, local.output_box)
        if target.shape != x.shape[:-1]:
            raise UserError(
                f"SoftmaxCrossEntropy: logits of shape {x.shape} need labels of shape {x.shape[:-1]}, these have shape "
                f"{target.shape}; for one label a sample let the network end in a vector (Flatten or GlobalAvgPool)"
            )
        largest = local.buffer("largest", x.shape[:-1], WIDE)
        largest[...] = x.max(axis=-1) if x.shape[-1] else -math.inf
        if divided:
            local.max(largest, ("co",))
        exponentials = local.saved["exponentials"] = local.buffer("exponentials", x.shape, WIDE)
        xp.subtract(x, largest[..., None], out=exponentials)
        hot = local.saved["hot"] = local.buffer("hot", x.shape, "bool")
        xp.equal(xp.arange(*local.output_box[-1]), target[..., None], out=hot)
        sums = local.buffer("sums", (*x.shape[:-1], 2), WIDE)
        sums[..., 1] = xp.where(hot, exponentials, 0).sum(axis=-1)  # the label's logit, less the largest one
        xp.exp(exponentials, out=exponentials)
        sums[..., 0] = exponentials.sum(axis=-1)
        if divided:
            local.sum(sums, ("co",))
        local.saved["total"] = sums[..., 0]
        loss, right = (xp.log(sums[..., 0]) - sums[..., 1]).sum(), (sums[..., 1] == 0).sum()
        return _share(local, loss / _places(local.shapes), right / _places(local.shapes))

    def backward(self, local: Local, scale: float) -> tuple[Array]:
        exponentials, hot, total = (local.saved[name] for name in ("exponentials", "hot", "total"))
        dx, scale = local.buffer("dx", hot.shape), scale / _places(local.shapes)
        exponentials /= total[..., None]
        exponentials -= hot  # before it is rounded: of a sample that is right, little is left
        local.backend.xp.multiply(exponentials, scale, out=dx, casting="same_kind")
        return (dx,)


@dataclass(frozen=True)
class MeanSquaredError(Loss):
    """The mean over a sample's elements of (x - target)**2; there are no right answers to count."""

    def flops(self, shapes: Shapes) -> int:
        return 3 * math.prod(shapes.output)

    def rooms(self, part: Part) -> Rooms:
        shape = part.frames[0]
        return Rooms((Room("difference", shape, "wide"),), (Room("dx", shape),), ("difference",), output=None)

    def forward(self, local: Local, *inputs: Array) -> Array:
        xp = local.backend.xp
        difference = local.saved["difference"] = local.buffer("difference", inputs[0].shape, local.wide)
        xp.subtract(inputs[0], local.saved["target"], out=difference)
        total = xp.sum(difference * difference, dtype=WIDE) / math.prod(local.shapes.output[1:])
        result = local.backend.zeros((2,), WIDE)
        if local.counts:  # every rank that shares a sample counts its own elements
            result[0] = total
        return result

    def backward(self, local: Local, scale: float) -> tuple[Array]:
        dx = local.buffer("dx", local.saved["difference"].shape)
        factor = 2 * scale / math.prod(local.shapes.output[1:])
        local.backend.xp.multiply(local.saved["difference"], factor, out=dx)
        return (dx,)


def _divided(shapes: Shapes, output_box: tuple[tuple[int, int], ...]) -> bool:
    """Whether this rank has some of the classes only."""
    start, stop = output_box[-1]
    return stop - start < shapes.output[-1]


def _places(shapes: Shapes) -> int:
    """The number of places of one sample; 1 for a vector."""
    return math.prod(shapes.output[1:-1])


def _share(local: Local, loss: Array, right: Array) -> Array:
    """(loss, right answers) where they count: once among copies and among the ranks that divide the classes."""
    result = local.backend.zeros((2,), WIDE)
    if local.counts and local.part("co") == 0:
        result[0], result[1] = loss, right
    return result
