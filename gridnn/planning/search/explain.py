"""Why a layer is divided as it is: every alternative with its cost, what binds, and where the choice turns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from gridnn.errors import UserError, unknown
from gridnn.layout.split import Split
from gridnn.network import Network
from gridnn.planning.propagate import propagate
from gridnn.planning.search.cost_model import SECONDS, CostModel
from gridnn.planning.search.eliminate import eliminate
from gridnn.planning.search.request import PlanRequest, PricedPlan
from gridnn.planning.search.sensitivity import CLOSE
from gridnn.planning.search.space import Space

FACTORS = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)  # of batch and P, where a choice may turn


class Alternative(NamedTuple):
    """One split of a layer, all others being as they are."""

    split: Split  # the alternative
    # of the layer, those that follow it, and the movements to and from its neighbours, in the search's model
    seconds: float
    terms: Mapping[str, float]  # the seconds by what they are for
    memory: float  # bytes that the layer and its followers keep

    @property
    def binds(self) -> str:
        """The term that takes most."""
        return max(self.terms, key=self.terms.__getitem__)


class Turn(NamedTuple):
    """What is best for the layer at another batch or number of ranks; ``split`` is None where there is no plan."""

    batch: int
    ranks: int
    split: Split | None


def alternatives(made: PricedPlan, layer: str) -> list[Alternative]:
    """Every split of ``layer`` with its cost, the cheapest first; the other layers are as in the plan.

    `UserError` if there is no such layer, or it follows another one.
    """
    request, splits = made.request, made.plan.splits
    model = _model(request)
    _check(request.network, model, layer)
    own = model.space[layer].splits
    own = own if splits[layer] in own else (splits[layer], *own)
    spaces = {name: Space([splits[name]]) for name in model.names} | {layer: Space(own)}
    model = _model(request, spaces=spaces)
    found = []
    for place, split in enumerate(own):
        terms = dict.fromkeys(SECONDS, 0.0)
        for part in _parts(model, layer):
            for term in SECONDS:
                if term in part:
                    terms[term] += float(part[term].reshape(-1)[place])
        found.append(Alternative(split, sum(terms.values()), terms, float(model.node_costs(layer)["memory"][place])))
    return sorted(found, key=lambda one: one.seconds)


def verdict(found: Sequence[Alternative], chosen: Split) -> str:
    """One line on what decides between the plan's split and the next best."""
    place = next(number for number, one in enumerate(found) if one.split == chosen)
    own = found[place]
    if len(found) == 1:
        return f"{own.split} is the only split that this layer can have"
    other = found[0] if place else found[1]
    differences = {term: other.terms[term] - own.terms[term] for term in own.terms}
    term = max(differences, key=lambda name: abs(differences[name]))
    gap = other.seconds / own.seconds - 1
    if abs(gap) < CLOSE:
        return f"too close to call: {other.split} is within {abs(gap):.1%} of {own.split}"
    more = "more" if differences[term] > 0 else "less"
    note = "" if gap > 0 else "; it is here for the layers around it, or for what overlaps"
    return f"{other.split} takes {gap:+.1%}, most of it for {abs(differences[term]) * 1e3:.3g} ms {more} {term}{note}"


def turns(made: PricedPlan, layer: str) -> tuple[list[Turn], list[Turn]]:
    """What the search takes for ``layer`` at other batches, and at other numbers of ranks."""
    request = made.request
    return (
        [Turn(batch, request.ranks, _best(request, layer, batch=batch)) for batch in _multiples(request.smallest)],
        [Turn(request.smallest, ranks, _best(request, layer, ranks=ranks)) for ranks in _multiples(request.ranks)],
    )


def _model(
    request: PlanRequest, ranks: int | None = None, batch: int | None = None, spaces: Mapping[str, Space] | None = None
) -> CostModel:
    case = request.network, ranks or request.ranks, batch or request.smallest, request.compared_on
    return CostModel(*case, at_most=request.at_most, spaces=spaces, **request.cost_options)


def _best(request: PlanRequest, layer: str, *, ranks: int | None = None, batch: int | None = None) -> Split | None:
    try:
        model = _model(request, ranks, batch)
        chosen = model.splits(eliminate(model.graph).choice)
        return propagate(request.network, chosen, model.ranks, model.batch, replicas=True)[layer]
    except UserError:
        return None


def _multiples(value: int) -> list[int]:
    return sorted({int(value * factor) for factor in FACTORS if value * factor >= 1 and value * factor % 1 == 0})


def _parts(model: CostModel, layer: str) -> Iterator[Mapping[str, Any]]:
    """The terms of the layer and of its edges, each by the layer's configurations."""
    yield model.node_costs(layer)
    for edge in model.grouped.edges:
        if layer in (edge.source, edge.target):
            yield model.edge_costs(edge)


def _check(network: Network, model: CostModel, layer: str) -> None:
    names = [node.name for node in network.nodes]
    if layer not in names:
        raise unknown("layer", layer, names)
    leader = next(leader for leader, followers in model.grouped.names.items() if layer in followers)
    if leader != layer:
        raise UserError(f"layer {layer!r} has no choice of its own: explain {leader!r}, it follows")
