"""Everything a run is made of, built once from its configuration: data, network, plan, grid, parameters."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gridnn.arrays import get_backend
from gridnn.comm.ledger import Where
from gridnn.comm.partition import Even
from gridnn.errors import UserError
from gridnn.execute import Executable, Feed
from gridnn.grid import Grid
from gridnn.parameters import Parameters
from gridnn.program import Program
from gridnn.train.config import RunConfig
from gridnn.train.setup import set_up

EVALUATION = Where("(evaluation)", "forward")


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
        self._executables: dict[int, Executable] = {}
        self._rooms: dict[tuple[int, ...], np.ndarray] = {}

    @property
    def ledger(self):
        """What this rank moved."""
        return self.grid.ledger

    def executable(self, samples: int) -> Executable:
        """The network compiled for ``samples`` samples, made at the first call (by all ranks)."""
        if samples not in self._executables:
            program = Program(self.network, self.plan, samples)
            self._executables[samples] = Executable(program, self.grid, self.parameters, self.config.seed)
        return self._executables[samples]

    def parts(self, indices: np.ndarray) -> list[np.ndarray]:
        """A batch in the pieces that run one after the other (``--accumulate``)."""
        even = Even(len(indices), self.config.accumulate)
        pieces = [indices[slice(*even.interval(i))] for i in range(even.parts)]
        return [piece for piece in pieces if len(piece)]

    def step(self, indices: np.ndarray, step: int) -> tuple[float, float]:
        """Forward and backward of one batch; leaves the summed gradient in ``parameters.gradients``.

        Returns
        -------
        loss, right : float
            The mean loss and the share of right answers over the whole batch.

        Raises
        ------
        UserError
            If the loss is not finite, on every rank, naming the step and the first layer.
        """
        totals = self.grid.backend.zeros((2,), "float64")
        parts, pending = self.parts(indices), []
        for micro, piece in enumerate(parts):
            executable = self.executable(len(piece))
            totals += self.forward(executable, self.data.train, piece, training=True, step=step, micro=micro)
            first, last = micro == 0, micro == len(parts) - 1
            pending = executable.backward(1.0 / len(indices), first=first, last=last)
        for request in pending:
            request.wait()
        self.grid.all.all_reduce(totals, Where(self.network.output, "forward"))
        loss, right = (float(value) / len(indices) for value in self.grid.backend.to_host(totals))
        if not math.isfinite(loss):
            raise UserError(_not_finite(loss, step, executable.first_non_finite(), self.config.lr))
        return loss, right

    def forward(
        self, executable: Executable, data: Any, indices: np.ndarray, *, training: bool, step: int = 0, micro: int = 0
    ) -> Any:
        """Read this rank's part of the samples ``indices`` and run them; its share of (summed loss, right answers)."""
        for feed in executable.input_feeds:
            self._read(feed, data, indices)
        samples, *rest = executable.loss.input_boxes[0]
        targets = data.targets(indices[slice(*samples)])
        if data.classes is None:
            targets = targets[(slice(None), *(slice(*interval) for interval in rest))]
        target = self.grid.backend.asarray(targets)
        return executable.forward(training=training, step=step, micro=micro, target=target)

    def _read(self, feed: Feed, data: Any, indices: np.ndarray) -> None:
        samples, *box = feed.box
        shape = tuple(stop - start for start, stop in feed.box)
        room = self._rooms.setdefault(shape, np.empty(shape, self.config.dtype))
        data.read(indices[slice(*samples)], tuple(box), room)
        feed.load(self.grid.backend.asarray(room))

    def evaluate(self, data: Any) -> tuple[float, float]:
        """The mean loss and the share of right answers over a whole data set, as global sums over global counts."""
        totals = self.grid.backend.zeros((2,), "float64")
        for start in range(0, len(data), self.batch):
            indices = np.arange(start, min(start + self.batch, len(data)))
            for piece in self.parts(indices):
                totals += self.forward(self.executable(len(piece)), data, piece, training=False)
        self.grid.all.all_reduce(totals, EVALUATION)
        loss, right = (float(value) / len(data) for value in self.grid.backend.to_host(totals))
        return loss, right


def _not_finite(loss: float, step: int, layer: str | None, lr: float) -> str:
    where = f"the first output that is not finite is that of layer {layer!r}" if layer else "all outputs are finite"
    return f"the loss is {loss} at step {step}; {where}: lower --lr {lr}, use --clip or --warmup, or check the data"
