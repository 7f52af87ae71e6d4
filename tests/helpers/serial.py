"""A layer on one rank, without grid and schedule: what `gridnn.layers.base.Context` promises, for the tests."""

from __future__ import annotations

import math

import numpy as np
from backends import make_backend

from gridnn.kernels import Backend
from gridnn.layers.base import UNFUSED, Layer, Loss, Shapes
from gridnn.layers.computation import LayerPart, Reduction, gradient, inputs
from gridnn.layout.split import Split


def box_of(shape):
    """The box of a whole tensor."""
    return tuple((0, size) for size in shape)


class SerialContext:
    """One rank that has all of a layer; reductions are identities and are noted in ``reduced``."""

    def __init__(self, layer: Layer, shapes: Shapes, dtype, backend: Backend | None = None, training=True):
        self.backend = backend or make_backend(dtype)
        self.kernels = self.backend.kernels
        self.layer, self.shapes, self.training = layer, shapes, training
        self.dtype, self.wide = self.backend.dtype(dtype), self.backend.wide(dtype)
        self.needs_gradient, self.counts, self.key, self.scale = True, True, (1, 2, 3), 1.0
        self.input_boxes = tuple(box_of(shape) for shape in shapes.inputs)
        self.output_box = box_of(shapes.output)
        self.fused, self.mask, self.input_mask, self.reduced = UNFUSED, None, None, []
        self.result = self.backend.zeros((3,), "float64")
        make = self.backend.full
        described = layer.weights(shapes)
        types = {name: self.dtype if p.fan_in is not None else self.wide for name, p in described.items()}
        self.parameters = {name: make(p.shape, p.value, types[name]) for name, p in described.items()}
        self.gradients = {name: make(p.shape, math.nan, self.wide) for name, p in described.items()}
        self.state = {name: make(p.shape, p.value, self.wide) for name, p in layer.states(shapes).items()}

    @property
    def indices(self):
        return self.output_box

    def part(self, axis):
        return 0

    def workspace(self, dtype=None):
        return self.backend.workspace(dtype or self.dtype)

    def reduce(self, array, axes, operation):
        self.reduced.append((operation, axes, array.size))


class LayerRun:
    """The tasks of a layer in their order, on arrays that hold NaN until they are written.

    Whoever reads what nobody has written is found out.
    """

    def __init__(self, layer: Layer, context: SerialContext):
        self.layer, self.context, self.arrays = layer, context, {}

    def forward(self, *ghosted, target=None, recomputing=False):
        """The output; of a loss, this rank's share of (loss, right answers)."""
        context = self.context
        part = LayerPart(
            context.shapes,
            context.input_boxes,
            context.output_box,
            tuple(x.shape for x in ghosted),
            context.training,
            context.needs_gradient,
            context.fused,
        )
        self.made = made = self.layer.computation(part)
        kept = {w for call in made.forward if not isinstance(call, Reduction) and call.once for w in call.writes}
        old = {name: array for name, array in self.arrays.items() if name in kept} if recomputing else {}
        self.arrays = {**dict(zip(inputs(len(ghosted)), ghosted, strict=True)), **old}
        self.specs = {spec.name: (spec.shape, spec.dtype) for spec in made.buffers}
        self.specs["y"] = (part.output, "activation")
        self.specs.update(
            (gradient(n), (x.shape, "activation")) for n, x in zip(inputs(len(ghosted)), ghosted, strict=True)
        )
        if isinstance(self.layer, Loss):
            context.result[...] = 0
            self.arrays["target"] = target
        self._views(("y",))
        self._run(made.forward, recomputing)
        return context.result[:2] if isinstance(self.layer, Loss) else self.array("y")

    def backward(self, dy=None):
        """The gradients of the ghosted inputs, None where nobody asks for them."""
        names = [gradient(name) for name in inputs(len(self.context.shapes.inputs))]
        for name in names:
            self.arrays.pop(name, None)
        self.arrays["dy"] = dy
        if not self.context.needs_gradient:
            self._run([c for c in self.made.backward if isinstance(c, Reduction) or not {*names} & {*c.writes}])
            return [None] * len(names)
        self._views(names)
        self._run(self.made.backward)
        return [self.array(name) for name in names]

    def _run(self, calls, recomputing=False):
        for call in calls:
            if isinstance(call, Reduction):
                if not recomputing:
                    self.context.reduce(self.array(call.buffer), call.axes, call.operation)
            elif not (recomputing and call.once):
                order = (*call.reads, *(w for w in call.writes if w not in call.reads))
                for name in call.writes:
                    if name not in call.reads:
                        self.arrays.pop(name, None)
                arrays = map(self.array, order)
                getattr(self.layer, call.method)(self.context, *call.arguments, *arrays)

    def _views(self, names):
        for view in self.made.views:
            if view.name in names:
                base = self.array(view.base)
                self.arrays[view.name] = (base if view.region is None else base[view.region]).reshape(view.shape)

    def array(self, name):
        """An array by the layer's own name; made when it is first asked for."""
        if name not in self.arrays:
            shape, dtype = self.specs[name]
            context = self.context
            dtype = {"activation": context.dtype, "wide": context.wide}.get(dtype, dtype)
            array = self.arrays[name] = context.backend.empty(shape, dtype)
            if dtype in (context.dtype, context.wide, "float64"):
                array[...] = math.nan
        return self.arrays[name]


def ghosted(layer: Layer, shapes: Shapes, index: int, x: np.ndarray) -> np.ndarray:
    """``x`` with the padding of the layer's windows."""
    windows = layer.windows(shapes)
    axes = layer.input_axes(index, shapes)
    widths = [(windows[a].before, windows[a].after) if a in windows else (0, 0) for a in axes]
    return np.pad(x, widths, constant_values=layer.padding_value)


def unghosted(layer: Layer, shapes: Shapes, index: int, dx: np.ndarray) -> np.ndarray:
    """What of the gradient of a ghosted input is not padding."""
    windows = layer.windows(shapes)
    starts = [windows[a].before if a in windows else 0 for a in layer.input_axes(index, shapes)]
    return dx[tuple(slice(s, s + size) for s, size in zip(starts, shapes.inputs[index], strict=True))]


class Serial:
    """A layer that runs on host arrays: ``forward(*inputs)``, ``backward(dy)``."""

    def __init__(self, layer: Layer, *shapes, dtype=np.float64, backend=None, training=True, weights=None):
        samples = layer.infer(*(tuple(shape[1:]) for shape in shapes))
        self.layer, self.shapes = layer, Shapes(tuple(map(tuple, shapes)), (shapes[0][0], *samples))
        layer.check(self.shapes, Split(()))
        self.context = SerialContext(layer, self.shapes, dtype, backend, training)
        self.calls = LayerRun(layer, self.context)
        for name, value in (weights or {}).items():
            self.context.backend.from_host(value, self.context.parameters[name])

    def forward(self, *arrays, target=None, recomputing=False):
        backend = self.context.backend
        padded = [ghosted(self.layer, self.shapes, i, x) for i, x in enumerate(arrays)]
        target = None if target is None else backend.asarray(target)
        y = self.calls.forward(*map(backend.asarray, padded), target=target, recomputing=recomputing)
        return backend.to_host(y).copy()

    def backward(self, dy):
        """The gradients of the inputs; ``dy`` is a float for a loss."""
        backend = self.context.backend
        if isinstance(self.layer, Loss):
            self.context.scale, dy = dy, None
        else:
            dy = backend.asarray(dy)
        return [
            unghosted(self.layer, self.shapes, i, backend.to_host(dx)).copy() if dx is not None else None
            for i, dx in enumerate(self.calls.backward(dy))
        ]

    def gradient(self, name):
        """The gradient of a parameter, on the host."""
        return self.context.backend.to_host(self.context.gradients[name])

    def state(self, name):
        """A running statistic, on the host."""
        return self.context.backend.to_host(self.context.state[name])
