"""What a layer costs in a step: its runs in all passes and rounds together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from gridnn.cost.bounds import layer_bound
from gridnn.cost.movements import Movement
from gridnn.cost.schedule import PricedStep, Schedule


class LayerPrice(NamedTuple):
    """One layer in a step, on the priced rank.

    Attributes
    ----------
    name, split : str
        The layer, and how it is divided.
    forward, recompute, backward, update : float
        Seconds of computation.
    movements : tuple of Movement
        By phase, dimension and kind.
    bound : float or None
        The least words by Al Daas et al. 2022 (see `cost.bounds.layer_bound`); None without weights.
    memory : int
        Bytes that are kept for it (see `cost.memory.Peak.layers`).
    """

    name: str
    split: str
    forward: float
    recompute: float
    backward: float
    update: float
    movements: tuple[Movement, ...]
    bound: float | None
    memory: int

    @property
    def compute(self) -> float:
        """Seconds of computation."""
        return self.forward + self.recompute + self.backward + self.update

    @property
    def communication(self) -> float:
        """Seconds of its movements, each alone."""
        return sum(movement.seconds for movement in self.movements)

    @property
    def seconds(self) -> float:
        """Both, without overlap."""
        return self.compute + self.communication

    @property
    def ratio(self) -> float | None:
        """Its words over the bound; None where there is no bound above 0."""
        return sum(movement.words for movement in self.movements) / self.bound if self.bound else None

    def words(self, dimension: str) -> int:
        """The words along a grid dimension."""
        return sum(movement.words for movement in self.movements if movement.dimension == dimension)


class Run(NamedTuple):
    """One forward and backward of a layer; ``again``: it is recomputed, ``adds``: to gradients of earlier ones."""

    priced: PricedStep
    again: bool
    adds: bool


def runs_of(passes: Sequence[Schedule]) -> Iterator[Run]:
    """The runs of all layers, in the order of their forward passes."""
    for number, one in enumerate(passes):
        for turn, part in enumerate(one.parts):
            for place, priced in enumerate(part.steps):
                yield Run(priced, place < part.recomputed, number > 0 or turn > 1)


def layer_price(runs: Sequence[Run], update: float, movements: tuple[Movement, ...], kept: int) -> LayerPrice:
    """A layer's price from its runs, the seconds of its update, what it moves, and the bytes that are kept for it."""
    forward = recompute = backward = 0.0
    bounds = [layer_bound(run.priced.step.node.layer, run.priced.step.shapes, _ranks(run)) for run in runs]
    for priced, again, adds in runs:
        ahead = priced.forward + sum(reading.copy for reading in priced.readings)
        forward, recompute = forward + ahead, recompute + again * ahead
        if priced.has_backward:
            backward += priced.inputs + priced.weights + sum(reading.copy_back for reading in priced.readings)
            backward += adds * priced.accumulate
    bound = None if None in bounds else sum(bounds)
    step = runs[0].priced.step
    return LayerPrice(step.name, str(step.split), forward, recompute, backward, update, movements, bound, kept)


def _ranks(run: Run) -> int:
    return run.priced.step.split.ranks


def entries(one: Schedule, last: bool) -> Iterator[tuple[str, Movement]]:
    """Layer and movement of everything that a pass moves; the ``last`` one sums loss and gradients."""
    for priced, again, _ in runs_of([one]):
        for reading in priced.readings:
            ahead = [movement for call in reading.forward for movement in call]
            moved = [*ahead, *(movement for call in reading.backward for movement in call)]
            moved += [movement._replace(phase="recompute") for movement in ahead if again]
            yield from ((priced.name, movement) for movement in moved)
        yield from ((priced.name, movement) for movement in priced.sums)
    if last:
        yield from (share for sums in one.buckets.values() for shares in sums for share in shares)
        if one.loss and one.loss.messages:
            yield one.program.steps[-1].name, one.loss
