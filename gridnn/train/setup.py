"""From the options of a run to its data, network and plan: no MPI, nothing allocated, everything checked."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

from gridnn.cost.machines import load_machine
from gridnn.data.base import Data
from gridnn.data.datasets import open_dataset
from gridnn.data.labels import advise_labels
from gridnn.errors import UserError, unknown
from gridnn.layers.losses import LOSSES
from gridnn.layout.gridshape import GridShape
from gridnn.models import MODELS, get_model
from gridnn.models.own import is_own, own_loss
from gridnn.network import Network
from gridnn.planning.plan import OPTIONS, Plan, load_plan, read_plan
from gridnn.planning.search.request import PlanRequest
from gridnn.planning.search.strategies import plan_for
from gridnn.planning.splitbrain import group_grid
from gridnn.program.program import Program, pass_sizes
from gridnn.runtime.optimizers import SGD, AdamW, Optimizer
from gridnn.train.config import RunConfig
from gridnn.train.sections import DataOptions, ModelOptions, PlanOptions, TrainOptions
from gridnn.train.weights import check_weights
from gridnn.units import ITEMSIZES

Doing = Callable[[str], AbstractContextManager]


class PreparedRun(NamedTuple):
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


def prepare_run(config: RunConfig, ranks: int, data: Data | None = None, doing: Doing = nullcontext) -> PreparedRun:
    """Open the data, if they are not open, and make network, plan and program for ``ranks`` ranks.

    Each is done within ``doing`` what it is.

    Raises
    ------
    UserError
        If data, network, grid and plan do not fit each other.
    """
    if config.data.dataset is None:
        data, batch, network = None, config.train.batch, _published(config)
    else:
        with doing(f"opening the data ({config.data.dataset})"):
            data = data or _open(config.data, config.train.seed)
        batch = min(config.train.batch, len(data.train))
        with doing(f"making the network ({config.model.model})"):
            network = _network(config, data.train)
    try:
        with doing("planning"):
            plan = _plan(config, network, ranks, batch)
    except UserError as error:
        if batch == config.train.batch:
            raise
        raise UserError(
            f"{error}; the batch is not {config.train.batch} but {batch} here, all samples that there are to train "
            "with: use more samples, or fewer ranks along n"
        ) from error
    return PreparedRun(
        data, network, plan, batch, Program(network, plan, min(pass_sizes(batch, config.train.accumulate)))
    )


def check_passes(made: PreparedRun, options: TrainOptions, whole_epochs: bool) -> None:
    """Refuse passes of training of which a layer has no answer; in ``whole_epochs`` those of the last batch too.

    Raises
    ------
    UserError
        With the layer, the samples of the pass, and what to do.
    """
    count = len(made.data.train)
    last = count % made.batch if whole_epochs and not options.drop_last else 0
    for batch in filter(None, (made.batch, last)):
        for size in set(pass_sizes(batch, options.accumulate)):
            try:
                made.network.check_training(size)
            except UserError as error:
                why = f"{count:,} samples in batches of {made.batch} leave {last} for the last one: use --drop-last, or"
                also = " or fewer passes (--accumulate)" if options.accumulate > 1 else ""
                raise UserError(f"{error}; {why if batch == last else 'use'} another --batch{also}") from error


def _open(options: DataOptions, seed: int) -> Data:
    return open_dataset(
        options.dataset,
        data_dir=options.data_dir,
        shape=options.sample_shape,
        classes=options.classes,
        samples=options.samples,
        seed=seed,
        targets=options.targets,
        called=options.array_names,
        resize=options.resize,
        crop=options.crop,
        flip=options.flip,
    )


def _published(config: RunConfig) -> Network:
    """The network for samples as it was published for, or of ``--shape`` and ``--classes``, with its loss."""
    name, data = config.model.model, config.data
    known = MODELS.get(name)
    if known is None and not is_own(name):
        raise unknown("model", name, MODELS)
    if known is None and not (data.shape and data.classes):
        raise UserError(f"model {name} without a --dataset needs --shape and --classes")
    shape = data.sample_shape if data.shape else known.input_shape
    return _with_loss(config.train, _model(config.model, shape, data.classes or known.outputs))


def _network(config: RunConfig, data: Any) -> Network:
    """The network for the samples of ``data``, with its loss."""
    if config.train.loss == "cross-entropy" and data.classes is None:
        advice = advise_labels(data) or "--loss mse"
        raise UserError(f"--loss cross-entropy needs labels, but the targets of this data set are numbers: {advice}")
    if config.train.loss == "mse" and data.classes is not None:
        raise UserError("--loss mse needs targets that are numbers, but this data set has labels: --loss cross-entropy")
    network = _model(config.model, data.sample_shape, _outputs(data))
    _check_output(config.model.model, network.shapes[network.output], data)
    if config.model.weights:
        check_weights(config.model.weights, config.model.model, network)
    return _with_loss(config.train, network)


def _model(options: ModelOptions, shape: tuple[int, ...], outputs: int) -> Network:
    taken = {"widths": options.hidden, "dropout": options.dropout, "asked": options.asked}
    return get_model(options.model, shape, outputs, **taken)


def _with_loss(options: TrainOptions, network: Network) -> Network:
    network.add("loss", LOSSES[options.loss]() if options.loss in LOSSES else own_loss(options.loss))
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


def _shape(options: PlanOptions, ranks: int) -> GridShape | None:
    """The grid that is asked for, or that the plan is for; None if it is to be chosen."""
    grid = options.grid
    if grid == "auto" and options.plan is not None:
        grid = str(read_plan(options.plan).get("grid", grid))
    if grid == "auto" and options.plan is None and options.group is None:
        return None
    return group_grid(options.group, grid, ranks, options.order)


def _plan(config: RunConfig, network: Network, ranks: int, batch: int) -> Plan:
    options, shape = config.plan, _shape(config.plan, ranks)
    machine = load_machine(options.machine) if options.plan is None and options.chooses and ranks > 1 else None
    request = request_of(config, network, ranks, batch, machine=machine, grid=shape)
    if options.plan is not None:
        return load_plan(options.plan, network, shape, request.smallest, replicas=options.replicas, **request.options)
    return plan_for(options.divider, request)


def request_of(config: RunConfig, network: Network, ranks: int, batch: int, **known: Any) -> PlanRequest:
    """What a configuration asks a plan for; ``known`` are more attributes of the request."""
    plan = config.plan
    return PlanRequest(
        network,
        ranks,
        batch,
        **{"options": {name: getattr(plan, name) for name in OPTIONS}, **known},
        order=plan.order,
        memory=plan.memory_bytes,
        group=plan.group,
        domain=plan.domain_parts,
        replicas=plan.replicas,
        accumulate=config.train.accumulate,
        axes=plan.axes,
        itemsize=ITEMSIZES[config.device.dtype],
        slots=len(make_optimizer(config.train).names()),
    )


def make_optimizer(options: TrainOptions) -> Optimizer:
    """The optimizer of a run.

    Raises
    ------
    UserError
        If there is none of this name.
    """
    if options.optimizer == "sgd":
        return SGD(momentum=options.momentum, nesterov=options.nesterov, weight_decay=options.weight_decay)
    if options.optimizer == "adamw":
        return AdamW(weight_decay=options.weight_decay)
    raise unknown("optimizer", options.optimizer, ("sgd", "adamw"))
