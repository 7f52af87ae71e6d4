"""From the options of a run to its data, network and plan: no MPI, nothing allocated, everything checked."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from gridnn.cost.machines import load_machine
from gridnn.data.base import Data
from gridnn.data.datasets import open_dataset
from gridnn.errors import UserError, unknown
from gridnn.layers import MeanSquaredError, SoftmaxCrossEntropy
from gridnn.layout.gridshape import GridShape
from gridnn.models import MODELS, get_model
from gridnn.models.own import is_own
from gridnn.network import Network
from gridnn.planning.plan import OPTIONS, Plan, load_plan, read_plan
from gridnn.planning.search.request import PlanRequest
from gridnn.planning.search.strategies import plan_for
from gridnn.planning.splitbrain import group_grid
from gridnn.program.program import Program, pass_sizes
from gridnn.runtime.optimizers import SGD, AdamW, Optimizer
from gridnn.train.config import RunConfig
from gridnn.train.weights import check_weights
from gridnn.units import ITEMSIZES


class SetUp(NamedTuple):
    """What a run is made of. ``program`` is that of the smallest pass of a full batch of ``batch`` samples.

    ``data`` is None where only a plan is made, of a network without a data set.
    """

    data: Data | None
    network: Network
    plan: Plan
    batch: int
    program: Program

    def compiled(self, samples: int) -> Program:
        """The program for a pass of ``samples`` samples."""
        known = samples == self.program.batch
        return self.program if known else Program(self.network, self.plan, samples)


def set_up(config: RunConfig, ranks: int) -> SetUp:
    """Open the data and make network, plan and program for ``ranks`` ranks.

    Raises
    ------
    UserError
        If data, network, grid and plan do not fit each other.
    """
    if config.dataset is None:
        data, batch, network = None, config.batch, _published(config)
    else:
        data = _open(config)
        batch = min(config.batch, len(data.train))
        network = _network(config, data.train)
    plan = _plan(config, network, ranks, _shape(config, ranks), batch)
    return SetUp(data, network, plan, batch, Program(network, plan, min(pass_sizes(batch, config.accumulate))))


def _open(config: RunConfig) -> Data:
    return open_dataset(
        config.dataset,
        data_dir=config.data_dir,
        shape=config.sample_shape,
        classes=config.classes,
        samples=config.samples,
        seed=config.seed,
        targets=config.targets,
        called=config.array_names,
        resize=config.resize,
        crop=config.crop,
        flip=config.flip,
    )


def _published(config: RunConfig) -> Network:
    """The network for samples as it was published for, or of ``--shape`` and ``--classes``, with its loss."""
    known = MODELS.get(config.model)
    if known is None and not is_own(config.model):
        raise unknown("model", config.model, MODELS)
    if known is None and not (config.shape and config.classes):
        raise UserError(f"model {config.model} without a --dataset needs --shape and --classes")
    shape = config.sample_shape if config.shape else known.input_shape
    network = _model(config, shape, config.classes or known.outputs)
    return _with_loss(config, network)


def _network(config: RunConfig, data: Any) -> Network:
    """The network for the samples of ``data``, with its loss."""
    if config.loss == "cross-entropy" and data.classes is None:
        raise UserError("--loss cross-entropy needs labels, but the targets of this data set are numbers: --loss mse")
    if config.loss == "mse" and data.classes is not None:
        raise UserError("--loss mse needs targets that are numbers, but this data set has labels: --loss cross-entropy")
    outputs = _outputs(data)
    network = _model(config, data.sample_shape, outputs)
    _check_output(config.model, network.shapes[network.output], data)
    if config.weights:
        check_weights(config.weights, config.model, network)
    return _with_loss(config, network)


def _model(config: RunConfig, shape: tuple[int, ...], outputs: int) -> Network:
    options = {"widths": config.hidden, "dropout": config.dropout, "asked": config.asked}
    return get_model(config.model, shape, outputs, **options)


def _with_loss(config: RunConfig, network: Network) -> Network:
    network.add("loss", SoftmaxCrossEntropy() if config.loss == "cross-entropy" else MeanSquaredError())
    return network


def _outputs(data: Any) -> int:
    """How many classes or numbers are predicted, for every place where the targets are images or volumes."""
    if data.classes:
        return data.classes
    places = len(data.target_shape) == len(data.sample_shape) > 1
    return data.target_shape[-1] if places else math.prod(data.target_shape)


def _check_output(model: str, shape: tuple[int, ...], data: Any) -> None:
    """Refuse a network whose output is not what the targets are compared with."""
    wanted = (*data.target_shape, data.classes) if data.classes else data.target_shape
    if shape != wanted:
        kind = "labels" if data.classes else "numbers"
        raise UserError(
            f"model {model} gives an output of shape {shape} a sample, but the targets of this data set, {kind} of "
            f"shape {data.target_shape}, need one of shape {wanted}: use another --model or other targets"
        )


def _shape(config: RunConfig, ranks: int) -> GridShape | None:
    """The grid that is asked for, or that the plan is for; None if it is to be chosen."""
    grid = config.grid
    if grid == "auto" and config.plan is not None:
        grid = str(read_plan(config.plan).get("grid", grid))
    if grid == "auto" and config.plan is None and config.group is None:
        return None
    return group_grid(config.group, grid, ranks, config.order)


def _plan(config: RunConfig, network: Network, ranks: int, shape: GridShape | None, batch: int) -> Plan:
    machine = load_machine(config.machine) if config.plan is None and config.chooses and ranks > 1 else None
    request = request_of(config, network, ranks, batch, machine=machine, grid=shape)
    if config.plan is not None:
        return load_plan(config.plan, network, shape, request.smallest, copies=config.copies, **request.options)
    return plan_for(config.divider, request)


def request_of(config: RunConfig, network: Network, ranks: int, batch: int, **known: Any) -> PlanRequest:
    """What a configuration asks a plan for; ``known`` are more attributes of the request."""
    return PlanRequest(
        network,
        ranks,
        batch,
        **{"options": {name: getattr(config, name) for name in OPTIONS}, **known},
        order=config.order,
        memory=config.memory_bytes,
        group=config.group,
        domain=config.domain_parts,
        copies=config.copies,
        accumulate=config.accumulate,
        axes=config.axes,
        **bytes_of(config),
    )


def bytes_of(config: RunConfig) -> dict[str, int]:
    """Bytes of an element of the activations, and arrays that the optimizer keeps for every weight."""
    return {"itemsize": ITEMSIZES[config.dtype], "slots": len(make_optimizer(config).names())}


def make_optimizer(config: RunConfig) -> Optimizer:
    """The optimizer of a run.

    Raises
    ------
    UserError
        If there is none of this name.
    """
    if config.optimizer == "sgd":
        return SGD(momentum=config.momentum, nesterov=config.nesterov, weight_decay=config.weight_decay)
    if config.optimizer == "adamw":
        return AdamW(weight_decay=config.weight_decay)
    raise unknown("optimizer", config.optimizer, ("sgd", "adamw"))
