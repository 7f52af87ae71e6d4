"""What a plan costs on a machine: words, messages and seconds by layer, phase and grid dimension."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from gridnn.cost.critical_ranks import critical_ranks
from gridnn.cost.layers import LayerPrice, layer_prices
from gridnn.cost.machine import Machine
from gridnn.cost.memory import Peak, peak_of
from gridnn.cost.operations import Priced, price_operations
from gridnn.cost.timeline import Timeline, timeline
from gridnn.layout.counts import DIMENSIONS
from gridnn.planning.plan import Plan
from gridnn.program.build import build
from gridnn.program.program import Program
from gridnn.program.schedule import Policy, Schedule


@dataclass(frozen=True)
class Price:
    """The cost of a training step on the busiest rank.

    Attributes
    ----------
    plan : Plan
        What is priced.
    batch : int
        B.
    machine : str
        The name of the machine.
    index : int
        The priced rank, its place in the grid counted down the columns.
    timeline : Timeline
        The step as it runs, with overlap.
    passes : tuple of tuple of Priced
        What the rank does in every pass of the batch, operation by operation.
    schedules : tuple of Schedule
        The same without a machine.
    itemsize, slots : int
        Bytes of an element; arrays that the optimizer keeps for every weight.
    estimates : tuple of str
        The constants of the machine that are estimates.
    """

    plan: Plan
    batch: int
    machine: str
    index: int
    timeline: Timeline
    passes: tuple[tuple[Priced, ...], ...] = field(repr=False)
    schedules: tuple[Schedule, ...] = field(repr=False)
    itemsize: int = 4
    slots: int = 1
    estimates: tuple[str, ...] = ()

    @property
    def rank(self) -> int:
        """The priced rank of the job."""
        return self.plan.grid.rank_at(self.index)

    @property
    def seconds(self) -> float:
        """The time of a step."""
        return self.timeline.seconds

    @property
    def serial(self) -> float:
        """The time of a step if nothing overlapped."""
        return self.timeline.serial

    @property
    def compute(self) -> float:
        """Seconds of computation."""
        return self.timeline.compute

    @property
    def communication(self) -> float:
        """Seconds of all movements, each alone."""
        return self.timeline.communication

    @cached_property
    def memory(self) -> Peak:
        """The peak memory of the rank."""
        return peak_of(tuple({id(one): one for one in self.schedules}.values()), slots=self.slots)

    @cached_property
    def layers(self) -> tuple[LayerPrice, ...]:
        """What every layer costs."""
        return layer_prices(self.passes, [one.program for one in self.schedules], self.memory.layers)

    def words(self) -> dict[str, int]:
        """The words of a step by grid dimension."""
        totals = dict.fromkeys(DIMENSIONS, 0)
        for operations in self.passes:
            for priced in operations:
                for _, movement in priced.movements:
                    totals[movement.dimension] += movement.words
        return totals

    def as_dict(self) -> dict[str, Any]:
        """The price as plain data."""
        return {
            "grid": str(self.plan.grid),
            "strategy": self.plan.strategy,
            "batch": self.batch,
            "machine": self.machine,
            "estimates": list(self.estimates),
            "rank": self.index,
            "seconds": self.seconds,
            "serial_seconds": self.serial,
            "compute_seconds": self.compute,
            "communication_seconds": self.communication,
            "words": self.words(),
            "memory_bytes": self.memory.total,
            "layers": [
                {
                    **layer._asdict(),
                    "movements": [movement._asdict() for movement in layer.movements],
                    "ratio": layer.ratio,
                }
                for layer in self.layers
            ],
        }


def price(
    programs: Sequence[Program],
    machine: Machine,
    *,
    itemsize: int = 4,
    slots: int = 1,
    overlap: float | None = None,
    index: int | None = None,
) -> Price:
    """Price a step on ``machine``.

    Parameters
    ----------
    programs : sequence of Program
        One for every pass of the batch (see `gridnn.program.program.pass_sizes`).
    machine : Machine
        What work and movements cost.
    itemsize : int
        Bytes of an element.
    slots : int
        Arrays that the optimizer keeps for every weight.
    overlap : float, optional
        How fast movements go on behind computation where the program lets them; default: as on the machine.
    index : int, optional
        The rank, counted down the columns of the grid; default: the one that takes longest.
    """
    overlap = machine.overlap if overlap is None else overlap
    policy = machine.policy(itemsize)
    ranks = critical_ranks(programs[0], machine) if index is None else [index]
    candidates = [_timed(programs, machine, rank, policy, slots, overlap) for rank in ranks]
    index, schedules, passes, line = max(candidates, key=lambda one: one[3].seconds)
    batch, plan = sum(program.batch for program in programs), programs[0].plan
    return Price(plan, batch, machine.name, index, line, passes, schedules, itemsize, slots, machine.estimates)


def _timed(
    programs: Sequence[Program], machine: Machine, index: int, policy: Policy, slots: int, overlap: float
) -> tuple[int, tuple[Schedule, ...], tuple[tuple[Priced, ...], ...], Timeline]:
    """The schedules and the time line of one rank; passes that are alike share theirs."""
    made: dict[tuple[int, bool, bool], tuple[Schedule, tuple[Priced, ...]]] = {}
    keys = []
    for number, program in enumerate(programs, 1):
        first, last = number == 1, number == len(programs)
        keys.append((id(program), first, last))
        if keys[-1] not in made:
            schedule = build(program, index, policy, first=first, last=last)
            made[keys[-1]] = schedule, price_operations(schedule, machine, slots)
    schedules, passes = zip(*(made[key] for key in keys), strict=True)
    return index, schedules, passes, timeline(passes, overlap=overlap)
