"""What every layer costs in a step: its operations in all passes and microbatches together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gridnn.cost.bounds import layer_bound
from gridnn.cost.movements import Movement
from gridnn.cost.operations import Priced
from gridnn.program.program import Program

PHASES = ("forward", "recompute", "backward", "update")


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


def layer_prices(
    passes: Sequence[Sequence[Priced]], programs: Sequence[Program], memory: Mapping[str, int]
) -> tuple[LayerPrice, ...]:
    """The layers of a step whose batch runs in ``passes`` of ``programs``; ``memory`` has the bytes of each."""
    computing: dict[str, dict[str, float]] = {placed.name: dict.fromkeys(PHASES, 0.0) for placed in programs[0].layers}
    first = programs[0].layers[0].name  # has what belongs to no layer
    movements: dict[str, dict[tuple[str, str, str], Movement]] = {name: {} for name in computing}
    for operations in passes:
        for priced in operations:
            for layer, seconds in priced.computing:
                computing[layer if layer in computing else first][priced.operation.phase] += seconds
            for layer, movement in priced.movements:
                _enter(movements[layer], movement)
    bounds = _bounds(programs)
    return tuple(
        LayerPrice(
            name=placed.name,
            split=str(placed.split),
            forward=computing[placed.name]["forward"],
            recompute=computing[placed.name]["recompute"],
            backward=computing[placed.name]["backward"],
            update=computing[placed.name]["update"],
            movements=tuple(movements[placed.name].values()),
            bound=bounds[placed.name],
            memory=memory.get(placed.name, 0),
        )
        for placed in programs[0].layers
    )


def _enter(rows: dict[tuple[str, str, str], Movement], movement: Movement) -> None:
    """Add a movement to those of its phase, dimension and kind."""
    key, before = movement[:3], rows.get(movement[:3])
    if before is not None:
        words, messages = before.words + movement.words, before.messages + movement.messages
        movement = Movement(*key, words, messages, before.seconds + movement.seconds)
    rows[key] = movement


def _bounds(programs: Sequence[Program]) -> dict[str, float | None]:
    """The bounds of all layers, in all passes and microbatches together."""
    totals: dict[str, float | None] = {}
    for placed in (placed for program in programs for piece in program.sections for placed in piece.layers):
        before, bound = totals.get(placed.name, 0.0), layer_bound(placed.node.layer, placed.shapes, placed.split.ranks)
        totals[placed.name] = None if before is None or bound is None else before + bound
    return totals
