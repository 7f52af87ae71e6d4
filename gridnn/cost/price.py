"""What a plan costs on a machine: words, messages and seconds by layer, phase and grid dimension."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from gridnn.cost.breakdown import LayerPrice, Run, entries, layer_price, runs_of
from gridnn.cost.busiest import busiest
from gridnn.cost.machine import Machine
from gridnn.cost.memory import Peak, peak
from gridnn.cost.movements import Movement
from gridnn.cost.schedule import Schedule, schedule
from gridnn.cost.simulate import Timeline, simulate
from gridnn.layout.counts import DIMENSIONS
from gridnn.plan.plan import Plan
from gridnn.program.program import Program


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
    passes : tuple of Schedule
        What the rank does in every pass of the batch.
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
    passes: tuple[Schedule, ...] = field(repr=False)
    itemsize: int = 4
    slots: int = 1
    estimates: tuple[str, ...] = ()

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
        """The peak memory of the rank in the largest pass."""
        largest = max((one.program for one in self.passes), key=lambda program: program.batch)
        several = len(self.passes) > 1
        return peak(largest, self.index, itemsize=self.itemsize, slots=self.slots, accumulate=several)

    @cached_property
    def layers(self) -> tuple[LayerPrice, ...]:
        """What every layer costs."""
        movements, kept, updates = self._movements(), self.memory.layers, self.passes[-1].updates
        runs: dict[str, list[Run]] = {}
        for run in runs_of(self.passes):
            runs.setdefault(run.priced.name, []).append(run)
        return tuple(
            layer_price(each, updates[name], movements.get(name, ()), kept.get(name, 0)) for name, each in runs.items()
        )

    def words(self) -> dict[str, int]:
        """The words of a step by grid dimension."""
        totals = dict.fromkeys(DIMENSIONS, 0)
        for movements in self._movements().values():
            for movement in movements:
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

    def _movements(self) -> dict[str, tuple[Movement, ...]]:
        """What every layer moves in a step, one movement for each phase, dimension and kind."""
        rows: dict[str, dict[tuple[str, str, str], Movement]] = {}
        for number, one in enumerate(self.passes, 1):
            for layer, movement in entries(one, number == len(self.passes)):
                kinds = rows.setdefault(layer, {})
                before = kinds.get(movement[:3], movement._replace(words=0, messages=0, seconds=0.0))
                after = (old + new for old, new in zip(before[3:], movement[3:], strict=True))
                kinds[movement[:3]] = Movement(*movement[:3], *after)
        return {layer: tuple(kinds.values()) for layer, kinds in rows.items()}


def price(
    programs: Sequence[Program], machine: Machine, *, itemsize: int = 4, slots: int = 1, overlap: float | None = None
) -> Price:
    """Price a step on ``machine``, on its busiest rank.

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
    """
    overlap = machine.overlap if overlap is None else overlap
    candidates = [_timed(programs, machine, index, itemsize, slots, overlap) for index in busiest(programs[0], machine)]
    index, passes, timeline = max(candidates, key=lambda one: one[2].seconds)
    batch = sum(program.batch for program in programs)
    return Price(programs[0].plan, batch, machine.name, index, timeline, passes, itemsize, slots, machine.estimates)


def _timed(
    programs: Sequence[Program], machine: Machine, index: int, itemsize: int, slots: int, overlap: float
) -> tuple[int, tuple[Schedule, ...], Timeline]:
    """The schedule and the time line of one rank; passes of equal size share theirs."""
    made: dict[int, Schedule] = {}
    for program in programs:
        if id(program) not in made:
            made[id(program)] = schedule(program, machine, index, itemsize=itemsize, slots=slots)
    passes = tuple(made[id(program)] for program in programs)
    return index, passes, simulate(passes, overlap=overlap)
