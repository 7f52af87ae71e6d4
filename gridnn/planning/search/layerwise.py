"""The strategy ``layerwise``: OptCNN's optimum (Jia, Lin, Qi, Aiken 2018, arXiv 1802.04924) as a plan that runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gridnn.cost.machine import Machine
from gridnn.errors import UserError
from gridnn.layout.gridshape import GridShape
from gridnn.layout.split import REPLICAS, Split
from gridnn.network import Network
from gridnn.planning.plan import Plan
from gridnn.planning.propagate import propagate
from gridnn.planning.search.eliminate import eliminate
from gridnn.planning.search.layerwise_costs import LayerwiseCosts

MOST = 1 << 31  # overlaps of boxes, for one tensor


def plan_layerwise(network: Network, ranks: int, batch: int, machine: Machine, **options: Any) -> Plan:
    """The cheapest configuration of every layer by OptCNN's cost, on ``ranks`` ranks.

    Devices that a layer leaves idle repeat its work here (replicas), which takes no longer. The grid is the one that
    most layers with weights have: Pc the parts of the batch. ``options`` are `gridnn.planning.plan.OPTIONS`.
    `UserError` if the machine has too many ranks for this cost, which looks at pairs of devices.
    """
    model = LayerwiseCosts(network, ranks, batch, machine)
    check_size(model)
    chosen = model.chosen(eliminate(model.graph).choice)
    on_all = {name: repeat_on_idle(split, ranks) for name, split in chosen.items()}
    cols = _cols(model, chosen)
    splits = propagate(network, on_all, ranks, batch, replicas=True)
    return Plan("layerwise", GridShape(ranks // cols, cols), splits, **options)


def check_size(model: LayerwiseCosts) -> None:
    """Refuse more ranks than the cost can be computed for in memory and minutes."""
    most = max(map(len, model.splits.values()))
    node = max(model.link_units[:-1])
    pairs = most**2 * model.ranks * node
    if pairs > MOST:
        raise UserError(
            f"strategy 'layerwise' on {model.ranks} ranks: {most} x {most} pairs of configurations, times "
            f"{model.ranks} x {node} pairs of devices, are {pairs} overlaps > {MOST}: use fewer ranks, or "
            "--strategy optimal, which knows levels instead of devices"
        )


def repeat_on_idle(split: Split, ranks: int) -> Split:
    """A configuration on the first devices as a split over all ranks: the idle ones repeat the work."""
    left = ranks // split.ranks
    return split if left == 1 else Split(((REPLICAS, left), *split.factors))


def _cols(model: LayerwiseCosts, chosen: Mapping[str, Split]) -> int:
    """The parts of the batch that most layers with weights have; of equally many the larger."""
    counts: dict[int, int] = {}
    for name, split in chosen.items():
        if any(one.layer.weights(one.shapes) for one in model.groups[name].layers):
            counts[split.parts("n")] = counts.get(split.parts("n"), 0) + 1
    return max(counts, key=lambda parts: (counts[parts], parts), default=1)
