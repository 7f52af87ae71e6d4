"""Everything a run is made of, built once from its configuration: data, network, plan, grid, parameters."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from gridnn.comm.grid import Grid
from gridnn.comm.ledger import Ledger
from gridnn.comm.transports.choice import Transports
from gridnn.data.base import Data, Dataset
from gridnn.kernels import get_backend
from gridnn.program.program import Program
from gridnn.runtime.optimizers import OptimizerState
from gridnn.train.agreement import collective_check, refuse_differences, shared_devices
from gridnn.train.checkpoint import Tensor, tensors_of
from gridnn.train.config import RunConfig
from gridnn.train.lock import Lock
from gridnn.train.runner import Runner
from gridnn.train.setup import prepare_run
from gridnn.train.weights import fill as fill_weights


class Inherited(NamedTuple):
    """What one session of a run, on one grid, leaves to the next one.

    Attributes
    ----------
    data : Data or None
        Open.
    ledger : Ledger or None
        The account of what moved.
    lock : Lock or None
        Of the directory of the checkpoints, on the rank that has it.
    gone : frozenset of (node, process)
        The processes that have died.
    """

    data: Data | None = None
    ledger: Ledger | None = None
    lock: Lock | None = None
    gone: frozenset[tuple[str, int]] = frozenset()


NOTHING = Inherited()


class Session(Runner):
    """A network on a grid with its data, made from the options of a run; all ranks make it together.

    Parameters
    ----------
    config : RunConfig
        Checked options.
    job : Job
        The ranks.
    asking : callable, optional
        Whether this rank wants all ranks to stop after the pass under way.
    before : Inherited, optional
        What it takes over from another session of the run.
    survivors : Survivors, optional
        Of ranks whose death is mended.

    Attributes
    ----------
    notes : list of str
        What the user should know before the run.
    transports : Transports or None
        How the arrays of a device move between ranks; None: they lie in host memory.
    Raises
    ------
    UserError
        If data, network, grid and plan do not fit each other.
    """

    def __init__(
        self,
        config: RunConfig,
        job: Any,
        asking: Callable[[], bool] | None = None,
        *,
        before: Inherited = NOTHING,
        survivors: Any = None,
    ) -> None:
        self.config, device = config, config.device
        options = {"dtype": device.dtype, "local_rank": job.local_rank, "tf32": device.tf32, "conv": device.conv}
        recorder = job.recorder
        with recorder.doing(f"setting up {device.backend}"):
            backend = collective_check(
                job.comm, lambda: get_backend(device.backend, device.kernels, **options), recorder.waiting()
            )
        with recorder.waiting("comparing devices"):
            self.notes = shared_devices(job, backend)
        self.made = prepare_run(config, job.size, before.data, recorder.doing)
        self.data, _, plan, self.batch, program = self.made
        self.notes += self.data.notes
        shape = plan.grid
        self.transports = Transports.choose(device.transport, job, backend.device, shape) if backend.device else None
        options = {"order": shape.order, "backend": backend, "transports": self.transports, "recorder": recorder}
        options |= {"communicators": survivors and survivors.communicators, "ledger": before.ledger}
        grid = Grid(job.comm, shape.rows, shape.cols, **options)
        with recorder.doing("comparing networks"):
            refuse_differences(self.made, grid)
        options = {"dtype": device.dtype, "capture": device.graphs}
        options |= {"seed": config.train.seed, "accumulate": config.train.accumulate}
        super().__init__(program, grid, asking=asking, **options)
        self.remedy = f"lower --lr {config.train.lr}, or use --clip or --warmup"
        if config.model.weights:
            with recorder.doing("reading weights"):
                fill_weights(self.parameters, program, config.model.model, config.model.weights)
            self.parameters.refresh()

    @property
    def program(self) -> Program:
        """The program of the smallest pass of a full batch."""
        return self.made.program

    def tensors(self, optimizer: OptimizerState) -> dict[str, Tensor]:
        """Everything that changes from step to step, by name; ``optimizer`` is what the optimizer keeps."""
        return tensors_of(self.parameters, self.program.layers, optimizer)

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

    def step(self, indices: np.ndarray, step: int, upcoming: np.ndarray | None = None) -> tuple[float, float]:
        """`Runner.pass_batch` over samples to train with."""
        return self.pass_batch(self.data.train, indices, step, upcoming)

    def evaluate(self, data: Dataset) -> tuple[float, float]:
        """`Runner.evaluate_on` a whole data set, in batches of the run's size."""
        return self.evaluate_on(data, self.batch)
