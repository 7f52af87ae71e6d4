"""The strategies by rule: a split for the layers with weights, the others follow.

Gholami, Azad, Jin, Keutzer, Buluc 2018 (arXiv 1712.04432) describe five: pure batch parallelism (eq 4), pure model
parallelism (eq 3), the 1.5D algorithm (eq 8), domain parallelism (eq 7) and the integrated scheme (eq 9). The sixth is
that of Dryden, Maruyama, Moon, Benson, Snir, Van Essen 2019 ("Channel and filter parallelism for large-scale CNN
training", SC '19), the seventh that of Lai, Kadav, Kruus 2021 (`gridnn.planning.splitbrain`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from gridnn.errors import UserError, unknown
from gridnn.layers.base import SPACE_AXES, Layer, Shapes
from gridnn.layout.gridshape import GridShape
from gridnn.layout.split import Split
from gridnn.network import Network, Node
from gridnn.planning.plan import Plan
from gridnn.planning.propagate import propagate
from gridnn.planning.splitbrain import check_microbatches, stack_start

Domain = tuple[int, ...]


class Case(NamedTuple):
    """What a rule knows of a layer: the grid, the domain asked for, its shapes and the axes of space that it has.

    ``reads`` is whether its input is that of the network, which every rank reads as it needs it; ``stack`` is whether
    it is one of the fully connected layers at the end, where the rule asks for that.
    """

    grid: GridShape
    domain: Domain
    layer: Layer
    shapes: Shapes
    space: tuple[str, ...]
    reads: bool
    stack: bool = False


def _batch(case: Case) -> Split:
    """Every layer has all of the model and 1/P of the batch."""
    return Split.of(n=case.grid.size)


def _model(case: Case) -> Split:
    """Every layer has 1/P of the model and all of the batch."""
    return Split.of(co=case.grid.size)


def _grid(case: Case) -> Split:
    """1.5D: 1/Pr of the model and 1/Pc of the batch."""
    return Split.of(n=case.grid.cols, co=case.grid.rows)


def _domain(case: Case) -> Split:
    """Convolutions have 1/Pr of every image and 1/Pc of the batch; fully connected layers are 1.5D."""
    if not case.space:
        return _grid(case)
    domain, space = case.domain, case.space
    if math.prod(domain[len(space) :]) > 1:
        raise UserError(
            f"--domain {_times(domain)} has {len(domain)} factors, but the samples have {len(space)} dimensions of "
            f"space ({', '.join(space)}): leave the last ones out, or 1"
        )
    return Split.of(n=case.grid.cols, **dict(zip(space, domain, strict=False)))


def _integrated(case: Case) -> Split:
    """Convolutions batch parallel over all P, or over the domain where P exceeds B; fully connected layers are 1.5D."""
    return (_batch if case.space and case.shapes.output[0] >= case.grid.size else _domain)(case)


def _channel(case: Case) -> Split:
    """1.5D over out- or in-channels, whichever moves fewer words.

    Divided over co, a layer gathers its input x (and reduce-scatters dx); over ci, it reduce-scatters its partial sums
    y (and gathers dy): channel and filter parallelism of Dryden et al. 2019 (stationary y, stationary x).
    """
    (x,), y = case.shapes.inputs, case.shapes.output
    fewer = not case.reads and math.prod(y) < math.prod(x) and x[-1] >= case.grid.rows
    if fewer and "ci" in case.layer.axes(case.shapes):
        return Split.of(n=case.grid.cols, ci=case.grid.rows)
    return _grid(case)


def _splitbrain(case: Case) -> Split:
    """The fully connected layers are divided by outputs in groups of K = Pr ranks, all others are batch parallel."""
    return (_grid if case.stack else _batch)(case)


RULES: dict[str, Callable[[Case], Split]] = {
    "batch": _batch,
    "model": _model,
    "grid": _grid,
    "domain": _domain,
    "integrated": _integrated,
    "channel": _channel,
    "splitbrain": _splitbrain,
}
IN_MICROBATCHES = ("splitbrain",)  # these run the fully connected layers in Pr microbatches

# The strategies that search (`gridnn.planning.search.strategies`); named here, so that naming them loads no search.
SEARCHES = ("layerwise", "tiling", "optimal")
STRATEGIES = (*RULES, *SEARCHES)


def make_plan(
    strategy: str,
    network: Network,
    grid: GridShape,
    batch: int,
    *,
    domain: Domain | None = None,
    replicas: bool = False,
    **options: Any,
) -> Plan:
    """The plan of a named strategy.

    Parameters
    ----------
    strategy : str
        One of `RULES`.
    domain : tuple of int, optional
        Into how many parts the dimensions of space (d,) h, w are divided where the domain is; their product is Pr
        (default: Pr parts of the first one).
    replicas : bool
        Whether layers that are too small for their split are divided less; otherwise they are refused.
    options
        See `gridnn.planning.plan.OPTIONS`.

    Raises
    ------
    UserError
        If the strategy is unknown, or its splits do not fit the network.
    """
    if strategy not in RULES:
        raise unknown("strategy", strategy, RULES)
    if domain and not any(_case(network, node, batch, grid, domain).space for node in network.nodes):
        raise UserError(f"--domain {_times(domain)}: no layer of this network has space to divide; leave it out")
    domain = domain or (grid.rows,)
    if math.prod(domain) != grid.rows:
        raise UserError(
            f"--domain {_times(domain)} has {_times(domain, ' x ')} = {math.prod(domain)} parts, but the "
            f"columns of grid {grid} have {grid.rows} ranks: use a domain with that product"
        )
    rule = RULES[strategy]
    try:
        start = stack_start(network) if strategy in IN_MICROBATCHES else len(network.nodes)
        chosen = {
            node.name: rule(_case(network, node, batch, grid, domain)._replace(stack=place >= start))
            for place, node in enumerate(network.nodes)
            if node.layer.multiplies(network.sizes(node, batch))
        }
        splits = propagate(network, chosen, grid.size, batch, replicas)
        check_microbatches(network, start, splits)
    except UserError as error:
        raise UserError(f"strategy {strategy!r} on grid {grid}: {error}") from error
    return Plan(strategy, grid, splits, microbatches=grid.rows if strategy in IN_MICROBATCHES else 1, **options)


def _case(network: Network, node: Node, batch: int, grid: GridShape, domain: Domain) -> Case:
    shapes = network.sizes(node, batch)
    axes = node.layer.axes(shapes)
    space = tuple(axis for axis in SPACE_AXES if axis in axes)
    return Case(grid, domain, node.layer, shapes, space, node.reads_samples)


def _times(domain: Domain, between: str = "x") -> str:
    return between.join(map(str, domain))
