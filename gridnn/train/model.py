"""A model on a grid, for whoever writes Python: steps, evaluation, prediction, parameters, checkpoints, other plans."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from gridnn.comm.grid import Grid
from gridnn.comm.redistribute import Transfer
from gridnn.comm.transports.choice import Transports
from gridnn.data.base import Dataset
from gridnn.data.memory import from_arrays
from gridnn.errors import UserError
from gridnn.kernels import get_backend
from gridnn.layout.layout import Layout
from gridnn.network import Network
from gridnn.planning.plan import Plan
from gridnn.program.program import Program
from gridnn.runtime.optimizers import Optimizer, OptimizerState
from gridnn.runtime.parameters import Parameters
from gridnn.train.checkpoint import Tensor, load, open_header, save, tensors_of
from gridnn.train.moving import move_tensors
from gridnn.train.runner import Runner

Samples = np.ndarray | Mapping[str, np.ndarray]
Batch = tuple[Samples, np.ndarray]


class Result(NamedTuple):
    """Of a step or an evaluation: the mean loss, and the share of right answers (None where there are no classes)."""

    loss: float
    accuracy: float | None


class Model:
    """A network divided over the ranks of a job by a plan; all ranks make it, and call its methods, together.

    Parameters
    ----------
    network : Network
        Ends in a loss.
    plan : Plan
        How it is divided.
    job : Job
        The ranks (`gridnn.init`).
    dtype : str
        Of the activations: float32, float64, float16 or bfloat16.
    backend : {"numpy", "cupy"}
        Where it runs.
    seed : int
        First weights, dropout and the like are the same on every grid for the same seed.
    kernels : str
        Of the CPU: "auto", "reference", "numba" or "onednn".
    graphs : bool
        Whether a GPU launches what runs between two movements as CUDA graphs.
    accumulate : int
        Into how many passes a batch is divided.

    Raises
    ------
    UserError
        If network, plan and ranks do not fit each other; the text is an equation with the remedy.
    """

    def __init__(
        self,
        network: Network,
        plan: Plan,
        job: Any,
        *,
        dtype: str = "float32",
        backend: str = "numpy",
        seed: int = 0,
        kernels: str = "auto",
        graphs: bool = False,
        accumulate: int = 1,
    ) -> None:
        self._job, self._optimizer = job, None
        made = get_backend(backend, kernels, dtype=dtype, local_rank=job.local_rank)
        self._options = {"dtype": dtype, "seed": seed, "capture": graphs, "accumulate": accumulate}
        self._runner = self._start(network, plan, made)
        self._steps = 0

    def _start(self, network: Network, plan: Plan, backend: Any) -> Runner:
        network.loss  # noqa: B018 (refuses a network without one)
        shape, device = plan.grid, backend.device
        transports = Transports.choose("auto", self._job, device, shape) if device else None
        recorder = self._job.recorder
        options = {"order": shape.order, "backend": backend, "transports": transports, "recorder": recorder}
        grid = Grid(self._job.comm, shape.rows, shape.cols, **options)
        return Runner(Program(network, plan, shape.size), grid, **self._options)

    # -- what it is --------------------------------------------------------------------------------------------

    @property
    def network(self) -> Network:
        """The serial network."""
        return self._runner.network

    @property
    def plan(self) -> Plan:
        """How it is divided."""
        return self._runner.plan

    @property
    def grid(self) -> Grid:
        """The ranks."""
        return self._runner.grid

    @property
    def ledger(self) -> Any:
        """What this rank moved: words, messages, bytes and seconds by layer, phase and grid dimension."""
        return self._runner.ledger

    @property
    def parameters(self) -> ParameterView:
        """The trained tensors by name, ``layer.tensor``, as whole arrays of the host."""
        return ParameterView(self._tensors(), self.grid, self._runner.parameters)

    # -- running -----------------------------------------------------------------------------------------------

    def step(self, batch: Batch, optimizer: Optimizer, lr: float | None = None) -> Result:
        """Forward, backward and update of one batch.

        Parameters
        ----------
        batch : (array, array)
            Samples (n, ...), of several inputs by name, and targets of the whole batch, the same on all ranks; of each
            a rank reads its own box.
        optimizer : Optimizer
            ``gn.optim.SGD`` or ``gn.optim.AdamW``; its state is kept from step to step.
        lr : float, optional
            The learning rate of this step; default: the optimizer's.

        Raises
        ------
        UserError
            On all ranks, if the loss is not finite.
        """
        data, runner = self._dataset(*batch), self._runner
        self._steps += 1
        loss, right = runner.pass_batch(data, np.arange(len(data)), self._steps)
        runner.update(self._state(optimizer), optimizer.lr if lr is None else lr)
        return Result(loss, right if data.classes else None)

    def evaluate(self, data: Dataset | Batch, batch: int = 256) -> Result:
        """The mean loss and the share of right answers over a data set, in passes of ``batch`` samples."""
        data = data if isinstance(data, Dataset) else self._dataset(*data)
        loss, right = self._runner.evaluate_on(data, min(batch, len(data)))
        return Result(loss, right if data.classes else None)

    def predict(self, x: Samples, batch: int = 256) -> Any:
        """What the network gives for the samples ``x`` (n, ...), whole, on every rank.

        Parameters
        ----------
        x : array, or mapping of str to array
            The same on all ranks; of several inputs by name.
        batch : int
            Samples of a pass.

        Returns
        -------
        array, or dict of str to array
            The output of the layer before the loss; of several layers, that `Network.give` names, by name.
        """
        inputs = x if isinstance(x, Mapping) else {next(iter(self.network.inputs)): x}
        count = len(next(iter(inputs.values())))
        parts = [self._predicted(inputs, start, min(start + batch, count)) for start in range(0, count, batch)]
        made = {name: np.concatenate([part[name] for part in parts]) for name in self.network.outputs}
        return made if len(made) > 1 else next(iter(made.values()))

    def _predicted(self, inputs: Mapping[str, np.ndarray], start: int, stop: int) -> dict[str, np.ndarray]:
        runner, backend = self._runner, self.grid.backend
        executable = runner.executable(stop - start, "prediction")
        schedule = executable.schedule

        def fill(arrays: Sequence[Any], _: Any) -> None:
            for array, one in zip(arrays, schedule.inputs, strict=True):
                whole = np.asarray(inputs[one.source])[start:stop]
                part = whole[tuple(slice(*interval) for interval in one.box)]
                backend.from_host(np.ascontiguousarray(part, array.dtype), array)

        runner.ledger.evaluating = True
        executable.run(fill)
        layouts = {step.name: step.output for step in schedule.program.layers}
        made = {name: self._whole(layouts[name], array) for name, array in executable.outputs.items()}
        runner.ledger.evaluating = False
        return made

    def _whole(self, layout: Layout, array: Any) -> np.ndarray:
        move = Transfer(self.grid, layout, Layout.whole(layout.shape, layout.mesh), str(array.dtype))
        return self.grid.backend.to_host(move.forward(array)).copy()

    def _dataset(self, x: Samples, y: np.ndarray) -> Dataset:
        classes = self.network.shapes[self.network.output][-1] if np.asarray(y).dtype.kind in "iub" else None
        return from_arrays(x, y, classes=classes)

    def _state(self, optimizer: Optimizer) -> OptimizerState:
        """What the optimizer keeps: from step to step the same, whatever the learning rate."""
        kind, parameters = replace(optimizer, lr=0.0), self._runner.parameters
        if self._optimizer is None or self._optimizer.optimizer != kind:
            self._optimizer = kind.start(parameters)
        return self._optimizer

    # -- files and other plans ---------------------------------------------------------------------------------

    def save(self, path: str) -> None:
        """Write parameters, running statistics and the optimizer's arrays to a safetensors file, from all ranks.

        Raises
        ------
        UserError
            On all ranks, if it cannot be written.
        """
        facts = {"step": self._steps, "plan": self.plan.as_dict(), "ranks": self.grid.all.size}
        facts["updates"] = self._optimizer.step if self._optimizer else 0
        save(path, self._tensors(self._optimizer), facts, self.grid)

    def load(self, path: str, optimizer: Optimizer | None = None) -> None:
        """Read what `save` or ``gridnn train`` wrote, on any grid; with ``optimizer`` what that keeps, too.

        Raises
        ------
        UserError
            On all ranks, if the file is damaged or of another network.
        """
        header = open_header(path, self.grid)
        state = self._state(optimizer) if optimizer else None
        load(path, header, self._tensors(state), self.grid, with_optimizer=state is not None)
        self._steps = int(header.facts.get("step", 0))
        if state:
            state.step = int(header.facts.get("updates", self._steps))
        self._runner.parameters.refresh()

    def reshard(self, plan: Plan) -> None:
        """Go on with another plan on the same ranks: parameters, statistics and optimizer move in memory.

        Parameters
        ----------
        plan : Plan
            Of any grid shape over as many ranks.

        Raises
        ------
        UserError
            If it does not fit network and ranks.
        """
        old, state, before = self._tensors(self._optimizer), self._optimizer, self.grid
        self._runner = self._start(self.network, plan, before.backend)
        if state is not None:
            parameters = self._runner.parameters
            self._optimizer = state.optimizer.start(parameters)
            self._optimizer.step = state.step
        move_tensors(old, before, self._tensors(self._optimizer), self.grid)
        self._runner.parameters.refresh()

    def _tensors(self, state: OptimizerState | None = None) -> dict[str, Tensor]:
        steps = Program(self.network, self.plan, self.plan.grid.size).layers
        return tensors_of(self._runner.parameters, steps, state)


class ParameterView(Mapping[str, np.ndarray]):
    """Parameters and running statistics by name; what is asked for is put together on every rank, by all together."""

    def __init__(self, tensors: Mapping[str, Tensor], grid: Grid, parameters: Parameters) -> None:
        self._tensors, self._grid, self._parameters = tensors, grid, parameters

    def __getitem__(self, name: str) -> np.ndarray:
        tensor = self._tensors[name]
        whole = Layout.whole(tensor.layout.shape, tensor.layout.mesh)
        move = Transfer(self._grid, tensor.layout, whole, str(tensor.array.dtype), layer="(parameters)")
        return self._grid.backend.to_host(move.forward(tensor.array)).copy()

    def __setitem__(self, name: str, value: np.ndarray) -> None:
        """Set a tensor to ``value``, whole and the same on all ranks."""
        tensor = self._tensors[name]
        if np.shape(value) != tensor.layout.shape:
            raise UserError(f"{name} has the shape {tensor.layout.shape}, not {np.shape(value)}")
        part = np.asarray(value)[tuple(slice(*interval) for interval in tensor.box(self._grid))]
        tensor.array[...] = self._grid.backend.asarray(np.ascontiguousarray(part, str(tensor.array.dtype)))
        self._parameters.refresh()

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)
