"""The strategy ``tiling``: SoyBean's cuts, of any axis and into any number of parts, as a plan that runs.

Wang, Huang, Li 2018 (arXiv 1805.04170): the devices are cut again and again, each cut divides every layer along the
axis that moves the fewest elements across it, and is not revised by the later ones. Here a cut is into p parts for
every prime factor p of P, space is divided too, networks branch, and the products of a layer divide the same axis. The
one cut is exact: elimination, which on a chain is the paper's dynamic program.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from gridnn.cost.machine import Machine
from gridnn.layout.gridshape import GridShape
from gridnn.layout.split import AXES, Split
from gridnn.network import INPUT, Network
from gridnn.plan.plan import Plan
from gridnn.plan.propagate import propagate
from gridnn.plan.search.cuts import Piece, edge_costs, own_costs, pieces_of
from gridnn.plan.search.eliminate import eliminate
from gridnn.plan.search.graph import CostGraph


class Tiled(NamedTuple):
    """What the cuts found.

    Attributes
    ----------
    splits : dict of str to Split
        For every layer a digit per cut, the first cut the slowest.
    cuts : tuple of (int, float)
        The factor of every cut, and the elements that move across it on one side of the earlier ones.
    cost : float
        Elements that all ranks receive in one step.
    """

    splits: dict[str, Split]
    cuts: tuple[tuple[int, float], ...]
    cost: float


def plan_tiling(
    network: Network,
    ranks: int,
    batch: int,
    machine: Machine | None = None,
    *,
    axes: tuple[str, ...] = AXES,
    **running: Any,
) -> Plan:
    """The plan of SoyBean's cuts.

    Parameters
    ----------
    ranks : int
        P, any number.
    batch : int
        B.
    machine : Machine, optional
        Not asked: the paper weighs volume only. Every searched strategy is called with one.
    axes : tuple of str
        What may be divided; ``("n", "co", "ci")`` for the paper's matrices.
    running
        See `gridnn.plan.plan.OPTIONS`.

    Raises
    ------
    ValueError
        If the cuts do not fit the network.
    """
    tiled = tile(network, ranks, batch, axes)
    try:
        splits = propagate(network, tiled.splits, ranks, batch)
    except ValueError as error:
        raise ValueError(f"strategy 'tiling' on {ranks} ranks: {error}") from error
    return Plan("tiling", _grid(network, tiled, batch, ranks), splits, **running)


def tile(network: Network, ranks: int, batch: int, axes: tuple[str, ...] = AXES) -> Tiled:
    """Cut after cut, the largest prime factors of P first."""
    pieces = pieces_of(network, batch)
    cuts, sides, total = [], 1, 0.0
    for factor in prime_factors(ranks):
        cost = _cut(pieces, factor, axes)
        cuts.append((factor, cost))
        total += sides * cost
        sides *= factor
    return Tiled({piece.node.name: piece.split for piece in pieces}, tuple(cuts), total)


def _cut(pieces: list[Piece], factor: int, axes: tuple[str, ...]) -> float:
    """Divide every layer once more, all together as cheaply as can be; gives the elements that move."""
    graph, choices = cut_graph(pieces, factor, axes)
    found = eliminate(graph)
    for piece, own, place in zip(pieces, choices, found.choice, strict=True):
        piece.digits.append((own[place], factor))
    return found.value


def cut_graph(
    pieces: list[Piece], factor: int, axes: tuple[str, ...] = AXES
) -> tuple[CostGraph, list[tuple[str, ...]]]:
    """The costs of one cut by what every layer divides, and the choices of every layer."""
    choices = [piece.choices(factor, axes) for piece in pieces]
    place = {piece.node.name: number for number, piece in enumerate(pieces)}
    edges = []
    for v, after in enumerate(pieces):
        for index, source in enumerate(after.node.inputs):
            if source != INPUT:
                u = place[source]
                edges.append(((u, v), edge_costs(pieces[u], after, index, (choices[u], choices[v]), factor)))
    costs = [own_costs(piece, own, factor) for piece, own in zip(pieces, choices, strict=True)]
    return CostGraph([piece.node.name for piece in pieces], costs, edges), choices


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
