"""A layer on one rank, without grid and executor: what `gridnn.layers.base.Local` promises, for the tests."""

from __future__ import annotations

import math

import numpy as np
from backends import make_backend

from gridnn.arrays import Backend
from gridnn.layers.base import ALONE, Layer, Loss, Shapes
from gridnn.layout.split import Split


def box_of(shape):
    """The box of a whole tensor."""
    return tuple((0, size) for size in shape)


class SerialLocal:
    """One rank that has all of a layer; reductions are identities and are noted in ``reduced``."""

    def __init__(self, layer: Layer, shapes: Shapes, dtype, backend: Backend | None = None, training=True):
        self.backend = backend or make_backend(dtype)
        self.layer, self.shapes, self.training = layer, shapes, training
        self.dtype, self.wide = self.backend.dtype(dtype), self.backend.wide(dtype)
        self.needs_gradient, self.counts, self.key = True, True, (1, 2, 3)
        self.input_boxes = tuple(box_of(shape) for shape in shapes.inputs)
        self.output_box = box_of(shapes.output)
        self.saved, self.kept, self.recomputing, self.reduced = {}, {}, False, []
        self.fused = ALONE
        make = self.backend.full
        described = layer.weights(shapes)
        types = {name: self.dtype if p.fan_in is not None else self.wide for name, p in described.items()}
        self.parameters = {name: make(p.shape, p.value, types[name]) for name, p in described.items()}
        self.gradients = {name: make(p.shape, math.nan, self.wide) for name, p in described.items()}
        self.state = {name: make(p.shape, p.value, self.wide) for name, p in layer.states(shapes).items()}

    @property
    def indices(self):
        return self.output_box

    def buffer(self, name, shape, dtype=None):
        array = self.backend.empty(shape, dtype or self.dtype)
        if (dtype or self.dtype) == self.dtype:
            array[...] = math.nan  # whoever reads what it has not written is found out
        return array

    def part(self, axis):
        return 0

    def sum(self, array, axes):
        self.reduced.append(("sum", axes, array.size))
        return array

    def max(self, array, axes):
        self.reduced.append(("max", axes, array.size))
        return array


def framed(layer: Layer, shapes: Shapes, index: int, x: np.ndarray) -> np.ndarray:
    """``x`` with the padding of the layer's windows."""
    windows = layer.windows(shapes)
    axes = layer.input_axes(index, shapes)
    widths = [(windows[a].before, windows[a].after) if a in windows else (0, 0) for a in axes]
    return np.pad(x, widths, constant_values=layer.fill)


def unframed(layer: Layer, shapes: Shapes, index: int, dx: np.ndarray) -> np.ndarray:
    """What of the gradient of a frame is not padding."""
    windows = layer.windows(shapes)
    starts = [windows[a].before if a in windows else 0 for a in layer.input_axes(index, shapes)]
    return dx[tuple(slice(s, s + size) for s, size in zip(starts, shapes.inputs[index], strict=True))]


class Serial:
    """A layer that runs on host arrays: ``forward(*inputs)``, ``backward(dy)``."""

    def __init__(self, layer: Layer, *shapes, dtype=np.float64, backend=None, training=True, weights=None):
        samples = layer.infer(*(tuple(shape[1:]) for shape in shapes))
        self.layer, self.shapes = layer, Shapes(tuple(map(tuple, shapes)), (shapes[0][0], *samples))
        layer.check(self.shapes, Split(()))
        self.local = SerialLocal(layer, self.shapes, dtype, backend, training)
        for name, value in (weights or {}).items():
            self.local.backend.from_host(value, self.local.parameters[name])

    def forward(self, *inputs, target=None):
        backend = self.local.backend
        frames = [framed(self.layer, self.shapes, i, x) for i, x in enumerate(inputs)]
        if isinstance(self.layer, Loss):
            self.local.saved["target"] = backend.asarray(target)
        y = self.layer.forward(self.local, *(backend.asarray(frame) for frame in frames))
        return backend.to_host(y).copy()

    def backward(self, gradient):
        """The gradients of the inputs; ``gradient`` is a float for a loss."""
        backend = self.local.backend
        if not isinstance(self.layer, Loss):
            gradient = backend.asarray(gradient)
        results = self.layer.backward(self.local, gradient)
        return [
            unframed(self.layer, self.shapes, i, backend.to_host(dx)).copy() if dx is not None else None
            for i, dx in enumerate(results)
        ]

    def gradient(self, name):
        """The gradient of a parameter, on the host."""
        return self.local.backend.to_host(self.local.gradients[name])

    def state(self, name):
        """A running statistic, on the host."""
        return self.local.backend.to_host(self.local.state[name])
