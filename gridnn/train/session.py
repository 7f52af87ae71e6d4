"""Everything a run is made of, built once from its configuration: data, network, plan, grid, parameters."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gridnn.arrays import get_backend
from gridnn.comm.ledger import Where
from gridnn.comm.mover import Scratch
from gridnn.errors import UserError, user_mistakes
from gridnn.execute import Executable
from gridnn.grid import Grid
from gridnn.parameters import Parameters
from gridnn.program import pass_sizes
from gridnn.train.config import RunConfig
from gridnn.train.optimizers import OptimizerState
from gridnn.train.reader import Reader
from gridnn.train.setup import set_up

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
        self._made = set_up(config, job.size)
        self.data, self.network, self.plan, self.batch, program = self._made
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

    @property
    def resolved(self) -> dict[str, Any]:
        """The options of the run with what ``auto`` and the size of the data made of them."""
        return {**self.config.as_dict(), "grid": str(self.plan.grid), "batch": self.batch}

    def executable(self, samples: int) -> Executable:
        """The network compiled for ``samples`` samples, made at the first call (by all ranks)."""
        if samples not in self._executables:
            with user_mistakes():
                program = self._made.compiled(samples)
                made = Executable(program, self.grid, self.parameters, self.config.seed, self._scratch)
            self._executables[samples] = made
        return self._executables[samples]

    def parts(self, indices: np.ndarray) -> list[np.ndarray]:
        """A batch in the pieces that run one after the other (``--accumulate``)."""
        ends = np.cumsum(pass_sizes(len(indices), self.config.accumulate))
        return np.split(indices, ends[:-1])

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
        return self._means(totals, len(indices), executable, f"at step {step}")

    @QUIET
    def update(self, optimizer: OptimizerState, lr: float) -> None:
        """Let the parameters follow their gradients."""
        optimizer.update(self.parameters.values, self.parameters.gradients, lr)

    @QUIET
    def evaluate(self, data: Any) -> tuple[float, float]:
        """The mean loss and the share of right answers over a whole data set, as global sums over global counts.

        Raises
        ------
        UserError
            As in `step`.
        """
        totals = self.grid.backend.zeros((2,), "float64")
        self.ledger.evaluating = True
        for start in range(0, len(data), self.batch):
            indices = np.arange(start, min(start + self.batch, len(data)))
            for piece in self.parts(indices):
                executable = self.executable(len(piece))
                target = self.reader.read(executable, data, piece)
                totals += executable.forward(training=False, target=target)
        means = self._means(totals, len(data), executable, "on the test data")
        self.ledger.evaluating = False
        return means

    def _means(self, totals: Any, count: int, last: Executable, when: str) -> tuple[float, float]:
        """(Loss, right answers) of all ranks over ``count`` samples; ``last`` is what ran last."""
        if self.reader.mistake:
            totals += math.nan
        self.grid.all.all_reduce(totals, Where(self.network.output, "forward"))
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
