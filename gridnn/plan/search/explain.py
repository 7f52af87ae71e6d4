"""Why a layer is divided as it is: every alternative with its cost, what binds, and where the choice turns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from gridnn.cost.machine import Machine
from gridnn.errors import UserError, unknown
from gridnn.layout.split import Split
from gridnn.network import Network
from gridnn.plan.propagate import propagate
from gridnn.plan.search.cost_model import SECONDS, CostModel
from gridnn.plan.search.eliminate import eliminate
from gridnn.plan.search.space import Space

FACTORS = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)  # of batch and P, where a choice may turn


class Alternative(NamedTuple):
    """One split of a layer, all others being as they are.

    Attributes
    ----------
    split : Split
        The alternative.
    seconds : float
        Of the layer, those that follow it, and the movements to and from its neighbours, in the search's model.
    terms : dict of str to float
        The seconds by what they are for.
    memory : float
        Bytes that the layer and its followers keep.
    """

    split: Split
    seconds: float
    terms: Mapping[str, float]
    memory: float

    @property
    def binds(self) -> str:
        """The term that takes most."""
        return max(self.terms, key=self.terms.__getitem__)


class Turn(NamedTuple):
    """What is best for the layer at another batch or number of ranks; ``split`` is None where there is no plan."""

    batch: int
    ranks: int
    split: Split | None


def alternatives(
    network: Network, splits: Mapping[str, Split], batch: int, machine: Machine, layer: str, **setting: Any
) -> list[Alternative]:
    """Every split of ``layer`` with its cost, the cheapest first; the other layers keep ``splits``.

    Raises
    ------
    UserError
        If there is no such layer, or it follows another one.
    """
    ranks = next(iter(splits.values())).ranks
    model = CostModel(network, ranks, batch, machine, **setting)
    _check(network, model, layer)
    own = model.space[layer].splits
    own = own if splits[layer] in own else (splits[layer], *own)
    spaces = {name: Space([splits[name]]) for name in model.names} | {layer: Space(own)}
    model = CostModel(network, ranks, batch, machine, spaces=spaces, **setting)
    found = []
    for place, split in enumerate(own):
        terms = dict.fromkeys(SECONDS, 0.0)
        for part in _parts(model, layer):
            for term in SECONDS:
                if term in part:
                    terms[term] += float(part[term].reshape(-1)[place])
        found.append(Alternative(split, sum(terms.values()), terms, float(model.node_costs(layer)["memory"][place])))
    return sorted(found, key=lambda one: one.seconds)


def turns(
    network: Network, ranks: int, batch: int, machine: Machine, layer: str, **setting: Any
) -> tuple[list[Turn], list[Turn]]:
    """What the search takes for ``layer`` at other batches, and at other numbers of ranks."""
    batches = _multiples(batch)
    others = _multiples(ranks)
    return (
        [Turn(samples, ranks, _best(network, ranks, samples, machine, layer, setting)) for samples in batches],
        [Turn(batch, count, _best(network, count, batch, machine, layer, setting)) for count in others],
    )


def _best(
    network: Network, ranks: int, batch: int, machine: Machine, layer: str, setting: Mapping[str, Any]
) -> Split | None:
    try:
        model = CostModel(network, ranks, batch, machine, **setting)
        chosen = model.splits(eliminate(model.graph).choice)
        return propagate(network, chosen, ranks, batch, copies=True)[layer]
    except ValueError:
        return None


def _multiples(value: int) -> list[int]:
    return sorted({int(value * factor) for factor in FACTORS if value * factor >= 1 and value * factor % 1 == 0})


def _parts(model: CostModel, layer: str) -> Iterator[Mapping[str, Any]]:
    """The terms of the layer and of its links, each by the layer's configurations."""
    yield model.node_costs(layer)
    for u, v in model.edges:
        if layer in (u, v):
            yield model.edge_costs(u, v)


def _check(network: Network, model: CostModel, layer: str) -> None:
    names = [node.name for node in network.nodes]
    if layer not in names:
        raise unknown("layer", layer, names)
    if layer not in model.names:
        raise UserError(
            f"layer {layer!r} has no choice of its own: explain {_leader(network, model, layer)!r}, it follows"
        )


def _leader(network: Network, model: CostModel, layer: str) -> str:
    sources: dict[str, Sequence[str]] = {node.name: node.inputs for node in network.nodes}
    while layer not in model.names and sources.get(layer):
        layer = sources[layer][0]
    return layer
