"""A layer and a loss of one's own, trained on any grid: mpirun -n 2 python examples/own_layer.py"""

from dataclasses import dataclass

import numpy as np

import gridnn as gn
from gridnn.layers.computation import BufferSpec, Computation, Task, simple


@dataclass(frozen=True)
class Swish(gn.layers.Layer):
    """x * sigmoid(x), with its slope kept for the backward pass."""

    def computation(self, part):
        return simple(("slope",), (BufferSpec("slope", part.output),))

    def forward(self, context, x, slope, y):
        s = 1 / (1 + np.exp(-x))
        np.multiply(x, s, out=y)
        slope[...] = s + y * (1 - s)

    def backward(self, context, dy, slope, dx):
        np.multiply(dy, slope, out=dx)


@dataclass(frozen=True)
class AbsoluteError(gn.layers.Loss):
    """The mean over a sample's numbers of |x - target|."""

    def computation(self, part):
        difference = BufferSpec("difference", part.ghosted[0])
        forward, backward = (
            Task("forward", ("x", "target"), ("difference",)),
            Task("backward", ("difference",), ("dx",)),
        )
        return Computation((forward,), (backward,), (difference,))

    def forward(self, context, x, target, difference):
        np.subtract(x, target, out=difference)
        if context.counts:  # replicas count once
            context.result[0] += np.abs(difference).sum() / context.shapes.output[1]

    def backward(self, context, difference, dx):
        np.multiply(np.sign(difference), context.scale / context.shapes.output[1], out=dx)


rng = np.random.default_rng(0)
x = rng.normal(size=(256, 8))
y = np.stack([np.sin(x[:, 0]), x[:, 1] * x[:, 2]], axis=1)

job = gn.init()
net = gn.Sequential((8,), gn.layers.Linear(32), Swish(), gn.layers.Linear(2), AbsoluteError())
plan = gn.plan(net, batch=64, ranks=job.size, grid=f"{job.size}x1", replicas=True)
model = gn.compile(net, plan, job, dtype="float64")
for _ in range(40):
    for start in range(0, 256, 64):
        loss = model.step((x[start : start + 64], y[start : start + 64]), gn.optim.AdamW(lr=0.01)).loss
if job.rank == 0:
    print(f"loss {loss:.4f} with {type(net.nodes[1].layer).__name__} on grid {plan.grid}")
