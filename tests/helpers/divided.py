"""Networks on real ranks with their global results put together, and the serial layer's beside them."""

from __future__ import annotations

from dataclasses import dataclass

from passes import Passes, together
from serial import Serial

from gridnn.cost.count import count
from gridnn.layers.base import Layer, Parameter, Shapes, tensor_axes
from gridnn.layers.computation import Computation, Task, View
from gridnn.layout.layout import within
from gridnn.planning.plan import Plan
from gridnn.program.program import Program
from gridnn.runtime.parameters import layer_key

SEED, STEP = 5, 3


@dataclass(frozen=True)
class Shift(Layer):
    """x + W with a W of the whole batch: its weight gradient is the gradient of its output, element by element."""

    batch: int = 1

    def weights(self, shapes: Shapes) -> dict[str, Parameter]:
        return {"shift": Parameter(shapes.output, tensor_axes(len(shapes.output), "co"), fan_in=3)}

    def computation(self, part) -> Computation:
        forward = Task("forward", ("x",), ("y",))
        backward = Task("backward", ("dy",), stores_gradients=True)
        return Computation((forward,), (backward,), views=(View("dx", "dy", part.ghosted[0]),))

    def forward(self, context, x, y):
        context.backend.xp.add(x, context.parameters["shift"], out=y)

    def backward(self, context, dy):
        context.gradients["shift"][...] = dy


class Divided:
    """A network without a loss on the ranks, with its global results put together."""

    def __init__(self, comm, grid, network, splits, batch, **options):
        self.comm, self.grid = comm, grid
        self.program = Program(network, Plan("test", self.grid.shape, splits), batch)
        self.passes = Passes(self.program, grid, "float64", SEED, **options)
        self.parameters = self.passes.parameters

    def together(self, layout, part):
        return together(self.comm, self.grid, layout, part)

    def step(self, x, dy):
        """The output, and the gradients of all parameters for its gradient ``dy``, all of them global.

        What a rank has of ``dy`` enters once where the output is copied, everywhere where it is partial sums.
        """
        layout = self.program.layers[-1].output
        seed = dy[within(layout.box(self.grid.index), tuple((0, size) for size in dy.shape))].copy()
        if layout.part(self.grid.index, layout.replicas):
            seed[...] = 0
        self.grid.ledger.clear()
        self.passes.step(x, seed=seed, step=STEP)
        y = self.together(layout, self.passes.run.output)
        return y, {
            e.key: self.together(e.layout, self.parameters.of(e.layer, self.parameters.gradients)[e.name])
            for e in self.parameters.entries
        }

    def values(self):
        return {e.key: self.together(e.layout, self.parameters.value(e)) for e in self.parameters.entries}

    def check_ledger(self):
        assert self.grid.ledger.integers() == count(self.passes.schedule).integers()


def serial_results(divided, layer, shapes, x, dy):
    """y and all gradients of the serial layer with the same weights and random key."""
    values = divided.values()
    weights = {key.split(".")[1]: value for key, value in values.items() if key.startswith("layer.")}
    run = Serial(layer, x.shape, weights=weights)
    run.context.key = (SEED, layer_key("layer"), STEP, 0)
    y = run.forward(x + values["shift.shift"])
    (dx,) = run.backward(dy)
    return {"y": y, "shift.shift": dx, **{f"layer.{name}": run.gradient(name) for name in weights}}
