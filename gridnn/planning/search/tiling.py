"""The strategy ``tiling``: SoyBean's cuts, of any axis and into any number of parts, as a plan that runs.

Wang, Huang, Li 2018 (arXiv 1805.04170): the devices are cut again and again, each cut divides every layer along the
axis that moves the fewest elements across it, and is not revised by the later ones. Here a cut is into p parts for
every prime factor p of P, space is divided too, networks branch, and the products of a layer divide the same axis. The
one cut is exact: elimination, which on a chain is the paper's dynamic program.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gridnn.cost.machine import Machine
from gridnn.errors import UserError
from gridnn.layout.gridshape import GridShape
from gridnn.layout.split import Split
from gridnn.network import Network
from gridnn.planning.plan import Plan
from gridnn.planning.propagate import propagate
from gridnn.planning.search.cuts import CutLayer, edge_costs
from gridnn.planning.search.eliminate import eliminate
from gridnn.planning.search.graph import CostGraph
from gridnn.planning.search.groups import GroupEdge, group_layers


class Tiled(NamedTuple):
    """What the cuts found."""

    splits: dict[str, Split]  # for every layer a factor per cut, the first cut the slowest
    # tuple of (int, float): the factor of every cut, and the elements that move across it on one side of the earlier
    # ones
    cuts: tuple[tuple[int, float], ...]
    cost: float  # elements that all ranks receive in one step


def plan_tiling(
    network: Network,
    ranks: int,
    batch: int,
    machine: Machine | None = None,
    *,
    axes: tuple[str, ...] | None = None,
    **options: Any,
) -> Plan:
    """The plan of SoyBean's cuts on any number of ranks; `UserError` if they do not fit the network.

    The machine is not asked: the paper weighs volume only. ``axes`` are what may be divided, ``("n", "co", "ci")`` for
    the paper's matrices; ``options`` are `gridnn.planning.plan.OPTIONS`.
    """
    tiled = tile(network, ranks, batch, axes)
    try:
        splits = propagate(network, tiled.splits, ranks, batch)
    except UserError as error:
        raise UserError(f"strategy 'tiling' on {ranks} ranks: {error}") from error
    return Plan("tiling", _grid(network, tiled, batch, ranks), splits, **options)


def tile(network: Network, ranks: int, batch: int, axes: tuple[str, ...] | None = None) -> Tiled:
    """Cut after cut, the largest prime factors of P first."""
    layers, edges = cut_layers(network, batch)
    cuts, sides, total = [], 1, 0.0
    for factor in prime_factors(ranks):
        graph, choices = cut_graph(layers, edges, factor, axes)
        found = eliminate(graph)
        axis_of = {name: own[place] for (name, own), place in zip(choices.items(), found.choice, strict=True)}
        layers = {name: layer.cut(axis_of[name], factor) for name, layer in layers.items()}
        cuts.append((factor, found.value))
        total += sides * found.value
        sides *= factor
    return Tiled({name: layer.split for name, layer in layers.items()}, tuple(cuts), total)


def cut_layers(network: Network, batch: int) -> tuple[dict[str, CutLayer], tuple[GroupEdge, ...]]:
    """The layers of a network before the first cut, each a group of its own, and the tensors between them."""
    grouped = group_layers(network, batch, lambda node, shapes: True)
    return {name: CutLayer(group.leader) for name, group in grouped.groups.items()}, grouped.edges


def cut_graph(
    layers: Mapping[str, CutLayer], edges: Sequence[GroupEdge], factor: int, axes: tuple[str, ...] | None = None
) -> tuple[CostGraph, dict[str, tuple[str, ...]]]:
    """The costs of one cut by what every layer divides, and the choices of every layer."""
    choices = {name: layer.choices(factor, axes) for name, layer in layers.items()}
    place = {name: number for number, name in enumerate(layers)}
    tables = []
    for edge in edges:
        source, target = edge.source, edge.target
        axes_of = choices[source], choices[target]
        table = edge_costs(layers[source], layers[target], edge.index, axes_of, factor)
        tables.append(((place[source], place[target]), table))
    costs = [np.array([layer.own_cost(axis, factor) for axis in choices[name]]) for name, layer in layers.items()]
    return CostGraph(list(layers), costs, tables), choices


def _grid(network: Network, tiled: Tiled, batch: int, ranks: int) -> GridShape:
    """The grid whose rows divide the batch, as far as the first cuts of all layers with weights do."""
    columns = ranks
    for node in network.nodes:
        if node.layer.multiplies(network.sizes(node, batch)):
            slowest = tiled.splits[node.name].factors[:1]
            columns = math.gcd(columns, slowest[0][1] if slowest and slowest[0][0] == "n" else 1)
    return GridShape(ranks // columns, columns)


def prime_factors(number: int) -> list[int]:
    """The prime factors of a number, the largest first.

    Examples
    --------
    >>> prime_factors(12)
    [3, 2, 2]
    """
    factors, divisor = [], 2
    while divisor * divisor <= number:
        while number % divisor == 0:
            factors.append(divisor)
            number //= divisor
        divisor += 1
    return sorted(factors + [number] * (number > 1), reverse=True)
