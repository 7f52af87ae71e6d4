"""Every strategy by its name: the rules on a given or on their cheapest grid, and the searches."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gridnn.cost.machine import Machine
from gridnn.cost.price import price
from gridnn.errors import UserError, unknown
from gridnn.layout.gridshape import GridShape
from gridnn.network import Network
from gridnn.plan.plan import Plan
from gridnn.plan.propagate import propagate
from gridnn.plan.rules import RULES, STRATEGIES, make_plan
from gridnn.plan.search.baselines import all_grids
from gridnn.plan.search.cost_model import total_seconds
from gridnn.plan.search.space import FEW
from gridnn.plan.splitbrain import group_grid
from gridnn.program.program import pass_programs, pass_sizes
from gridnn.units import shown

SMALL = 16  # ranks up to which `layerwise`, which looks at pairs of devices, is tried beside
FEW_GRIDS = 4  # of a rule are priced by simulation, the cheapest ones in the model


@dataclass(frozen=True)
class Wanted:
    """What a plan is made for.

    Attributes
    ----------
    network, ranks, batch, machine
        The network, P, the samples of one update, and what the search weighs.
    grid : GridShape or None
        None: the strategy chooses it.
    order : str
        Of a grid that the strategy chooses.
    memory : float or None
        Bytes that a rank may use, for strategies that choose.
    group, domain, copies
        See `gridnn.plan.rules.make_plan` and `gridnn.plan.splitbrain.group_grid`.
    accumulate : int
        Passes of a batch; splits fit the smallest one.
    axes : {"few", "all"}
        How many axes of a layer ``optimal`` may divide: at most two, or all.
    itemsize, slots : int
        Bytes of an element, and arrays that the optimizer keeps for every weight.
    running : dict
        See `gridnn.plan.plan.OPTIONS`.
    """

    network: Network
    ranks: int
    batch: int
    machine: Machine | None
    grid: GridShape | None = None
    order: str = "column"
    memory: float | None = None
    group: int | None = None
    domain: tuple[int, ...] | None = None
    copies: bool = False
    accumulate: int = 1
    axes: str = "few"
    itemsize: int = 4
    slots: int = 1
    running: dict[str, Any] = field(default_factory=dict)

    @property
    def passes(self) -> list[int]:
        """The samples of every pass."""
        return pass_sizes(self.batch, self.accumulate)

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of an element and optimizer arrays a weight, for those who count bytes."""
        return {"itemsize": self.itemsize, "slots": self.slots}


def _optimal(wanted: Wanted) -> Plan:
    from gridnn.plan.search.optimal import plan_optimal

    limits = {"memory": wanted.memory, "accumulate": wanted.accumulate, "order": wanted.order, **wanted.sizes}
    limits |= {"at_most": FEW if wanted.axes == "few" else None, "others": _others(wanted)}
    return plan_optimal(wanted.network, wanted.ranks, wanted.batch, wanted.machine, **limits, **wanted.running).plan


def _others(wanted: Wanted) -> list[Plan]:
    """What the other searches find, where they can be had and do not take longer than this one."""
    found = []
    for search in (_tiling, _layerwise) if wanted.ranks <= SMALL else (_tiling,):
        try:
            plan = search(wanted)
        except ValueError:  # it is no answer here; asked for by name it says why
            continue
        found.append(replace(plan, grid=GridShape(plan.grid.rows, plan.grid.cols, wanted.order)))
    return found


def _layerwise(wanted: Wanted) -> Plan:
    from gridnn.plan.search.layerwise import plan_layerwise

    return plan_layerwise(wanted.network, wanted.ranks, min(wanted.passes), wanted.machine, **wanted.running)


def _tiling(wanted: Wanted) -> Plan:
    from gridnn.plan.search.tiling import plan_tiling

    return plan_tiling(wanted.network, wanted.ranks, min(wanted.passes), wanted.machine, **wanted.running)


SEARCHED: dict[str, Callable[[Wanted], Plan]] = {"layerwise": _layerwise, "tiling": _tiling, "optimal": _optimal}


def plan_for(
    strategy: str,
    network: Network,
    ranks: int,
    batch: int,
    machine: Machine | None,
    grid: GridShape | None = None,
    memory: float | None = None,
    group: int | None = None,
    domain: tuple[int, ...] | None = None,
    copies: bool = False,
    *,
    order: str = "column",
    accumulate: int = 1,
    axes: str = "few",
    itemsize: int = 4,
    slots: int = 1,
    **running: Any,
) -> Plan:
    """The plan of a strategy; with ``grid`` None a rule takes the cheapest grid that it can have.

    The parameters are those of `Wanted`. ``machine`` may be None where nothing is chosen: a rule on a grid.

    Raises
    ------
    ValueError
        If the strategy is unknown or does not fit the network, or no plan meets the memory limit.
    """
    if strategy not in STRATEGIES:
        raise unknown("strategy", strategy, STRATEGIES)
    options = grid, order, memory, group, domain, copies, accumulate, axes, itemsize, slots, running
    wanted = Wanted(network, ranks, batch, machine, *options)
    if strategy in RULES:
        return _by_rule(strategy, wanted)
    if ranks == 1:
        splits = propagate(network, {}, 1, min(wanted.passes))
        plan = Plan(strategy, GridShape(1, 1, order), splits, **running)
    else:
        plan = SEARCHED[strategy](wanted)
    shape = grid or GridShape(plan.grid.rows, plan.grid.cols, order)
    shape.check(ranks)
    return replace(plan, grid=shape)


def _by_rule(strategy: str, wanted: Wanted) -> Plan:
    smallest = min(wanted.passes)
    options = {"domain": wanted.domain, "copies": wanted.copies, **wanted.running}
    shape = wanted.grid or _implied(wanted)
    if shape is not None:
        return make_plan(strategy, wanted.network, shape, smallest, **options)
    plans, refused = all_grids(strategy, wanted.network, wanted.ranks, smallest, wanted.order, **options)
    if not plans:
        raise refused
    return _cheapest(plans, wanted)


def _implied(wanted: Wanted) -> GridShape | None:
    """The grid that follows from a group or a domain; the only one where there is one rank."""
    if wanted.group is not None:
        return group_grid(wanted.group, "auto", wanted.ranks, wanted.order)
    rows = math.prod(wanted.domain) if wanted.domain else 1
    if wanted.domain is None and wanted.ranks > 1:
        return None
    if wanted.ranks % rows:
        raise UserError(
            f"--domain {'x'.join(map(str, wanted.domain))} has {rows} parts, which do not divide {wanted.ranks} ranks: "
            f"mpirun -n {math.ceil(wanted.ranks / rows) * rows} ..., or a smaller domain"
        )
    return GridShape(rows, wanted.ranks // rows, wanted.order)


def _cheapest(plans: Sequence[Plan], wanted: Wanted) -> Plan:
    """The plan that takes least by the event simulation, of those that are cheapest in the model."""
    if len(plans) == 1 and wanted.memory is None:
        return plans[0]
    network, machine, passes = wanted.network, wanted.machine, wanted.passes
    if wanted.memory is None and len(plans) > FEW_GRIDS:
        seconds = total_seconds(network, plans, min(passes), machine, passes=len(passes), **wanted.sizes)
        plans = [plans[place] for place in sorted(seconds.argsort(kind="stable")[:FEW_GRIDS])]
    best = None
    for plan in plans:
        cost = price(pass_programs(network, plan, passes), machine, **wanted.sizes)
        if wanted.memory is not None and cost.memory.total > wanted.memory:
            continue
        if best is None or cost.seconds < best[0]:
            best = cost.seconds, plan
    if best is None:
        raise UserError(
            f"--memory: no grid of {wanted.ranks} ranks lets strategy {plans[0].strategy!r} fit into "
            f"{shown(wanted.memory)} a rank: use --strategy optimal, more ranks, or more memory"
        )
    return best[1]
