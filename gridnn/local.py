"""One layer on one rank: its part of the index space, its parameters, and the sums that it may ask for."""

from __future__ import annotations

from typing import Any

from gridnn.comm.grid import Grid
from gridnn.comm.ledger import Where
from gridnn.layers.base import ALONE, Layer, Loss, Shapes
from gridnn.layout.layout import Box
from gridnn.program.step import Step, group_of
from gridnn.runtime.parameters import Parameters, layer_key

Array = Any


class LocalLayer:
    """One layer on this rank: what `gridnn.layers.base.Local` promises it, and nothing more."""

    def __init__(self, step: Step, grid: Grid, parameters: Parameters, seed: int) -> None:
        self.step, self.grid = step, grid
        self.backend, self.dtype, self.wide = grid.backend, parameters.dtype, parameters.wide
        self.layer: Layer = step.node.layer
        self.shapes: Shapes = step.shapes
        self.input_boxes = tuple(edge.layout.box(grid.index) for edge in step.edges)
        self.output_box: Box = step.output.box(grid.index)
        self.indices = self.output_box
        self.needs_gradient = any(edge.needs_gradient for edge in step.edges)
        # of the ranks that repeat the same work, the first one's numbers are counted
        self.counts = group_of(step.output, step.output.copies, grid.index)[0] == grid.index
        self.parameters = parameters.used(step.name)
        self.final_gradients = parameters.of(step.name, parameters.gradients)
        self.gradients = self.final_gradients
        self.state = parameters.states.get(step.name, {})
        self.training, self.recomputing, self.phase = True, False, "forward"
        self.fused = ALONE
        self.saved: dict[str, Any] = {}
        self.kept: dict[str, Any] = {}
        self._seed, self._name = seed, layer_key(step.name)
        self.key: tuple[int, ...] = ()
        self._groups = {axes: grid.group(step.group(grid.index, axes)) for axes in sorted(self._reduced_axes())}

    def _reduced_axes(self) -> set[tuple[str, ...]]:
        """The axes over which this layer may ask for sums; their communicators are made now, by all ranks together."""
        both = (self.layer.reductions(self.shapes, self.output_box, training) for training in (True, False))
        return {wanted.axes for reductions in both for wanted in reductions}

    def begin(self, phase: str, training: bool, step: int, micro: int) -> None:
        """Start a forward pass; the numbers name its random numbers."""
        self.training, self.phase, self.recomputing = training, phase, phase == "recompute"
        self.key = (self._seed, self._name, step, micro)

    def repeats(self, backward: bool = False) -> bool:
        """Whether its kernels get the same arguments in every pass like this one, and it asks nothing of other ranks.

        Not so: random numbers, sums over ranks, and the gradient of a loss, which is scaled as the step needs it.
        """
        if (self.layer.draws and self.training and not backward) or (isinstance(self.layer, Loss) and backward):
            return False
        if self.recomputing and not backward:
            return True  # sums are kept
        phase = "backward" if backward else "forward"
        reductions = self.layer.reductions(self.shapes, self.output_box, self.training)
        return not any(one.phase == phase and self._groups[one.axes].size > 1 for one in reductions)

    def kernels(self, backward: bool = False) -> int:
        """About how many kernels it launches: none, one, or several."""
        if not self.layer.passes[backward] or (self.fused.derived if backward else self.fused.applied):
            return 0  # its result is its input, or a view of it
        return 1 if self.layer.work == "memory" and not self.parameters and not isinstance(self.layer, Loss) else 2

    def end(self) -> None:
        """Forget what was remembered for the backward pass."""
        self.saved.clear()
        self.kept.clear()

    def buffer(self, name: str, shape: tuple[int, ...], dtype: Any = None) -> Array:
        """A fresh array with arbitrary contents, which lives as long as somebody refers to it."""
        return self.backend.temporary(shape, dtype or self.dtype)

    def part(self, axis: str) -> int:
        """Which part of ``axis`` this rank has."""
        return self.step.part(self.grid.index, axis)

    def sum(self, array: Array, axes: tuple[str, ...]) -> Array:
        """``array`` summed over the ranks that divide ``axes``, in place."""
        return self._reduce(array, axes, "sum")

    def max(self, array: Array, axes: tuple[str, ...]) -> Array:
        """The maximum of ``array`` over the ranks that divide ``axes``, in place."""
        return self._reduce(array, axes, "max")

    def _reduce(self, array: Array, axes: tuple[str, ...], operation: str) -> Array:
        group = self._groups[axes]
        if group.size > 1:
            group.all_reduce(array, Where(self.step.name, self.phase), operation)
        return array
