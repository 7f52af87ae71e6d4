"""One layer on one rank: its part of the index space, and its parameters."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from gridnn.comm.grid import Grid
from gridnn.layers.base import UNFUSED, Fusion, Layer
from gridnn.layout.layout import Box
from gridnn.layout.split import AXES
from gridnn.program.placed import PlacedLayer, group_of
from gridnn.runtime.parameters import Parameters, layer_key

Array = Any


@dataclass
class Pass:
    """What differs from pass to pass: the numbers that name random numbers, and the scale of the loss's gradient."""

    step: int = 0
    number: int = 0
    scale: float = 1.0


class LayerContext:
    """What `gridnn.layers.base.Context` promises a layer, and nothing more.

    Parameters
    ----------
    step : PlacedLayer
        The layer in its program.
    grid : Grid
        This rank's place.
    parameters : Parameters
        Of all layers.
    run : Pass
        The pass under way.
    result : array
        [3], float64: what a loss adds to.
    seed : int
        Of random numbers.
    training : bool
        Whether a backward pass follows.
    fused : Fusion
        What of its neighbours' work the layer does.
    """

    def __init__(
        self,
        step: PlacedLayer,
        grid: Grid,
        parameters: Parameters,
        run: Pass,
        result: Array,
        *,
        seed: int = 0,
        training: bool = True,
        fused: Fusion = UNFUSED,
    ) -> None:
        self.backend, self.kernels = grid.backend, grid.backend.kernels
        self.dtype, self.wide = parameters.dtype, parameters.wide
        self.layer: Layer = step.node.layer
        self.shapes, self.training, self.fused, self.result = step.shapes, training, fused, result
        self.input_boxes: tuple[Box, ...] = tuple(edge.layout.box(grid.index) for edge in step.edges)
        self.output_box: Box = step.output.box(grid.index)
        self.indices: tuple[Any, ...] = self.output_box
        # of the ranks that repeat the same work, the first one's numbers are counted
        self.counts = group_of(step.output, step.output.replicas, grid.index)[0] == grid.index
        self.parameters = parameters.used(step.name)
        self.parameter_boxes = {name: layout.box(grid.index) for name, layout in step.layouts.items()}
        self.gradients = parameters.of(step.name, parameters.gradients)
        self.state = parameters.states.get(step.name, {})
        self.mask: Array | None = None
        self.maker: LayerContext | None = None  # of the mask that this layer reads
        self._run, self._seed, self._name = run, seed, layer_key(step.name)
        self._parts = {axis: step.part(grid.index, axis) for axis in (*AXES, *step.node.layer.axes(step.shapes))}

    @property
    def key(self) -> tuple[int, ...]:
        """What names the random numbers of this layer in this pass."""
        return (self._seed, self._name, self._run.step, self._run.number)

    @property
    def scale(self) -> float:
        """What the gradient of a loss is multiplied by: of a replica 0, since that of the first one is the whole."""
        return self._run.scale if self.counts else 0.0

    @property
    def input_mask(self) -> Array | None:
        """The mask of the ReLU before, where the layer before that applied it."""
        return self.maker.mask if self.maker else None

    def part(self, axis: str) -> int:
        """Which part of ``axis`` this rank has."""
        return self._parts[axis]

    def workspace(self, dtype: Any = None) -> Array:
        """A flat array for the temporaries of one kernel call; the next call overwrites it."""
        return self.backend.workspace(dtype or self.dtype)

    def replaced(self, **fields: Any) -> LayerContext:
        """The same layer with other ``output_box`` or ``gradients``."""
        other = copy.copy(self)
        for name, value in fields.items():
            setattr(other, name, value)
        return other
