"""Everything a run is made of, built once from its configuration: data, network, plan, grid, parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from gridnn.arrays import get_backend
from gridnn.comm.ledger import Where
from gridnn.comm.packing import Scratch
from gridnn.errors import UserError, user_mistakes
from gridnn.execute_rounds import Runs, make_executable
from gridnn.grid import Grid
from gridnn.parameters import Parameters
from gridnn.program import Program, pass_sizes
from gridnn.train.agreement import refuse_differences
from gridnn.train.config import RunConfig
from gridnn.train.optimizers import OptimizerState
from gridnn.train.reader import Batch, Reader
from gridnn.train.setup import set_up
from gridnn.train.weights import fill

QUIET = np.errstate(over="ignore", invalid="ignore")  # a loss that is not finite is told once, with step and layer


class Session:
    """A network on a grid with its data, ready to make steps; all ranks make it together.

    Parameters
    ----------
    config : RunConfig
        Checked options.
    job : Job
        The ranks.
    asking : callable
        Whether this rank wants all ranks to stop after the step under way.

    Attributes
    ----------
    asked : bool
        Whether some rank wanted to stop when the losses were last summed: the same on all ranks.

    Raises
    ------
    ValueError
        If data, network, grid and plan do not fit each other.
    """

    def __init__(self, config: RunConfig, job: Any, asking: Callable[[], bool] = lambda: False) -> None:
        self.config, self.asking, self.asked = config, asking, False
        backend = get_backend(config.backend, config.kernels)
        self._made = set_up(config, job.size)
        self.data, self.network, self.plan, self.batch, program = self._made
        shape = self.plan.grid
        self.grid = Grid(job.comm, shape.rows, shape.cols, order=shape.order, backend=backend)
        refuse_differences(self._made, self.grid)
        self.parameters = Parameters(program, self.grid, config.dtype, config.seed)
        if config.weights:
            fill(self.parameters, program, config.model, config.weights)
        self._scratch = Scratch(backend, config.dtype)
        self._executables: dict[int, Runs] = {}
        self.reader = Reader(backend, config.dtype)

    @property
    def ledger(self):
        """What this rank moved."""
        return self.grid.ledger

    @property
    def program(self) -> Program:
        """The program of the smallest pass of a full batch."""
        return self._made.program

    @property
    def steps_per_epoch(self) -> int:
        """The updates of one epoch."""
        samples = len(self.data.train)
        return samples // self.batch if self.config.drop_last else math.ceil(samples / self.batch)

    @property
    def samples_per_epoch(self) -> int:
        """The samples that the updates of one epoch see."""
        return min(self.steps_per_epoch * self.batch, len(self.data.train))

    @property
    def resolved(self) -> dict[str, Any]:
        """The options of the run with what ``auto`` and the size of the data made of them."""
        return {**self.config.as_dict(), "grid": str(self.plan.grid), "batch": self.batch}

    def executable(self, samples: int) -> Runs:
        """The network compiled for ``samples`` samples, made at the first call (by all ranks)."""
        if samples not in self._executables:
            with user_mistakes():
                program = self._made.compiled(samples)
                made = make_executable(program, self.grid, self.parameters, self.config.seed, self._scratch)
            self._executables[samples] = made
        return self._executables[samples]

    def parts(self, indices: np.ndarray) -> list[np.ndarray]:
        """A batch in the pieces that run one after the other (``--accumulate``)."""
        ends = np.cumsum(pass_sizes(len(indices), self.config.accumulate))
        return np.split(indices, ends[:-1])

    @QUIET
    def step(self, indices: np.ndarray, step: int, upcoming: np.ndarray | None = None) -> tuple[float, float]:
        """Forward and backward of one batch; leaves the summed gradient in ``parameters.gradients``.

        Parameters
        ----------
        indices : array of int64
            The samples of the batch.
        step : int
            Its number, from 1 on.
        upcoming : array of int64, optional
            The samples of the next batch, which are read meanwhile.

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
        data, pending = self.data.train, []
        batches = [Batch(data, part, step) for part in self.parts(indices)]
        after = None if upcoming is None else Batch(data, self.parts(upcoming)[0], step + 1)
        for micro, (executable, target) in enumerate(self._passes(batches, after)):
            part = {"micro": micro, "first": micro == 0, "last": micro == len(batches) - 1}
            share, pending = executable.train(target, 1.0 / len(indices), step=step, **part)
            totals += share
        for request in pending:
            request.wait()
        return self._means(totals, len(indices), executable, f"at step {step}")

    def _passes(self, batches: list[Batch], after: Batch | None = None) -> Iterator[tuple[Runs, Any]]:
        """For every batch the executable that holds it and its targets, while the next one is read; last ``after``."""
        for batch, following in zip(batches, [*batches[1:], after], strict=True):
            executable = self.executable(len(batch.indices))
            target = self.reader.read(executable, batch)
            if following is not None:
                self.reader.ahead(self.executable(len(following.indices)), following)
            yield executable, target

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
        whole = (np.arange(start, min(start + self.batch, len(data))) for start in range(0, len(data), self.batch))
        for executable, target in self._passes([Batch(data, part) for one in whole for part in self.parts(one)]):
            totals += executable.forward(training=False, target=target)
        means = self._means(totals, len(data), executable, "on the test data")
        self.ledger.evaluating = False
        return means

    def _means(self, totals: Any, count: int, last: Runs, when: str) -> tuple[float, float]:
        """(Loss, right answers) of all ranks over ``count`` samples; ``last`` is what ran last."""
        if self.reader.mistake:
            totals += math.nan
        sums = self.grid.backend.full((3,), float(self.asking()), "float64")
        sums[:2] = totals
        self.grid.all.all_reduce(sums, Where(self.network.output, "forward"))
        loss, right, asking = (float(value) for value in self.grid.backend.to_host(sums))
        loss, right, self.asked = loss / count, right / count, asking > 0
        if not math.isfinite(loss):
            raise UserError(self._not_finite(loss, last, when))
        return loss, right

    def _not_finite(self, loss: float, last: Runs, when: str) -> str:
        mistakes = [text for text in self.grid.all.gather_values(self.reader.mistake) if text]
        if mistakes:
            return mistakes[0]
        layer = last.first_non_finite()  # None where an earlier part of the data was the bad one
        where = f"; the first output that is not finite is that of layer {layer!r}" if layer else ""
        return f"the loss is {loss} {when}{where}: lower --lr {self.config.lr}, or use --clip or --warmup"
