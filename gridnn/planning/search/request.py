"""What a plan is asked for: network, ranks, batch and machine, and the limits and options of the search."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from gridnn.cost.machine import Machine
from gridnn.cost.price import Price, price
from gridnn.layout.gridshape import GridShape
from gridnn.network import Network
from gridnn.planning.plan import Plan
from gridnn.planning.search.space import FEW
from gridnn.program.program import pass_programs, pass_sizes


@dataclass(frozen=True)
class PlanRequest:
    """What a plan is asked for."""

    # network, ranks, batch, machine: the network, P, the samples of one update, and what the search weighs (None where
    # nothing is compared: a rule on a grid)
    network: Network
    ranks: int
    batch: int
    machine: Machine | None = None
    grid: GridShape | None = None  # None: the strategy chooses it
    # of a grid that the strategy chooses; the search's model takes it as ``column``, the prices as it is
    order: str = "column"
    memory: float | None = None  # bytes that a rank may use at its peak, for strategies that choose
    # group, domain, replicas: see `gridnn.planning.rules.make_plan` and `gridnn.planning.splitbrain.group_grid`
    group: int | None = None
    domain: tuple[int, ...] | None = None
    replicas: bool = False
    accumulate: int = 1  # passes of a batch; splits fit the smallest one
    axes: str = "few"  # {"few", "all"}: how many axes of a layer ``optimal`` may divide: at most two, or all
    # itemsize, slots: bytes of an element, and arrays that the optimizer keeps for every weight
    itemsize: int = 4
    slots: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)  # how the plan is run: see `gridnn.planning.plan.OPTIONS`

    @property
    def passes(self) -> list[int]:
        """The samples of every pass."""
        return pass_sizes(self.batch, self.accumulate)

    @property
    def smallest(self) -> int:
        """The samples of the smallest pass, which the splits fit."""
        return min(self.passes)

    @property
    def compared_on(self) -> Machine:
        """The machine, for those who compare; `ValueError` where there is none."""
        if self.machine is None:
            raise ValueError("plans are compared, but the request has no machine")
        return self.machine

    @property
    def limit(self) -> float:
        """Bytes that a rank may use, infinity where any are."""
        return math.inf if self.memory is None else self.memory

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of an element and optimizer arrays a weight, for those who count bytes."""
        return {"itemsize": self.itemsize, "slots": self.slots}

    @property
    def cost_options(self) -> dict[str, Any]:
        """What the search's model knows of how a plan is run: see `gridnn.planning.search.edge_costs.CostOptions`."""
        full_sum = self.options.get("gather_backward") == "all-reduce"
        recompute = self.options.get("recompute", False)
        return {**self.sizes, "passes": len(self.passes), "full_sum": full_sum, "recompute": recompute}

    @property
    def at_most(self) -> int | None:
        """Factors of a split that the search compares: see `gridnn.planning.search.space.configurations`."""
        return FEW if self.axes == "few" else None

    def price(self, plan: Plan, rank: int | None = None) -> Price:
        """The price of a step of ``plan``, on rank ``rank`` of the job; default: the slowest one."""
        index = None if rank is None else plan.grid.index(rank)
        return price(pass_programs(self.network, plan, self.passes), self.compared_on, index=index, **self.sizes)


class PricedPlan(NamedTuple):
    """A plan that answers a request, and its price."""

    request: PlanRequest
    plan: Plan
    price: Price
