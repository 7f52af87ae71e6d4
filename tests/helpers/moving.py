"""A transfer alone, run as a schedule runs it: its stages' operations, their buffers in an arena, their requests."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from gridnn.comm.grid import Grid
from gridnn.layout.layout import Box, box_shape, common
from gridnn.layout.transfer import Transfer
from gridnn.program.inputs import Inputs
from gridnn.program.listing import Listing
from gridnn.program.schedule import Begin, Copy, InputPart, Load, Policy, Schedule
from gridnn.runtime.executable import Executable
from gridnn.runtime.memory import Memory

LAYER = "layer"


class Moving:
    """``transfer`` and its adjoint on this rank; all ranks of ``grid`` make it together.

    Attributes
    ----------
    kept : Box or None
        Where all that moves are messages: what of the target a rank has itself, there before the first message comes.
    """

    def __init__(self, transfer: Transfer, grid: Grid, memory: Memory) -> None:
        self.transfer, self.grid, self.memory = transfer, grid, memory
        stages, held, needed = transfer.stages, transfer.source.box(grid.index), transfer.target.box(grid.index)
        flies = bool(stages) and all(stage.kind == "neighbours" for stage in stages)
        self.kept: Box | None = common(held, needed) if flies else None
        self._forward, self._adjoint = (self._bound(adjoint) for adjoint in (False, True))

    def _bound(self, adjoint: bool) -> Executable:
        grid, transfer = self.grid, self.transfer
        phase, full_sum = ("backward", transfer.full_sum) if adjoint else ("forward", False)
        program = SimpleNamespace(rows=grid.shape.rows, ranks=grid.shape.size, layers=())
        policy = Policy(8)
        listing = Listing(program, grid.index, policy)
        box = (transfer.target if adjoint else transfer.source).box(grid.index)
        place = listing.new("x", box_shape(box), kind="input", layer=LAYER)
        listing.emit(Load(LAYER, phase, (), (place,)))
        stages = transfer.stages[::-1] if adjoint else transfer.stages
        names = [place, *(f"place {number}" for number in range(len(stages)))]
        for name, stage in zip(names[1:], stages, strict=True):
            listing.new(name, box_shape((stage.source if adjoint else stage.target).box(grid.index)), layer=LAYER)
        if not adjoint and self.kept is not None and len(stages) > 1:
            feed = SimpleNamespace(edge=SimpleNamespace(transfer=transfer), owner=LAYER)
            Inputs(listing)._keep(feed, place, names[-1], phase)
        for number, stage in enumerate(stages):
            listing.operations += listing.stage(stage, adjoint, full_sum, *names[number : number + 2], LAYER, phase)
        if not stages:  # what reads it reads the array itself
            names.append(listing.new("out", box_shape(box), layer=LAYER))
            listing.emit(Copy(LAYER, phase, (place,), (names[-1],), (slice(None),) * len(box)))
        operations, buffers = tuple(listing.operations), listing.buffers
        inputs = (InputPart("input", box, "activation"),)
        listed = (program, grid.index, policy, "prediction", operations, buffers, inputs)
        schedule = Schedule(*listed, outputs={LAYER: names[-1]})
        parameters = SimpleNamespace(dtype=grid.backend.dtype("float64"), wide=grid.backend.dtype("float64"))
        return Executable(schedule, grid, parameters, self.memory)

    def forward(self, x: np.ndarray) -> np.ndarray:
        """What this rank has of the target, where it has ``x`` of the source."""
        return self._run(self._forward, x)

    def adjoint(self, y: np.ndarray) -> np.ndarray:
        """What the adjoint makes of ``y``."""
        return self._run(self._adjoint, y)

    def _run(self, executable: Executable, x: np.ndarray) -> np.ndarray:
        if self.memory.size:
            self.memory._block[...] = 255  # NaN
        executable.run(self._filler(x))
        return self.grid.backend.to_host(executable.output).copy()

    def _filler(self, x: np.ndarray):
        def fill(inputs, _):
            inputs[0][...] = self.grid.backend.asarray(x.copy())

        return fill

    def begun(self, x: np.ndarray):
        """Begin to move ``x``, up to the first messages that are asked for; gives what has come, and what goes on.

        What has come is the target with NaN where nothing is yet.
        """
        executable = self._forward
        self.memory._block[...] = 255
        executable._start(self._filler(x), 0, 0, 1.0)
        operations, calls = executable.schedule.operations, executable._calls
        first = next(number for number, operation in enumerate(operations) if isinstance(operation, Begin)) + 1
        for call in calls[:first]:
            call()
        come = self.grid.backend.to_host(executable.output).copy()

        def finish() -> np.ndarray:
            for call in calls[first:]:
                call()
            return self.grid.backend.to_host(executable.output).copy()

        return come, finish
