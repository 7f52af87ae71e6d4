"""From the options of a run to its data, network and plan: no MPI, nothing allocated, everything checked."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from gridnn.comm.gridshape import GridShape
from gridnn.errors import UserError
from gridnn.layers import MeanSquaredError, SoftmaxCrossEntropy
from gridnn.models import get_model
from gridnn.network import Network
from gridnn.plan.plan import RUNNING, Plan, load_plan
from gridnn.plan.rules import make_plan
from gridnn.program import Program, pass_sizes
from gridnn.train.config import RunConfig
from gridnn.train.data import Data, open_dataset
from gridnn.train.weights import check_weights


class SetUp(NamedTuple):
    """What a run is made of. ``program`` is that of the smallest pass of a full batch of ``batch`` samples."""

    data: Data
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
    ValueError
        If data, network, grid and plan do not fit each other.
    """
    shape = GridShape.parse(config.grid, ranks, config.order)
    data = open_dataset(
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
    batch = min(config.batch, len(data.train))
    smallest = min(pass_sizes(batch, config.accumulate))
    network = _network(config, data.train)
    plan = _plan(config, network, shape, smallest)
    return SetUp(data, network, plan, batch, Program(network, plan, smallest))


def _network(config: RunConfig, data: Any) -> Network:
    """The network for the samples of ``data``, with its loss."""
    if config.loss == "cross-entropy" and data.classes is None:
        raise UserError("--loss cross-entropy needs labels, but the targets of this data set are numbers: --loss mse")
    if config.loss == "mse" and data.classes is not None:
        raise UserError("--loss mse needs targets that are numbers, but this data set has labels: --loss cross-entropy")
    outputs = _outputs(data)
    network = get_model(
        config.model, data.sample_shape, outputs, widths=config.hidden, dropout=config.dropout, asked=config.asked
    )
    _check_output(config.model, network.shapes[network.output], data)
    if config.weights:
        check_weights(config.weights, config.model, network)
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


def _plan(config: RunConfig, network: Network, shape: GridShape, batch: int) -> Plan:
    options = {"copies": config.copies, **{name: getattr(config, name) for name in RUNNING}}
    if config.plan is not None:
        return load_plan(config.plan, network, shape, batch, **options)
    return make_plan(config.strategy, network, shape, batch, domain=config.domain_parts, **options)
