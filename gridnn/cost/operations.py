"""The seconds of every operation of a schedule on a machine, from shapes alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from gridnn.cost.machine import Machine
from gridnn.cost.movements import Movement, Movements
from gridnn.cost.work import ARRAYS, Work, seconds, update_seconds, work
from gridnn.layers.base import Layer, Shapes
from gridnn.layout.layout import box_shape, box_size
from gridnn.layout.stage import Stage
from gridnn.program.placed import PlacedLayer
from gridnn.program.schedule import (
    Accumulate,
    Add,
    Begin,
    Buffer,
    Compute,
    Copy,
    End,
    Fill,
    Load,
    Operation,
    Schedule,
    StageMovement,
    Update,
)


class Priced(NamedTuple):
    """An operation with its cost.

    Attributes
    ----------
    operation : Operation
        What runs.
    computing : tuple of (layer, seconds)
        Seconds of this rank's processor; of a movement what it packs or unpacks.
    movements : tuple of (layer, Movement)
        Of a beginning: what it moves, one for each layer and grid dimension.
    """

    operation: Operation
    computing: tuple[tuple[str, float], ...] = ()
    movements: tuple[tuple[str, Movement], ...] = ()

    @property
    def seconds(self) -> float:
        """Seconds of computation."""
        return sum(seconds for _, seconds in self.computing)

    @property
    def alone(self) -> float:
        """Seconds of the movement if nothing else moves."""
        return sum(movement.seconds for _, movement in self.movements)

    @property
    def label(self) -> tuple[str, str, str, str]:
        """(Grid dimension, layer, phase, kind) of most of a movement."""
        operation = self.operation
        most = max((one for _, one in self.movements), key=lambda one: one.seconds, default=None)
        return (most.dimension if most else "", operation.layer, operation.phase, most.kind if most else "")


def price_operations(schedule: Schedule, machine: Machine, slots: int = 1) -> tuple[Priced, ...]:
    """The operations of a schedule, priced.

    Parameters
    ----------
    slots : int
        Arrays that the optimizer keeps for every weight.
    """
    return _Pricing(schedule, machine, slots).operations()


class _Pricing:
    def __init__(self, schedule: Schedule, machine: Machine, slots: int) -> None:
        self.schedule, self.machine, self.slots = schedule, machine, slots
        self.itemsize, self.rank = schedule.policy.itemsize, schedule.rank
        self.movements = Movements(machine, schedule.program.plan.grid, self.rank, self.itemsize)
        self._works: dict[tuple[Layer, Shapes, Shapes, int, bool], Work] = {}
        self._steps: dict[tuple[int, int], Work] = {}
        self._moved: dict[tuple[Stage, bool, str, str], tuple[Movement, ...]] = {}

    def operations(self) -> tuple[Priced, ...]:
        return tuple(map(self._price, self.schedule.operations))

    def _price(self, operation: Operation) -> Priced:
        if isinstance(operation, Compute):
            return Priced(operation, ((operation.layer, self._compute(operation)),))
        if isinstance(operation, Begin):
            return Priced(operation, self._copied(operation, self._packed(operation)), self._move(operation))
        if isinstance(operation, End):
            return Priced(operation, self._copied(operation, self._unpacked(operation)))
        if isinstance(operation, Update):
            return Priced(operation, tuple(self._updates()))
        if isinstance(operation, Fill):
            return Priced(operation, ((operation.layer, self._filled(operation)),))
        return Priced(operation, self._copied(operation, self._touched(operation)))

    # -- computing ---------------------------------------------------------------------------------------------

    def _compute(self, operation: Compute) -> float:
        section = self.schedule.sections[operation.section]
        placed, task = section.program.layers[operation.place], operation.task
        where = (operation.section, operation.place)
        if where not in self._steps:
            self._steps[where] = self._work(placed)
        done = self._steps[where]
        calls = {"forward": done.forward, "input": done.inputs, "weights": done.weights}[operation.half]
        if placed.node.layer.bound_by not in ARRAYS and operation.half == "weights":
            calls = done.inputs  # it streams its arrays, and tells by shares which call does how much of it
        part = 1.0
        if operation.region is not None:
            box = placed.output.box(self.rank)
            extents = (
                len(range(*cut.indices(size))) for cut, size in zip(operation.region, box_shape(box), strict=True)
            )
            part = math.prod(extents) / box_size(box)
        return seconds(self.machine.compute, calls) * task.share * part

    def _work(self, placed: PlacedLayer) -> Work:
        inputs = tuple(box_shape(edge.layout.box(self.rank)) for edge in placed.edges)
        local = Shapes(inputs, box_shape(placed.output.box(self.rank)))
        asked = any(edge.needs_gradient for edge in placed.edges)
        size = sum(box_size(layout.box(self.rank)) for layout in placed.layouts.values())
        key = (placed.node.layer, placed.shapes, local, size, asked)
        if key not in self._works:
            self._works[key] = work(placed.node.layer, placed.shapes, local, size, asked, self.itemsize)
        return self._works[key]

    def _updates(self) -> list[tuple[str, float]]:
        """The update of every layer."""
        found = []
        for placed in self.schedule.program.layers:
            size = sum(box_size(layout.box(self.rank)) for _, layout in placed.trained.values())
            if size:
                found.append((placed.name, update_seconds(self.machine.compute, size, self.slots, self.itemsize)))
        return found

    # -- copies ------------------------------------------------------------------------------------------------

    def _copied(self, operation: Operation, size: float) -> tuple[tuple[str, float], ...]:
        """The seconds of reading and writing ``size`` bytes."""
        return ((operation.layer, self.machine.compute.seconds("memory", 0, size)),) if size else ()

    def _touched(self, operation: Operation) -> float:
        """The bytes that an operation without flops reads and writes."""
        if isinstance(operation, Load):
            return 0.0  # read ahead, beside the step before
        if isinstance(operation, Accumulate):
            return 3 * sum(map(self._bytes, operation.reads))
        if isinstance(operation, Add):
            return max(2, 3 * (len(operation.reads) - 1)) * self._bytes(operation.writes[0])
        assert isinstance(operation, Copy)
        return 2 * self._bytes(operation.writes[0])

    def _filled(self, operation: Fill) -> float:
        """The seconds of writing ghost zones: no call of its own, but a part of the copy that fills the rest."""
        buffer = self._buffer(operation.writes[0])
        cells = sum(math.prod(self._extent(slab, buffer.shape)) for slab in operation.slabs)
        return cells * buffer.width(self.itemsize) / self.machine.compute.memory

    @staticmethod
    def _extent(slab: Sequence[slice], shape: Sequence[int]) -> list[int]:
        whole = (*slab, *(slice(None),) * (len(shape) - len(slab)))
        return [len(range(*cut.indices(size))) for cut, size in zip(whole, shape, strict=True)]

    def _packed(self, operation: Begin) -> float:
        """The bytes that are copied where a transfer begins: what is sent, and what a rank keeps."""
        if not isinstance(operation.movement, StageMovement):
            return 0.0
        send, receive, out = operation.writes
        if operation.movement.members is None or operation.movement.kind == "all-to-all":
            kept = max(0, self._bytes(out) - self._bytes(receive))
            return 2 * (self._bytes(send) + kept)
        return 2 * self._bytes(send) if self._is_message(send) or operation.movement.kind == "all-reduce" else 0.0

    def _unpacked(self, operation: End) -> float:
        if not isinstance(operation.movement, StageMovement):
            return 0.0
        receive = operation.reads[1]
        return 2 * self._bytes(receive) if self._is_message(receive) else 0.0

    def _is_message(self, name: str) -> bool:
        """Whether a buffer is memory of its own for a message: what lies in it is copied."""
        return self._buffer(name).base is None

    def _buffer(self, name: str) -> Buffer:
        return self.schedule.buffers[name]

    def _bytes(self, name: str) -> int:
        return self._buffer(name).bytes(self.itemsize)

    # -- movements ---------------------------------------------------------------------------------------------

    def _move(self, operation: Begin) -> tuple[tuple[str, Movement], ...]:
        """Equal stages cost the same, whoever asks for them."""
        movement = operation.movement
        if not isinstance(movement, StageMovement):
            return self.movements.price(operation)
        key = (movement.stage, movement.adjoint, movement.kind, operation.phase)
        if key not in self._moved:
            self._moved[key] = tuple(one for _, one in self.movements.price(operation))
        return tuple((operation.layer, one) for one in self._moved[key])
