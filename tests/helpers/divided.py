"""Networks on real ranks with their global results put together, and the serial layer's beside them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from serial import Serial

from gridnn.comm.packing import Scratch
from gridnn.execute import Executable
from gridnn.layers.base import Layer, Parameter, Shapes, tensor_axes
from gridnn.layout.layout import Dim, within
from gridnn.plan.plan import Plan
from gridnn.program.program import Program
from gridnn.runtime.parameters import Parameters

SEED = 5


@dataclass(frozen=True)
class Shift(Layer):
    """x + W with a W of the whole batch: its weight gradient is the gradient of its output, element by element."""

    batch: int = 1

    def weights(self, shapes: Shapes) -> dict[str, Parameter]:
        return {"shift": Parameter(shapes.output, tensor_axes(len(shapes.output), "co"), fan_in=3)}

    def forward(self, local, *inputs):
        y = local.buffer("y", inputs[0].shape)
        y[...] = inputs[0] + local.parameters["shift"]
        return y

    def backward(self, local, gradient):
        local.gradients["shift"][...] = gradient
        return (gradient,)


class Divided:
    """A network on the ranks, with its global results put together."""

    def __init__(self, comm, grid, network, splits, batch):
        self.comm, self.grid = comm, grid
        self.grid.ledger.clear()
        self.program = Program(network, Plan("test", self.grid.shape, splits), batch)
        self.parameters = Parameters(self.program, self.grid, "float64", SEED)
        self.run = Executable(self.program, self.grid, self.parameters, SEED, Scratch(grid.backend, "float64"))

    def together(self, layout, part):
        """A global tensor from the parts: partial sums summed, replicas (which must agree) taken once."""
        total, copies = np.zeros(layout.shape), Dim(None, layout.copies)
        for index, other in self.comm.allgather((self.grid.index, self.grid.backend.to_host(part))):
            if layout.part(index, copies) == 0:
                total[within(layout.box(index), tuple((0, size) for size in layout.shape))] += other
        return total

    def feed(self, x):
        for feed in self.run.input_feeds:
            feed.load(self.grid.backend.asarray(x[within(feed.box, tuple((0, size) for size in x.shape))]))

    def forward(self, x, **options):
        self.feed(x)
        return self.together(self.program.steps[-1].output, self.run.forward(training=True, step=3, **options))

    def backward(self, dy):
        """The global gradients of all parameters; ``dy`` of a copied output enters once, of partial sums everywhere."""
        layout = self.program.steps[-1].output
        part = dy[within(layout.box(self.grid.index), tuple((0, size) for size in dy.shape))].copy()
        if layout.part(self.grid.index, Dim(None, layout.copies)):
            part[...] = 0
        for request in self.run.backward(self.grid.backend.asarray(part)):
            request.wait()
        return {
            e.key: self.together(e.layout, self.parameters.of(e.layer, self.parameters.gradients)[e.name])
            for e in self.parameters.entries
        }

    def values(self):
        return {e.key: self.together(e.layout, self.parameters.value(e)) for e in self.parameters.entries}

    def check_ledger(self):
        predicted = self.program.predict(self.grid.index)
        assert self.grid.ledger.integers() == predicted.integers()


def serial_results(divided, layer, shapes, x, dy):
    """y and all gradients of the serial layer with the same weights and random key."""
    values = divided.values()
    weights = {key.split(".")[1]: value for key, value in values.items() if key.startswith("layer.")}
    run = Serial(layer, x.shape, weights=weights)
    run.local.key = divided.run.layers[-1].key
    y = run.forward(x + values["shift.shift"])
    (dx,) = run.backward(dy)
    return {"y": y, "shift.shift": dx, **{f"layer.{name}": run.gradient(name) for name in weights}}
