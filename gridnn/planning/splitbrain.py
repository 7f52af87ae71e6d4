"""SplitBrain's rule (Lai, Kadav, Kruus 2021, arXiv 2112.15317): where the fully connected layers begin, groups of K.

Convolutions are data parallel over all P ranks; the fully connected layers are divided by outputs within groups of K
ranks, and data parallel over the P / K groups. On a K x P/K grid a group is a column. The groups run these layers in K
microbatches: see `gridnn.program.microbatches`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from gridnn.errors import UserError
from gridnn.layers import Linear
from gridnn.layout.gridshape import GridShape
from gridnn.layout.split import Split
from gridnn.network import Network


def stack_start(network: Network) -> int:
    """The place of the first layer of the stack: fully connected, and all later layers read only what comes before it.

    A fully connected layer that reads the samples themselves is none of the stack: it stays batch parallel. `UserError`
    if there is no such layer, it reads the samples themselves, or a later one takes statistics over the samples.
    """
    direct = False
    for place, node in enumerate(network.nodes):
        if isinstance(node.layer, Linear) and _follows(network, place):
            if not node.reads_samples:
                _refuse_statistics(network, place)
                return place
            direct = True
    if direct:
        raise UserError(
            "microbatches are of what the layers before the fully connected ones give, but here these read the "
            "samples themselves: put a Flatten() before, or use another strategy"
        )
    raise UserError(
        "microbatches are for fully connected layers at the end of a network, and this one has none that all later "
        "layers follow: use another strategy, or one microbatch"
    )


def _follows(network: Network, place: int) -> bool:
    """Whether the layers from ``place`` on read no other output of earlier layers than the first of them does."""
    later = {node.name for node in network.nodes[place:]}
    return len({source for node in network.nodes[place:] for source in node.inputs if source not in later}) == 1


def _refuse_statistics(network: Network, start: int) -> None:
    for node in network.nodes[start:]:
        if node.layer.states(network.sizes(node, 1)):
            raise UserError(
                f"layer {node.name!r}: {type(node.layer).__name__} takes statistics over the samples, which come in "
                "microbatches here: leave it out, use another norm, or another strategy (one microbatch)"
            )


def check_microbatches(network: Network, start: int, splits: Mapping[str, Split]) -> None:
    """Refuse parts of n in the stack from ``start`` on that do not divide those before: with replicas they may not.

    The `UserError` says the layer and both numbers.
    """
    for node in network.nodes[start:]:
        before, parts = splits[network.nodes[start].inputs[0]].parts("n"), splits[node.name].parts("n")
        if before % parts:
            raise UserError(
                f"layer {node.name!r} in microbatches: {parts} parts of n do not divide the {before} of the layers "
                "before: use another --grid or --batch"
            )


def group_grid(group: int | None, grid: str, ranks: int, order: str = "column") -> GridShape:
    """The grid of SplitBrain for ``--group K`` and ``--grid``: K x P/K.

    ``grid`` may be ``auto``, and then follows from ``group``; without a group, K is the grid's Pr. `UserError` if K
    does not divide P, or the two do not agree.
    """
    if group is None:
        return GridShape.parse(grid, ranks, order)
    if ranks % group:
        fitting = [k for k in range(1, ranks + 1) if ranks % k == 0]
        most = math.ceil(ranks / group) * group
        raise UserError(
            f"--group {group}: {ranks} ranks are not a multiple of {group}: mpirun -n {most} ..., or --group "
            f"{min(fitting, key=lambda k: abs(k - group))}"
        )
    shape = GridShape(group, ranks // group, order)
    if grid != "auto" and GridShape.parse(grid, ranks, order) != shape:
        raise UserError(
            f"--group {group} on {ranks} ranks is the grid {group} x {ranks}/{group} = {shape}, but --grid is {grid}: "
            "leave one of them out"
        )
    return shape
