"""A program on this rank whose fully connected layers run in rounds: see `gridnn.program.rounds`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gridnn.comm.communicator import Pending
from gridnn.comm.grid import Grid
from gridnn.comm.packing import Scratch
from gridnn.execute import Executable
from gridnn.feed import Feed
from gridnn.graphs import PLAIN, Plain
from gridnn.layout.layout import Box
from gridnn.layout.partition import Interval
from gridnn.local import LocalLayer
from gridnn.program.program import Program
from gridnn.runtime.parameters import Parameters, join_groups
from gridnn.seat import Gradients

Array = Any


class ExecutableInRounds:
    """The layers before the stack once, and the stack forward and backward once a round, each for its own samples.

    So the activations of the stack are those of one round. Its weight gradients add up over the rounds, and their sums
    over the ranks start in the last one; the gradients of what it reads go back to the ranks that dealt it.

    Parameters
    ----------
    program, grid, parameters, seed, scratch, graphs
        As of `Executable`.
    """

    def __init__(
        self, program: Program, grid: Grid, parameters: Parameters, seed: int, scratch: Scratch, graphs: Plain = PLAIN
    ) -> None:
        self.program, self.grid, self.backend = program, grid, grid.backend
        join_groups(program, grid)
        front, *rounds = program.pieces
        self.graphs = graphs
        self.front = Executable(front, grid, parameters, seed, scratch, graphs)
        self.rounds = [Round(piece, grid, parameters, seed, scratch, graphs) for piece in rounds]
        self._pass: dict[str, Any] = {}  # how the last pass was run

    @property
    def input_feeds(self) -> list[Feed]:
        """The arrays that a reader fills before a pass."""
        return self.front.input_feeds

    @property
    def target_box(self) -> Box:
        """The part of the targets that this rank compares with, in all rounds together."""
        return self.rounds[0].target_box

    def train(
        self, target: Array, scale: float, *, step: int, micro: int = 0, first: bool = True, last: bool = True
    ) -> tuple[Array, list[Pending]]:
        """Forward and backward of one pass; as `Executable.train`."""
        how = {"step": step, "micro": micro}
        return self.graphs.run((self, first, last), lambda t: self._train(t, scale, how, first, last), target)

    def _train(
        self, target: Array, scale: float, numbers: dict[str, int], first: bool, last: bool
    ) -> tuple[Array, list[Pending]]:
        how = self._pass = {"training": True, **numbers}
        x = self.front.forward(**how)
        dx = self.backend.temporary(x.shape, x.dtype) if self.rounds[0].needs_gradient else None
        total, pending = self.backend.zeros((2,), "float64"), []
        for one in self.rounds:
            total += one.forward(x, target, **how)
            starts, ends = one is self.rounds[0], one is self.rounds[-1]
            pending += one.backward(scale, dx, first=first and starts, last=last and ends)
        del x
        return total, pending + self.front.backward(dx, first=first, last=last)

    def forward(self, *, training: bool, target: Array) -> Array:
        """One pass outside training; as `Executable.forward`."""
        assert not training, "rounds run forward and backward together: train"
        self._pass = {"training": training}
        return self.graphs.run((self, "evaluation"), self._evaluate, target)

    def _evaluate(self, target: Array) -> Array:
        x = self.front.forward(**self._pass)
        total = self.backend.zeros((2,), "float64")
        for one in self.rounds:
            total += one.forward(x, target, training=False)
        return total

    def first_non_finite(self) -> str | None:
        """The first layer with an output that is not finite on some rank; as `Executable.first_non_finite`."""
        name = self.front.first_non_finite()
        if name is None:
            x = self.front.forward(**self._pass)
            name = next(filter(None, (one.first_non_finite(x) for one in self.rounds)), None)
        return name


class Round:
    """The stack in one round on this rank; the parameters are those of `Executable`.

    Every method takes ``x``, ``dx`` and the targets of all rounds, and uses what belongs to this one.
    """

    def __init__(
        self, piece: Program, grid: Grid, parameters: Parameters, seed: int, scratch: Scratch, graphs: Plain
    ) -> None:
        self.stack = Executable(piece, grid, parameters, seed, scratch, graphs)
        self.turn, self.xp = piece.turn, grid.backend.xp
        edge = piece.steps[0].edges[0]
        self.source, self.needs_gradient = edge.source, edge.needs_gradient
        layout = edge.transfer.source
        self.dealt = slice(*self.turn.given(layout.part(grid.index, layout.dims[0])))
        for local in self.stack.layers:
            rows = [self.xp.arange(*samples) for samples in self._samples(local)]
            local.indices = (self._joined(rows, self.xp.arange(0)), *local.output_box[1:])

    @property
    def target_box(self) -> Box:
        """The part of the targets that this rank compares with, in all rounds together."""
        loss = self.stack.loss
        return (self.turn.block(loss.step.split.parts("n"), loss.part("n")), *self.stack.target_box[1:])

    def forward(self, x: Array, target: Array, **how: Any) -> Array:
        """This rank's share of (loss, right answers)."""
        first = self.target_box[0][0]
        rows = [target[start - first : stop - first] for start, stop in self._samples(self.stack.loss)]
        return self.stack.forward(target=self._joined(rows, target[:0]), given=self._given(x), **how)

    def backward(self, scale: float, dx: Array | None, *, first: bool, last: bool) -> list[Pending]:
        """Write the gradient of what this rank dealt into ``dx``, and start the sums after the ``last`` round."""
        gradients: Gradients = {}
        pending = self.stack.backward(scale, first=first, last=last, gradients=gradients)
        if self.needs_gradient:
            one, *others = gradients[self.source]
            dx[self.dealt] = one
            for other in others:
                dx[self.dealt] += other
        return pending

    def first_non_finite(self, x: Array) -> str | None:
        """As `Executable.first_non_finite`."""
        return self.stack.first_non_finite(self._given(x))

    def _given(self, x: Array) -> dict[str, Array]:
        return {self.source: x[self.dealt]}

    def _samples(self, local: LocalLayer) -> Iterator[Interval]:
        """The places in the whole batch of the samples that a layer has in this round."""
        return self.turn.samples(local.step.split.parts("n"), local.part("n"))

    def _joined(self, arrays: list[Array], nothing: Array) -> Array:
        return self.xp.concatenate(arrays) if arrays else nothing


Runs = Executable | ExecutableInRounds


def make_executable(
    program: Program, grid: Grid, parameters: Parameters, seed: int, scratch: Scratch, graphs: Plain = PLAIN
) -> Runs:
    """What runs ``program``; all ranks make it together. The parameters are those of `Executable`."""
    kind = Executable if len(program.pieces) == 1 else ExecutableInRounds
    return kind(program, grid, parameters, seed, scratch, graphs)
