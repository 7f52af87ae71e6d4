"""The losses, summed over samples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from gridnn.errors import UserError
from gridnn.layers.base import Array, Context, Loss, Shape, Shapes
from gridnn.layers.computation import WIDE as NUMBERS
from gridnn.layers.computation import BufferSpec, Computation, LayerPart, Reduction, Task

WIDE = "float64"
TIED = 2.0**-1000  # so little that no loss is changed by it


@dataclass(frozen=True)
class SoftmaxCrossEntropy(Loss):
    """log(sum(exp(x))) - x[label] for logits x [n, co], or the mean of it over the places of x [n, *space, co].

    The classes may be divided: their maximum and two sums a place are exchanged, never the logits. The answer is the
    first of the classes with the largest logit, as argmax takes it: where several have it, one alone is right. With
    places, a sample counts as the fraction of them that are right.
    """

    is_global: ClassVar[bool] = True

    def infer(self, *shapes: Shape) -> Shape:
        if not 1 <= len(shapes[0]) <= 4:
            wanted = "(classes,) or (*space, classes)"
            raise UserError(f"SoftmaxCrossEntropy needs logits of shape {wanted} a sample, these are {shapes[0]}")
        return shapes[0]

    def flops(self, shapes: Shapes) -> int:
        return 5 * math.prod(shapes.output)

    def target(self, shape: Shape) -> BufferSpec:
        return BufferSpec("target", shape[:-1], "int64")

    def computation(self, part: LayerPart) -> Computation:
        logits = part.ghosted[0]
        divided = part.output[-1] < part.shapes.output[-1]
        forward = (
            Task("maximum", ("x",), ("largest",), share=0.2),
            *(Reduction("largest", ("co",), "max"),) * divided,
            Task("exponentiate", ("x", "target", "largest"), ("exponentials", "hot", "sums"), share=0.8),
            *(Reduction("sums", ("co",)),) * divided,
            Task("evaluate", ("sums",), share=0.0),
        )
        backward = (Task("backward", ("exponentials", "hot", "sums"), ("dx",), stochastic=True),)
        buffers = (
            BufferSpec("largest", logits[:-1], WIDE),
            BufferSpec("exponentials", logits, WIDE),
            BufferSpec("hot", logits, "bool"),
            BufferSpec("sums", (*logits[:-1], 2), WIDE),
        )
        return Computation(forward, backward, buffers)

    def maximum(self, context: Context, x: Array, largest: Array) -> None:
        """Write the largest local logit of every place."""
        largest[...] = x.max(axis=-1) if x.shape[-1] else -math.inf

    def exponentiate(
        self, context: Context, x: Array, target: Array, largest: Array, exponentials: Array, hot: Array, sums: Array
    ) -> None:
        """Write exp(x - largest), where the label is, and two sums: of the exponentials, and the label's logit.

        The label's logit is that less the largest one, so 0 where it is itself the largest; an earlier class with the
        largest one makes it less than 0 by `TIED`.
        """
        xp = context.backend.xp
        classes, label = xp.arange(*context.output_box[-1]), target[..., None]
        xp.subtract(x, largest[..., None], out=exponentials)
        xp.equal(exponentials, 0, out=hot)
        xp.logical_and(hot, classes < label, out=hot)
        tied = hot.sum(axis=-1)
        xp.equal(classes, label, out=hot)
        sums[..., 1] = xp.where(hot, exponentials, 0).sum(axis=-1) - TIED * tied
        xp.exp(exponentials, out=exponentials)
        sums[..., 0] = exponentials.sum(axis=-1)

    def evaluate(self, context: Context, sums: Array) -> None:
        """Add loss and right answers where they count: once among replicas and the ranks that divide the classes."""
        if not context.counts or context.part("co"):
            return
        places = _places(context.shapes)
        context.result[0] += (context.backend.xp.log(sums[..., 0]) - sums[..., 1]).sum() / places
        context.result[1] += (sums[..., 1] == 0).sum() / places

    def backward(self, context: Context, exponentials: Array, hot: Array, sums: Array, dx: Array) -> None:
        """Write the gradient of the logits to ``dx``."""
        exponentials /= sums[..., :1]
        exponentials -= hot  # before it is rounded: of a sample that is right, little is left
        scale = context.scale / _places(context.shapes)
        context.backend.xp.multiply(exponentials, scale, out=dx, casting="same_kind")


@dataclass(frozen=True)
class MeanSquaredError(Loss):
    """The mean over a sample's elements of (x - target)**2; there are no right answers to count."""

    def flops(self, shapes: Shapes) -> int:
        return 3 * math.prod(shapes.output)

    def computation(self, part: LayerPart) -> Computation:
        forward = Task("forward", ("x", "target"), ("difference",))
        backward = Task("backward", ("difference",), ("dx",), stochastic=True)
        return Computation((forward,), (backward,), (BufferSpec("difference", part.ghosted[0], NUMBERS),))

    def forward(self, context: Context, x: Array, target: Array, difference: Array) -> None:
        """Write x - target, and add the loss: every rank that shares a sample counts its own elements."""
        xp = context.backend.xp
        xp.subtract(x, target, out=difference)
        if context.counts:
            size = math.prod(context.shapes.output[1:])
            context.result[0] += xp.sum(difference * difference, dtype=WIDE) / size

    def backward(self, context: Context, difference: Array, dx: Array) -> None:
        """Write the gradient of the input to ``dx``."""
        factor = 2 * context.scale / math.prod(context.shapes.output[1:])
        context.backend.xp.multiply(difference, factor, out=dx)


def _places(shapes: Shapes) -> int:
    """The number of places of one sample; 1 for a vector."""
    return math.prod(shapes.output[1:-1])


LOSSES = {"cross-entropy": SoftmaxCrossEntropy, "mse": MeanSquaredError}  # as the command line names them
