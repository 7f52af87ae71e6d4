"""Everything a run is made of, built once from its configuration: data, network, plan, grid, parameters."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gridnn.arrays import get_backend
from gridnn.comm.ledger import Where
from gridnn.comm.mover import Scratch
from gridnn.comm.partition import Even
from gridnn.errors import UserError
from gridnn.execute import Executable
from gridnn.grid import Grid
from gridnn.parameters import Parameters
from gridnn.program import Program
from gridnn.train.config import RunConfig
from gridnn.train.reader import Reader
from gridnn.train.setup import set_up

EVALUATION = Where("(evaluation)", "forward")
QUIET = np.errstate(over="ignore", invalid="ignore")  # a loss that is not finite is told once, with step and layer


class Session:
    """A network on a grid with its data, ready to make steps; all ranks make it together.

    Parameters
    ----------
    config : RunConfig
        Checked options.
    job : Job
        The ranks.

    Raises
    ------
    ValueError
        If data, network, grid and plan do not fit each other.
    """

    def __init__(self, config: RunConfig, job: Any) -> None:
        self.config = config
        backend = get_backend(config.backend)
        self.data, self.network, self.plan, self.batch, program = set_up(config, job.size)
        shape = self.plan.grid
        self.grid = Grid(job.comm, shape.rows, shape.cols, order=shape.order, backend=backend)
        self.parameters = Parameters(program, self.grid, config.dtype, config.seed)
        self._scratch = Scratch(backend, config.dtype)
        self._executables: dict[int, Executable] = {}
        self.reader = Reader(backend, config.dtype)

    @property
    def ledger(self):
        """What this rank moved."""
        return self.grid.ledger

    def executable(self, samples: int) -> Executable:
        """The network compiled for ``samples`` samples, made at the first call (by all ranks)."""
        if samples not in self._executables:
            program = Program(self.network, self.plan, samples)
            self._executables[samples] = Executable(
                program, self.grid, self.parameters, self.config.seed, self._scratch
            )
        return self._executables[samples]

    def parts(self, indices: np.ndarray) -> list[np.ndarray]:
        """A batch in the pieces that run one after the other (``--accumulate``)."""
        even = Even(len(indices), self.config.accumulate)
        pieces = [indices[slice(*even.interval(i))] for i in range(even.parts)]
        return [piece for piece in pieces if len(piece)]

    @QUIET
    def step(self, indices: np.ndarray, step: int) -> tuple[float, float]:
        """Forward and backward of one batch; leaves the summed gradient in ``parameters.gradients``.

        Returns
        -------
        loss, right : float
            The mean loss and the share of right answers over the whole batch.

        Raises
        ------
        UserError
            If the loss is not finite, naming the step and the first layer, or a sample could not be read; on all ranks.
        """
        totals = self.grid.backend.zeros((2,), "float64")
        parts, pending = self.parts(indices), []
        for micro, piece in enumerate(parts):
            executable = self.executable(len(piece))
            target = self.reader.read(executable, self.data.train, piece)
            totals += executable.forward(training=True, step=step, micro=micro, target=target)
            first, last = micro == 0, micro == len(parts) - 1
            pending = executable.backward(1.0 / len(indices), first=first, last=last)
        for request in pending:
            request.wait()
        where = Where(self.network.output, "forward")
        return self._means(totals, len(indices), where, executable, f"at step {step}")

    @QUIET
    def evaluate(self, data: Any) -> tuple[float, float]:
        """The mean loss and the share of right answers over a whole data set, as global sums over global counts.

        Raises
        ------
        UserError
            As in `step`.
        """
        totals = self.grid.backend.zeros((2,), "float64")
        for start in range(0, len(data), self.batch):
            indices = np.arange(start, min(start + self.batch, len(data)))
            for piece in self.parts(indices):
                executable = self.executable(len(piece))
                target = self.reader.read(executable, data, piece)
                totals += executable.forward(training=False, target=target)
        return self._means(totals, len(data), EVALUATION, executable, "on the test data")

    def _means(self, totals: Any, count: int, where: Where, last: Executable, when: str) -> tuple[float, float]:
        """(Loss, right answers) of all ranks over ``count`` samples; ``last`` is what ran last."""
        if self.reader.mistake:
            totals += math.nan
        self.grid.all.all_reduce(totals, where)
        loss, right = (float(value) / count for value in self.grid.backend.to_host(totals))
        if not math.isfinite(loss):
            raise UserError(self._not_finite(loss, last, when))
        return loss, right

    def _not_finite(self, loss: float, last: Executable, when: str) -> str:
        mistakes = [text for text in self.grid.all.gather_values(self.reader.mistake) if text]
        if mistakes:
            return mistakes[0]
        layer = last.first_non_finite()  # None where an earlier part of the data was the bad one
        where = f"; the first output that is not finite is that of layer {layer!r}" if layer else ""
        return f"the loss is {loss} {when}{where}: lower --lr {self.config.lr}, or use --clip or --warmup"
