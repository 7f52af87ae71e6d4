"""Every strategy by its name: the rules on a given or on their cheapest grid, and the searches."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from gridnn.errors import UserError, unknown
from gridnn.layout.gridshape import GridShape
from gridnn.planning.plan import Plan
from gridnn.planning.propagate import propagate
from gridnn.planning.rules import RULES, STRATEGIES, make_plan
from gridnn.planning.search.baselines import all_grids
from gridnn.planning.search.cost_model import total_seconds
from gridnn.planning.search.request import PlanRequest
from gridnn.planning.splitbrain import group_grid
from gridnn.units import shown

SMALL = 16  # ranks up to which `layerwise`, which looks at pairs of devices, is tried beside
FEW_GRIDS = 4  # of a rule are priced by simulation, the cheapest ones in the model


def _optimal(request: PlanRequest) -> Plan:
    from gridnn.planning.search.optimal import plan_optimal

    return plan_optimal(request, _other_searches(request)).plan


def _other_searches(request: PlanRequest) -> list[Plan]:
    """What the other searches find, where they can be had and do not take longer than this one."""
    found = []
    for search in (_tiling, _layerwise) if request.ranks <= SMALL else (_tiling,):
        try:
            plan = search(request)
        except UserError:  # it is no answer here; asked for by name it says why
            continue
        found.append(replace(plan, grid=GridShape(plan.grid.rows, plan.grid.cols, request.order)))
    return found


def _layerwise(request: PlanRequest) -> Plan:
    from gridnn.planning.search.layerwise import plan_layerwise

    return plan_layerwise(request.network, request.ranks, request.smallest, request.compared_on, **request.options)


def _tiling(request: PlanRequest) -> Plan:
    from gridnn.planning.search.tiling import plan_tiling

    return plan_tiling(request.network, request.ranks, request.smallest, request.machine, **request.options)


SEARCHED: dict[str, Callable[[PlanRequest], Plan]] = {"layerwise": _layerwise, "tiling": _tiling, "optimal": _optimal}


def plan_for(strategy: str, request: PlanRequest) -> Plan:
    """The plan of a strategy; without a grid in the request a rule takes the cheapest one that it can have.

    `UserError` if the strategy is unknown or does not fit the network, or no plan meets the memory limit.
    """
    if strategy not in STRATEGIES:
        raise unknown("strategy", strategy, STRATEGIES)
    if strategy in RULES:
        return _by_rule(strategy, request)
    if request.ranks == 1:
        splits = propagate(request.network, {}, 1, request.smallest)
        plan = Plan(strategy, GridShape(1, 1, request.order), splits, **request.options)
    else:
        plan = SEARCHED[strategy](request)
    shape = request.grid or GridShape(plan.grid.rows, plan.grid.cols, request.order)
    shape.check(request.ranks)
    return replace(plan, grid=shape)


def _by_rule(strategy: str, request: PlanRequest) -> Plan:
    shape = request.grid or _implied(request)
    if shape is not None:
        case, asked = (request.network, shape, request.smallest), request.options
        return make_plan(strategy, *case, domain=request.domain, replicas=request.replicas, **asked)
    plans, refused = all_grids(strategy, request, domain=request.domain, replicas=request.replicas)
    if refused and not plans:
        raise refused
    return _cheapest(plans, request)


def _implied(request: PlanRequest) -> GridShape | None:
    """The grid that follows from a group or a domain; the only one where there is one rank."""
    if request.group is not None:
        return group_grid(request.group, "auto", request.ranks, request.order)
    if request.domain is None:
        return GridShape(1, 1, request.order) if request.ranks == 1 else None
    rows = math.prod(request.domain)
    if request.ranks % rows:
        raise UserError(
            f"--domain {'x'.join(map(str, request.domain))} has {rows} parts, which do not divide {request.ranks} "
            f"ranks: mpirun -n {math.ceil(request.ranks / rows) * rows} ..., or a smaller domain"
        )
    return GridShape(rows, request.ranks // rows, request.order)


def _cheapest(plans: Sequence[Plan], request: PlanRequest) -> Plan:
    """The plan that takes least by the event simulation, of those that are cheapest in the model."""
    if len(plans) == 1 and request.memory is None:
        return plans[0]
    if request.memory is None and len(plans) > FEW_GRIDS:
        options = {"passes": len(request.passes), **request.sizes}
        seconds = total_seconds(request.network, plans, request.smallest, request.compared_on, **options)
        plans = [plans[place] for place in sorted(seconds.argsort(kind="stable")[:FEW_GRIDS])]
    best = None
    for plan in plans:
        cost = request.price(plan)
        if cost.memory.total > request.limit:
            continue
        if best is None or cost.seconds < best[0]:
            best = cost.seconds, plan
    if best is None:
        raise UserError(
            f"--memory: no grid of {request.ranks} ranks lets strategy {plans[0].strategy!r} fit into "
            f"{shown(request.limit)} a rank: use --strategy optimal, more ranks, or more memory"
        )
    return best[1]
