"""Which plans are run where predictions are measured."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

from gridnn.errors import UserError
from gridnn.planning.search.space import divisors
from gridnn.train.config import RunConfig
from gridnn.train.setup import prepare_run

PLANS = 20  # of `many`
RUN = {"dataset": "synthetic", "lr": 1e-4, "replicas": True}
NETWORKS = (
    {"model": "mlp", "shape": "28x28x1", "widths": "1024,1024", "batch": 128},
    {"model": "lenet", "shape": "28x28x1", "batch": 256},
    {"model": "alexnet-cifar", "dropout": 0.0, "batch": 32},
    {"model": "vgg11-cifar", "dropout": 0.0, "batch": 16},
    {"model": "resnet18-cifar", "batch": 16},
)


class Case(NamedTuple):
    """A network on a grid by a strategy: the options of a run."""

    config: RunConfig

    @property
    def grid(self) -> str:
        """Pr x Pc."""
        return self.config.plan.grid

    @property
    def plan(self) -> str:
        """Strategy and grid."""
        return f"{self.config.plan.strategy} {self.config.plan.grid}"

    def __str__(self) -> str:
        return f"{self.config.model.model} {self.plan}"


def grids(ranks: int) -> list[str]:
    """Every grid of ``ranks``, the one with the fewest rows first."""
    return [f"{rows}x{ranks // rows}" for rows in divisors(ranks)]


def grids_of_figure_7(ranks: int) -> list[Case]:
    """AlexNet for CIFAR-10 on every grid: convolutions batch parallel, fully connected layers on Pr x Pc."""
    options = {**RUN, "model": "alexnet-cifar", "dropout": 0.0, "batch": max(32, 4 * ranks), "strategy": "integrated"}
    return [Case(RunConfig.of(**options, grid=grid)) for grid in grids(ranks)]


def many(ranks: int) -> list[Case]:
    """About `PLANS` plans that differ: as many of every network, those that fit ``ranks``."""
    return [case for network in NETWORKS for case in itertools.islice(_plans(network, ranks), PLANS // len(NETWORKS))]


def _plans(network: dict, ranks: int) -> Iterator[Case]:
    """The plans of a network, pure ones first."""
    every = grids(ranks)
    square = every[len(every) // 2] if len(every) > 2 else every[-1]
    asked = [("batch", every[0]), ("grid", square), ("domain", square), ("grid", every[-1]), ("channel", square)]
    asked += [("integrated", one) for one in every[1:]] + [("domain", every[-1]), ("grid", every[0])]
    seen = set()
    for strategy, grid in asked:
        case = Case(RunConfig.of(**RUN, **network, strategy=strategy, grid=grid))
        try:
            splits = tuple(prepare_run(case.config, ranks).plan.splits.values())
        except UserError:
            continue  # a layer is too small for it
        if splits not in seen:
            seen.add(splits)
            yield case
