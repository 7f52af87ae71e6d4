"""Steps of a network on a grid: forward and backward of batches, updates, evaluations; without files and options."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial, wraps
from typing import Any

import numpy as np

from gridnn.comm.grid import Grid
from gridnn.comm.ledger import Ledger
from gridnn.data.base import Dataset
from gridnn.errors import UserError, within_memory
from gridnn.network import Network
from gridnn.planning.plan import Plan
from gridnn.program.build import build
from gridnn.program.program import Program, pass_sizes
from gridnn.program.schedule import Policy, Schedule, cpu_policy, gpu_policy
from gridnn.runtime.capture import Capture
from gridnn.runtime.executable import Executable
from gridnn.runtime.memory import Memory
from gridnn.runtime.optimizers import OptimizerState
from gridnn.runtime.parameters import Parameters
from gridnn.runtime.trace import Trace
from gridnn.train.loss_scale import make_loss_scale
from gridnn.train.reader import Batch, Filler, Reader

OVERFLOW = 2.0**32  # what a rank whose gradient is not finite adds to the number of those that ask to stop
QUIET = np.errstate(over="ignore", invalid="ignore")  # a loss that is not finite is told once, with step and layer


def on_device(method: Callable) -> Callable:
    """A method of `Runner` inside `Backend.mistakes`."""

    @wraps(method)
    def inside(self: Runner, *args: Any, **options: Any) -> Any:
        with self.grid.backend.mistakes():
            return method(self, *args, **options)

    return inside


class Runner:
    """A network on a grid, ready to make steps; all ranks make it together.

    Parameters
    ----------
    program : Program
        Network and plan, for any size of the batch.
    grid : Grid
        The ranks.
    dtype : str
        Of the activations.
    seed : int
        Of first weights and of random layers.
    capture : bool
        Whether what runs between two movements is launched as CUDA graphs.
    accumulate : int
        Into how many passes a batch is divided.
    asking : callable, optional
        Whether this rank wants all ranks to stop after the step, or the pass of an evaluation, under way.

    Attributes
    ----------
    parameters : Parameters
        This rank's.
    asked : bool
        Whether some rank wanted to stop when they last agreed on it: the same on all ranks.
    loss_scale : LossScale or None
        Of a run in float16.
    finite : bool
        Whether the gradients of the last step are finite on all ranks; if not, `update` leaves them out.
    trace : Trace or None
        Where the seconds of every operation go from now on.
    """

    remedy = "lower the learning rate, or clip the gradient"  # what helps where a loss is not finite

    def __init__(
        self,
        program: Program,
        grid: Grid,
        *,
        dtype: str = "float32",
        seed: int = 0,
        capture: bool = False,
        accumulate: int = 1,
        asking: Callable[[], bool] | None = None,
    ) -> None:
        self.network: Network = program.network
        self.plan: Plan = program.plan
        self.grid, self.seed, self.accumulate = grid, seed, accumulate
        self.asking, self.asked = asking, False
        self.loss_scale, self.finite = make_loss_scale(dtype), True
        backend = grid.backend
        with backend.mistakes(), within_memory():
            self.parameters = Parameters(program, grid, dtype, seed)
        self._memory, self._capture = Memory(backend), capture
        self._executables: dict[tuple, Executable] = {}
        self._result = backend.zeros((3,), "float64")  # summed loss, right answers, who asks
        self.trace: Trace | None = None
        self._when = ""
        self._last: tuple[Executable, Batch] | None = None  # what ran last
        self.reader = Reader(backend, self.parameters.wide, grid.recorder)

    @property
    def ledger(self) -> Ledger:
        """What this rank moved."""
        return self.grid.ledger

    @property
    def policy(self) -> Policy:
        """How this rank's device runs a schedule."""
        backend, size = self.grid.backend, self.parameters.dtype.itemsize
        made = gpu_policy(size) if backend.device else cpu_policy(size)
        return replace(made, fuses=backend.kernels.fuses)

    def executable(self, samples: int, kind: str = "training", first: bool = True, last: bool = True) -> Executable:
        """What runs a pass over ``samples`` samples, made at the first call (by all ranks)."""
        key = (samples, kind, first, last)
        if key not in self._executables:
            with within_memory():
                # SplitBrain's microbatches are for what training keeps: a prediction has the whole output at once
                plan = replace(self.plan, microbatches=1) if kind == "prediction" else self.plan
                program = Program(self.network, plan, samples)
                schedule = build(program, self.grid.index, self.policy, kind=kind, first=first, last=last)
                options = {
                    "seed": self.seed,
                    "result": self._result,
                    "capture": self._capture,
                    "before_sum": self._before_sum,
                }
                self._executables[key] = Executable(schedule, self.grid, self.parameters, self._memory, **options)
        return self._executables[key]

    @property
    def captures(self) -> list[Capture]:
        """The CUDA graphs of all passes."""
        return [one.captured for one in self._executables.values() if one.captured]

    def parts(self, indices: np.ndarray) -> list[np.ndarray]:
        """A batch in the pieces that run one after the other (``--accumulate``)."""
        ends = np.cumsum(pass_sizes(len(indices), self.accumulate))
        return np.split(indices, ends[:-1])

    def schedules(self, indices: np.ndarray) -> list[Schedule]:
        """What runs for a batch, pass by pass."""
        sizes = [len(part) for part in self.parts(indices)]
        ends = ((number == 0, number == len(sizes) - 1) for number in range(len(sizes)))
        return [self.executable(size, "training", *end).schedule for size, end in zip(sizes, ends, strict=True)]

    @QUIET
    @on_device
    def pass_batch(
        self, data: Dataset, indices: np.ndarray, step: int, upcoming: np.ndarray | None = None
    ) -> tuple[float, float]:
        """Forward and backward of one batch; leaves the summed gradient in ``parameters.gradients``.

        Parameters
        ----------
        data : Dataset
            Where the samples are.
        indices : array of int64
            Those of the batch.
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
        self._result[...] = 0
        scale = (self.loss_scale.value if self.loss_scale else 1.0) / len(indices)
        batches = [Batch(data, part, step) for part in self.parts(indices)]
        after = None if upcoming is None else Batch(data, self.parts(upcoming)[0], step + 1)
        self._when = f"at step {step}"
        with self.grid.recorder.doing(f"making step {step}"):
            for number, (executable, fill) in enumerate(self._passes(batches, "training", after)):
                executable.run(fill, step=step, number=number, scale=scale, trace=self.trace)
            means = self._means(len(indices))
        if self.loss_scale:
            if not self.finite and self.loss_scale.least:
                raise UserError(self._overflows(step))
            self.loss_scale.adjust(self.finite)
        return means

    def _passes(
        self, batches: list[Batch], kind: str, after: Batch | None = None
    ) -> Iterator[tuple[Executable, Filler]]:
        """For every batch what runs it, and what fills its arrays, while the next one is read; last ``after``."""
        for number, (batch, following) in enumerate(zip(batches, [*batches[1:], after], strict=True)):
            ends = {"first": number == 0, "last": number == len(batches) - 1}
            executable = self.executable(len(batch.indices), kind, **ends)
            load = self.reader.read(executable.schedule, batch)
            after_it = (
                None if following is None else partial(self._read_ahead, following, number + 2, len(batches), kind)
            )
            self._last = executable, batch
            yield executable, load if after_it is None else partial(_load_and, load, after_it)

    def _read_ahead(self, batch: Batch, number: int, count: int, kind: str) -> None:
        """Begin to read what comes after the pass under way, whose own samples have been loaded."""
        self.reader.ahead(self._next(batch, number, count, kind).schedule, batch)

    def _next(self, batch: Batch, number: int, count: int, kind: str) -> Executable:
        """What will run pass ``number`` of ``count``; after the last one the first of the next batch."""
        if number > count:
            number, count = 1, self.accumulate
        return self.executable(len(batch.indices), kind, number == 1, number == count)

    @QUIET
    @on_device
    def update(self, optimizer: OptimizerState, lr: float) -> None:
        """Let the parameters follow their gradients, where these are finite."""
        if self.finite:
            self._last[0].finish(partial(self._update, optimizer, lr), self.trace)

    def _update(self, optimizer: OptimizerState, lr: float) -> None:
        optimizer.update(self.parameters.values, self.parameters.gradients, lr)
        self.parameters.refresh()

    @QUIET
    @on_device
    def evaluate_on(self, data: Dataset, size: int) -> tuple[float, float]:
        """The mean loss and the share of right answers over a whole data set, as global sums over global counts.

        They are NaN if a rank wanted to stop (`asked`), which is asked after every pass.

        Raises
        ------
        UserError
            As in `step`.
        """
        self._result[...] = 0
        self._when, self.ledger.evaluating = "on the test data", True
        whole = (np.arange(start, min(start + size, len(data))) for start in range(0, len(data), size))
        batches = [Batch(data, part) for one in whole for part in self.parts(one)]
        try:
            with self.grid.recorder.doing("evaluating"):
                for number, (executable, fill) in enumerate(self._passes(batches, "evaluation"), 1):
                    executable.run(fill, trace=self.trace)
                    if self.asking and number < len(batches) and any(self.grid.all.gather_values(self.asking())):
                        self.asked = True
                        return math.nan, math.nan
                return self._means(len(data))
        finally:
            self.ledger.evaluating = False

    def _before_sum(self) -> None:
        """Unscale the gradients, and set what the sum of the losses carries besides.

        Its third word has two counts, of the ranks that ask to stop and, times `OVERFLOW`, of those whose gradients are
        not finite. The loss of a rank that could not read its samples is NaN.
        """
        if self.reader.mistake:
            self._result[:2] = math.nan
        self._result[2:] = float(bool(self.asking and self.asking()))
        if self.loss_scale is not None and not self.ledger.evaluating:
            self._result[2:] += OVERFLOW * self._unscale()

    def _unscale(self) -> Any:
        """Divide the gradients by the loss scale; on the device, 1 if this rank's are not finite."""
        backend, flag = self.grid.backend, self.grid.backend.zeros((1,), "int32")
        backend.kernels.unscale(self.parameters.gradients, 1 / self.loss_scale.value, flag)
        return flag

    def _means(self, count: int) -> tuple[float, float]:
        """(Loss, right answers) of all ranks over ``count`` samples.

        Raises
        ------
        UserError
            If the loss is not finite; on all ranks.
        """
        device = self.grid.backend.device
        with self.grid.recorder.waiting(f"waiting for the device {self._when}") if device else nullcontext():
            loss, right, asking = (float(value) for value in self.grid.backend.to_host(self._result))
        self.ledger.settle()  # what the device has measured: it has come to here
        loss, right, self.asked = loss / count, right / count, asking % OVERFLOW > 0
        self.finite = asking < OVERFLOW
        if not math.isfinite(loss):
            raise UserError(self._not_finite(loss))
        return loss, right

    def _not_finite(self, loss: float) -> str:
        mistakes = [text for text in self.grid.all.gather_values(self.reader.mistake) if text]
        if mistakes:
            return mistakes[0]
        executable, batch = self._last
        with self.grid.recorder.waiting("looking for the first output that is not finite"):
            layer = executable.first_non_finite(
                self.reader.read(executable.schedule, batch)
            )  # None where an earlier part of the data was the bad one
        where = f"; the first output that is not finite is that of layer {layer!r}" if layer else ""
        return f"the loss is {loss} {self._when}{where}: {self.remedy}"

    def _overflows(self, step: int) -> str:
        """What is said where gradients are not finite at the smallest loss scale; all ranks call it together."""
        found = set().union(*self.grid.all.gather_values(self.parameters.not_finite()))
        layer = next(node.name for node in reversed(self.network.nodes) if node.name in found)
        return (
            f"the gradient of layer {layer!r} is not finite at step {step}, and the loss scale is 1: "
            f"{self.parameters.dtype} overflows; lower --lr, or use --dtype bfloat16 or float32"
        )


def _load_and(load: Filler, then: Callable[[], None], inputs: Any, target: Any) -> None:
    load(inputs, target)
    then()
