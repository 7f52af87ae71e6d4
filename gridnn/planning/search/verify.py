"""Whether a search that leaves no choice out finds the same optimum as elimination."""

from __future__ import annotations

import math
from typing import NamedTuple

from gridnn.planning.search.cost_model import CostModel
from gridnn.planning.search.eliminate import eliminate
from gridnn.planning.search.exhaustive import search
from gridnn.planning.search.graph import CostGraph, Solution
from gridnn.planning.search.layerwise_costs import LayerwiseCosts
from gridnn.planning.search.request import PricedPlan


class Verified(NamedTuple):
    """What elimination and depth-first search found; ``is_equal`` is None where the latter did not finish."""

    eliminated: Solution
    searched: Solution

    @property
    def is_equal(self) -> bool | None:
        """Whether both optima cost the same, up to rounding."""
        if not self.searched.is_optimal:
            return None
        return math.isclose(self.eliminated.value, self.searched.value, rel_tol=1e-9)


def verify(graph: CostGraph, seconds: float | None = None) -> Verified:
    """Elimination beside depth-first search over all choices of ``graph``, which ends after ``seconds``."""
    return Verified(eliminate(graph), search(graph, seconds))


def verify_plan(made: PricedPlan, seconds: float | None = None) -> Verified:
    """`verify` for the search that made a plan, ``layerwise`` or ``optimal``."""
    request = made.request
    case = request.network, request.ranks, request.smallest, request.compared_on
    if made.plan.strategy == "layerwise":
        return verify(LayerwiseCosts(*case).graph, seconds)
    return verify(CostModel(*case, at_most=request.at_most, **request.cost_options).graph, seconds)
