"""The strategy ``layerwise``: OptCNN's optimum (Jia, Lin, Qi, Aiken 2018, arXiv 1802.04924) as a plan that runs."""

from __future__ import annotations

from typing import Any

from gridnn.cost.machine import Machine
from gridnn.errors import UserError
from gridnn.layout.gridshape import GridShape
from gridnn.layout.split import COPIES, Split
from gridnn.network import Network
from gridnn.plan.plan import Plan
from gridnn.plan.propagate import propagate
from gridnn.plan.search.eliminate import eliminate
from gridnn.plan.search.graph import Solution
from gridnn.plan.search.layerwise_costs import OptCNN

MOST = 1 << 31  # overlaps of boxes, for one tensor


def plan_layerwise(network: Network, ranks: int, batch: int, machine: Machine, **running: Any) -> Plan:
    """The cheapest configuration of every layer by OptCNN's cost, on ``ranks`` ranks.

    Devices that a layer leaves idle repeat its work here (copies), which takes no longer. The grid is the one that most
    layers with weights have: Pc the parts of the batch.

    Parameters
    ----------
    running
        See `gridnn.plan.plan.OPTIONS`.

    Raises
    ------
    UserError
        If the machine has too many ranks for this cost, which looks at pairs of devices.
    """
    model = OptCNN(network, ranks, batch, machine)
    check_size(model)
    found = eliminate(model.graph)
    chosen = {unit.name: unit.splits[i] for unit, i in zip(model.units, found.choice, strict=True)}
    splits = propagate(
        network, {name: on_all(split, ranks) for name, split in chosen.items()}, ranks, batch, copies=True
    )
    return Plan("layerwise", GridShape(ranks // _cols(model, found), _cols(model, found)), splits, **running)


def check_size(model: OptCNN) -> None:
    """Refuse more ranks than the cost can be computed for in memory and minutes."""
    most = max(len(unit.splits) for unit in model.units)
    node = max(model.links.units[:-1])
    pairs = most**2 * model.ranks * node
    if pairs > MOST:
        raise UserError(
            f"strategy 'layerwise' on {model.ranks} ranks: {most} x {most} pairs of configurations, times "
            f"{model.ranks} x {node} pairs of devices, are {pairs} overlaps > {MOST}: use fewer ranks, or "
            "--strategy optimal, which knows levels instead of devices"
        )


def on_all(split: Split, ranks: int) -> Split:
    """A configuration on the first devices as a split over all ranks: the idle ones repeat the work."""
    left = ranks // split.ranks
    return split if left == 1 else Split(((COPIES, left), *split.factors))


def _cols(model: OptCNN, found: Solution) -> int:
    """The parts of the batch that most layers with weights have; of equally many the larger."""
    counts: dict[int, int] = {}
    for unit, i in zip(model.units, found.choice, strict=True):
        if any(layer.weights(shapes) for layer, shapes in unit.members):
            parts = unit.splits[i].parts("n")
            counts[parts] = counts.get(parts, 0) + 1
    return max(counts, key=lambda parts: (counts[parts], parts), default=1)
