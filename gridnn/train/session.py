"""Everything a run is made of, built once from its configuration: data, network, plan, grid, parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import numpy as np

from gridnn.arrays import get_backend
from gridnn.comm.grid import Grid
from gridnn.comm.ledger import Where
from gridnn.comm.packing import Scratch
from gridnn.comm.transports.choice import Transports
from gridnn.errors import UserError, within_memory
from gridnn.execute_rounds import Runs, make_executable
from gridnn.graphs import PLAIN, Graphs
from gridnn.program.program import Program, pass_sizes
from gridnn.runtime.optimizers import OptimizerState
from gridnn.runtime.parameters import Parameters
from gridnn.train.agreement import collective_check, refuse_differences, shared_devices
from gridnn.train.config import RunConfig
from gridnn.train.loss_scale import make_loss_scale
from gridnn.train.reader import Batch, Reader
from gridnn.train.setup import set_up
from gridnn.train.weights import fill

OVERFLOW = 2.0**32  # what a rank whose gradient is not finite adds to the number of those that ask to stop
QUIET = np.errstate(over="ignore", invalid="ignore")  # a loss that is not finite is told once, with step and layer


def on_device(method: Callable) -> Callable:
    """A method of `Session` inside `Backend.mistakes`."""

    @wraps(method)
    def inside(self: Session, *args: Any, **options: Any) -> Any:
        with self.grid.backend.mistakes():
            return method(self, *args, **options)

    return inside


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
    notes : list of str
        What the user should know before the run.
    transports : Transports or None
        How the arrays of a device move between ranks; None: they lie in host memory.
    asked : bool
        Whether some rank wanted to stop when the losses were last summed: the same on all ranks.
    loss_scale : LossScale or None
        Of a run in float16.
    finite : bool
        Whether the gradients of the last step are finite on all ranks; if not, `update` leaves them out.

    Raises
    ------
    UserError
        If data, network, grid and plan do not fit each other.
    """

    def __init__(self, config: RunConfig, job: Any, asking: Callable[[], bool] = lambda: False) -> None:
        self.config, self.asking, self.asked = config, asking, False
        device = config.device
        self.loss_scale, self.finite = make_loss_scale(device.dtype), True
        options = {"dtype": device.dtype, "local_rank": job.local_rank, "tf32": device.tf32, "conv": device.conv}
        backend = collective_check(job.comm, lambda: get_backend(device.backend, device.kernels, **options))
        self.notes = shared_devices(job, backend)
        self._made = set_up(config, job.size)
        self.data, self.network, self.plan, self.batch, program = self._made
        shape = self.plan.grid
        self.transports = Transports.choose(device.transport, job, backend.device, shape) if backend.device else None
        options = {"order": shape.order, "backend": backend, "transports": self.transports}
        self.grid = Grid(job.comm, shape.rows, shape.cols, **options)
        refuse_differences(self._made, self.grid)
        with backend.mistakes():
            self.parameters = Parameters(program, self.grid, device.dtype, config.train.seed)
        if config.model.weights:
            fill(self.parameters, program, config.model.model, config.model.weights)
            self.parameters.refresh()
        self._scratch = Scratch(backend, self.parameters.dtype)
        self._executables: dict[int, Runs] = {}
        self.graphs = Graphs(backend.device.recorder()) if device.graphs else PLAIN
        self.reader = Reader(backend, self.parameters.wide)

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
        return samples // self.batch if self.config.train.drop_last else math.ceil(samples / self.batch)

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
            with within_memory():
                program = self._made.compiled(samples)
                shared = (self.parameters, self.config.train.seed, self._scratch, self.graphs)
                made = make_executable(program, self.grid, *shared)
            self._executables[samples] = made
        return self._executables[samples]

    def parts(self, indices: np.ndarray) -> list[np.ndarray]:
        """A batch in the pieces that run one after the other (``--accumulate``)."""
        ends = np.cumsum(pass_sizes(len(indices), self.config.train.accumulate))
        return np.split(indices, ends[:-1])

    @QUIET
    @on_device
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
        scale = (self.loss_scale.value if self.loss_scale else 1.0) / len(indices)
        data, pending = self.data.train, []
        batches = [Batch(data, part, step) for part in self.parts(indices)]
        after = None if upcoming is None else Batch(data, self.parts(upcoming)[0], step + 1)
        for micro, (executable, target) in enumerate(self._passes(batches, after)):
            part = {"micro": micro, "first": micro == 0, "last": micro == len(batches) - 1}
            share, pending = executable.train(target, scale, step=step, **part)
            totals += share
        for request in pending:
            request.wait()
        overflow = self._unscale()
        means = self._means(totals, len(indices), executable, f"at step {step}", overflow)
        if self.loss_scale:
            if not self.finite and self.loss_scale.least:
                raise UserError(self._overflows(step))
            self.loss_scale.adjust(self.finite)
        return means

    def _unscale(self) -> Any | None:
        """Divide the gradients by the loss scale; on the device, 1 if this rank's are not finite (None: not asked)."""
        if self.loss_scale is None:
            return None
        backend, flag = self.grid.backend, self.grid.backend.zeros((1,), "int32")
        backend.kernels.unscale(self.parameters.gradients, 1 / self.loss_scale.value, flag)
        return flag

    def _passes(self, batches: list[Batch], after: Batch | None = None) -> Iterator[tuple[Runs, Any]]:
        """For every batch the executable that holds it and its targets, while the next one is read; last ``after``."""
        for batch, following in zip(batches, [*batches[1:], after], strict=True):
            executable = self.executable(len(batch.indices))
            target = self.reader.read(executable, batch)
            if following is not None:
                self.reader.ahead(self.executable(len(following.indices)), following)
            yield executable, target

    @QUIET
    @on_device
    def update(self, optimizer: OptimizerState, lr: float) -> None:
        """Let the parameters follow their gradients, where these are finite."""
        if self.finite:
            optimizer.update(self.parameters.values, self.parameters.gradients, lr)
            self.parameters.refresh()

    @QUIET
    @on_device
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

    def _means(
        self, totals: Any, count: int, last: Runs, when: str, overflow: Any | None = None
    ) -> tuple[float, float]:
        """(Loss, right answers) of all ranks over ``count`` samples; ``last`` is what ran last.

        One word more carries two counts, of the ranks that ask to stop and, times `OVERFLOW`, of those whose gradients
        are not finite.
        """
        if self.reader.mistake:
            totals += math.nan
        sums = self.grid.backend.full((3,), float(self.asking()), "float64")
        sums[:2] = totals
        if overflow is not None:
            sums[2:] += OVERFLOW * overflow
        self.grid.all.all_reduce(sums, Where(self.network.output, "forward"))
        loss, right, asking = (float(value) for value in self.grid.backend.to_host(sums))
        self.ledger.settle()  # what the device has measured: it has come to here
        loss, right, self.asked = loss / count, right / count, asking % OVERFLOW > 0
        self.finite = asking < OVERFLOW
        if not math.isfinite(loss):
            raise UserError(self._not_finite(loss, last, when))
        return loss, right

    def _not_finite(self, loss: float, last: Runs, when: str) -> str:
        mistakes = [text for text in self.grid.all.gather_values(self.reader.mistake) if text]
        if mistakes:
            return mistakes[0]
        layer = last.first_non_finite()  # None where an earlier part of the data was the bad one
        where = f"; the first output that is not finite is that of layer {layer!r}" if layer else ""
        return f"the loss is {loss} {when}{where}: lower --lr {self.config.train.lr}, or use --clip or --warmup"

    def _overflows(self, step: int) -> str:
        """What is said where gradients are not finite at the smallest loss scale; all ranks call it together."""
        found = set().union(*self.grid.all.gather_values(self.parameters.not_finite()))
        layer = next(node.name for node in reversed(self.network.nodes) if node.name in found)
        return (
            f"the gradient of layer {layer!r} is not finite at step {step}, and the loss scale is 1: "
            f"{self.parameters.dtype} overflows; lower --lr {self.config.train.lr}, or use --dtype bfloat16 or float32"
        )
