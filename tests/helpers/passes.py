"""A pass of a program on the ranks of a grid, as the tests run it: global arrays in, this rank's parts cut out."""

from __future__ import annotations

import numpy as np

from gridnn.comm.grid import Grid
from gridnn.layout.layout import Box, Layout, within
from gridnn.program.build import build
from gridnn.program.program import Program
from gridnn.program.schedule import Policy
from gridnn.runtime.executable import Executable
from gridnn.runtime.memory import Memory
from gridnn.runtime.parameters import Parameters
from gridnn.units import ITEMSIZES


def part(box: Box) -> tuple[slice, ...]:
    """Where a box lies in the whole tensor."""
    return within(box, tuple((0, 0) for _ in box))


def poison(memory: Memory) -> None:
    """NaN into all of the memory: who reads what nobody has written in this pass is found out."""
    if memory.size:
        memory._block[...] = 255  # of every float type a NaN


class Passes:
    """A program on the ranks of ``grid``, run pass by pass.

    Attributes
    ----------
    run : Executable
        What runs it.
    """

    def __init__(
        self,
        program: Program,
        grid: Grid,
        dtype: str = "float64",
        seed: int = 0,
        *,
        policy: Policy | None = None,
        kind: str = "training",
        parameters: Parameters | None = None,
        memory: Memory | None = None,
        **ends: bool,
    ) -> None:
        self.program, self.grid = program, grid
        self.parameters = parameters or Parameters(program, grid, dtype, seed)
        self.memory = memory or Memory(grid.backend)
        schedule = build(program, grid.index, policy or Policy(ITEMSIZES[dtype]), kind=kind, **ends)
        self.run = Executable(schedule, grid, self.parameters, self.memory, seed=seed)
        self.schedule, self.arena = schedule, self.run.arena

    def fill(self, x: np.ndarray, target: np.ndarray | None = None, seed: np.ndarray | None = None):
        """What fills this rank's arrays from global ones; ``seed`` is this rank's gradient of its output."""
        asarray = self.grid.backend.asarray

        def fill(inputs, array):
            for one, place in zip(self.schedule.inputs, inputs, strict=True):
                whole = x[one.source] if isinstance(x, dict) else x
                place[...] = asarray(np.ascontiguousarray(whole[part(one.box)]))
            if target is not None:
                mine = target[part(self.schedule.target_box)[: target.ndim]]
                array[...] = asarray(np.ascontiguousarray(mine))
            elif seed is not None:
                array[...] = asarray(np.ascontiguousarray(seed))

        return fill

    def step(self, x: np.ndarray, target: np.ndarray | None = None, seed: np.ndarray | None = None, **numbers):
        """Run it; (summed loss, right answers), of all ranks if it was the last pass of a batch."""
        self.run.result[...] = 0
        poison(self.memory)
        self.run.run(self.fill(x, target, seed), **numbers)
        return self.grid.backend.to_host(self.run.result)[:2].copy()

    @property
    def gradients(self) -> np.ndarray:
        """The flat gradients, on the host."""
        return self.grid.backend.to_host(self.parameters.gradients).copy()


def together(comm, grid: Grid, layout: Layout, mine) -> np.ndarray:
    """A global tensor from the parts: partial sums summed, replicas (which must agree) taken once."""
    total = np.zeros(layout.shape)
    for index, other in comm.allgather((grid.index, grid.backend.to_host(mine))):
        if layout.part(index, layout.replicas) == 0:
            total[part(layout.box(index))] += other
    return total


def targets(program: Program, rng: np.random.Generator) -> np.ndarray:
    """Of the whole batch: numbers like the output, or a class for every sample or place."""
    shape = (program.batch, *program.loss.shapes.output[1:])  # with rounds the loss has a part of the batch
    spec = program.loss.node.layer.target(shape)
    if spec.dtype == "int64":
        return rng.integers(0, shape[-1], spec.shape)
    return rng.normal(size=spec.shape)
