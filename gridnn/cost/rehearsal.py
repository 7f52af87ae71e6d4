"""A training step run with sizes in place of arrays: the same references, taken and dropped in the same order.

It follows `gridnn.execute`, `gridnn.feed` and `gridnn.comm.mover` line by line, and like them it leaves it to Python's
reference counts when an array's memory comes back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from gridnn.cost.account import Account, Taken
from gridnn.layers.base import Partwise
from gridnn.layers.rooms import Part, Room, Rooms
from gridnn.layout.layout import box_shape, box_size
from gridnn.layout.stage import Stage
from gridnn.network import INPUT
from gridnn.program.liveness import Liveness
from gridnn.program.program import Program
from gridnn.program.step import Step
from gridnn.units import SINGLE, wide

Gradients = dict[str, list[Taken]]


class Intake:
    """What `gridnn.feed.Feed` is to arrays: a framed input, and the gradients of its readers."""

    def __init__(self, step: Step, place: int, index: int, account: Account, itemsize: int) -> None:
        edge = step.edges[place]
        frame, extents = step.frame(index, place), box_shape(edge.layout.box(index))
        self.source, self.needs_gradient, self.readers = edge.source, edge.needs_gradient, 1
        self.extents = extents
        self.shape = tuple(low + size + high for (low, high), size in zip(frame, extents, strict=True))
        self.bytes = math.prod(self.shape) * itemsize
        stages = edge.transfer.stages if edge.transfer else ()
        self.flies = bool(stages) and all(stage.kind == "neighbours" for stage in stages)
        self._sources = [box_size(stage.source.box(index)) * itemsize for stage in stages]
        self._targets = [box_size(stage.target.box(index)) * itemsize for stage in stages]
        self._sums, self._sums_back = [], []
        if itemsize < wide(itemsize):
            full_sum = bool(edge.transfer) and edge.transfer.full_sum
            self._sums = [_widened(stage, index, False, full_sum) for stage in stages]
            self._sums_back = [_widened(stage, index, True, full_sum) for stage in reversed(stages)]
        self._passes = not stages and self.shape == extents
        self._account, self._waiting, self._sum = account, 0, None
        self.array = Taken() if edge.source == INPUT else None

    def start(self, x: Taken) -> list[Taken]:
        """Bring ``x`` here; what the movement holds until its layer has run."""
        if self._passes:
            self.array = x
            return []
        self.array = self._account.take(self.bytes)
        rooms = [self._account.take(size) for size in self._targets[:-1]]
        self._come_and_go(self._sums)
        return rooms

    def drop(self) -> None:
        """Forget the array."""
        if self.source != INPUT:
            self.array = None

    def start_backward(self, gradient: Taken) -> list[Taken] | None:
        """Take one reader's gradient; after the last one's, what the adjoint holds, its result last."""
        self._waiting += 1
        if self.readers > 1:
            gradient = self._added()
        if self._waiting < self.readers:
            return None
        self._waiting, self._sum = 0, None
        rooms = [self._account.take(size) for size in reversed(self._sources)]
        self._come_and_go(self._sums_back)
        return rooms or [gradient]

    def _come_and_go(self, stages: Sequence[Sequence[int]]) -> None:
        """Take the float32 arrays in which every stage of a movement sums 16-bit numbers, and give them back."""
        for sizes in stages:
            taken = [self._account.take(size) for size in sizes]
            del taken

    def _added(self) -> Taken:
        if self._sum is None:
            self._sum = self._account.take(self.bytes)
        return self._sum


def _widened(stage: Stage, index: int, backward: bool, full_sum: bool) -> tuple[int, ...]:
    """The bytes in which `gridnn.comm.communicator` sums what a stage moves of 16-bit numbers."""
    source, target = (SINGLE * box_size(layout.box(index)) for layout in (stage.source, stage.target))
    if stage.kind == "all-reduce":
        return (target,)
    if stage.kind == "reduce-scatter" and not backward:
        return source, target
    if stage.kind == "all-gather" and backward:
        return (target,) if full_sum else (target, source)
    return ()


class Seat:
    """One layer on one rank: its feeds, and what it takes and saves."""

    def __init__(self, step: Step, intakes: Sequence[Intake], index: int, account: Account, itemsize: int) -> None:
        self.name, self.intakes = step.name, intakes
        self.needs_gradient = any(edge.needs_gradient for edge in step.edges)
        self.runs_backward = bool(step.weights) or self.needs_gradient
        self.in_flight = isinstance(step.node.layer, Partwise) and intakes[0].needs_gradient and intakes[0].flies
        boxes = tuple(edge.layout.box(index) for edge in step.edges)
        part = Part(step.shapes, boxes, step.output.box(index), tuple(intake.shape for intake in intakes))
        self.rooms = step.node.layer.rooms(part)
        self.again = step.node.layer.rooms(part._replace(recomputing=True))
        self.total = Room("gradient sum", part.output).size(itemsize)
        self.weights = [wide(itemsize) * box_size(layout.box(index)) for _, layout in step.weights.values()]
        self.saved: list[Taken] = []
        self._account, self._itemsize = account, itemsize

    def forward(self, phase: str) -> Taken:
        """The output; keeps what backward needs."""
        rooms: Rooms = self.again if phase == "recompute" else self.rooms
        held = {"x": self.intakes[0].array, **self._take(rooms.forward)}
        self.saved = [held[name] for name in rooms.saved]
        return held[rooms.output] if rooms.output else Taken()

    def backward(self, gradient: Taken) -> Taken:
        """The gradient of the input."""
        backward = self.rooms.backward
        if not self.needs_gradient:
            backward = tuple(room for room in backward if room.name != "dx")
        return self._take(backward).get("dx", gradient)

    def _take(self, rooms: Sequence[Room]) -> dict[str, Taken]:
        held: dict[str, Taken] = {}
        ends = {room.name: room.until for room in rooms}
        for room in rooms:
            for name in [name for name in held if ends[name] == room.name]:
                del held[name]
            held[room.name] = self._account.take(room.size(self._itemsize))
        return held


class Rehearsal:
    """A program on one rank, as `gridnn.execute.Executable` runs it.

    Parameters
    ----------
    program : Program
        What is run.
    index : int
        The rank.
    itemsize : int
        Bytes of an activation.
    account : Account
        Where what is taken is entered.

    Attributes
    ----------
    seats : list of Seat
        One for each layer.
    feeds : dict of tuple to Intake
        The inputs by `Step.reading`.
    """

    def __init__(self, program: Program, index: int, itemsize: int, account: Account) -> None:
        self.program, self.account = program, account
        self.feeds: dict[tuple, Intake] = {}
        self.seats = []
        for step in program.steps:
            intakes = [self._intake(step, i, index, itemsize) for i in range(len(step.edges))]
            self.seats.append(Seat(step, intakes, index, self.account, itemsize))
        self._segments, self._liveness = program.segments, Liveness(program)
        self._outputs: dict[str, Taken] = {}

    def _intake(self, step: Step, place: int, index: int, itemsize: int) -> Intake:
        key = step.reading(place)
        if key in self.feeds:
            self.feeds[key].readers += 1
        else:
            self.feeds[key] = Intake(step, place, index, self.account, itemsize)
        return self.feeds[key]

    @property
    def inputs(self) -> list[Intake]:
        """The network's input as its readers see it."""
        return [feed for feed in self.feeds.values() if feed.source == INPUT]

    @property
    def target(self) -> tuple[int, ...]:
        """The local shape of what is compared with the targets."""
        return self.seats[-1].intakes[0].extents

    def train(self, *, first: bool = True) -> None:
        """Forward and backward of one pass; ``first`` of those whose gradients are added up."""
        self.forward()
        self.backward(first=first)

    def forward(self, given: Mapping[str, Taken] | None = None) -> Taken:
        """The output of the last layer."""
        self._outputs.clear()
        self._outputs.update(given or {})
        for segment in self._segments:
            for place in segment:
                self._run(place, "forward")
            if segment != self._segments[-1]:
                for place in segment:
                    self.seats[place].saved = []
        return self._outputs.pop(self.seats[-1].name)

    def _run(self, place: int, phase: str) -> None:
        seat = self.seats[place]
        self.account.enter(seat.name, phase)
        self._outputs[seat.name] = self._output(seat, phase)
        for feed in self._liveness.feeds(phase, place):
            self.feeds[feed].drop()
        for name in self._liveness.outputs(phase, place):
            del self._outputs[name]

    def _output(self, seat: Seat, phase: str) -> Taken:
        held: list[Taken] = []  # the rooms of a movement live until the layer has run, or the next movement begins
        for intake in seat.intakes:
            if intake.array is None:
                held = intake.start(self._outputs[intake.source])
        made = seat.forward(phase)
        held.clear()
        return made

    def backward(self, seed: Taken | None = None, *, first: bool = True, gradients: Gradients | None = None) -> None:
        """What comes back to ``given`` outputs goes into ``gradients``."""
        gradients = {} if gradients is None else gradients
        gradients[self.seats[-1].name] = [seed or Taken()]
        arrived: list[Taken] = []  # what came to a layer lives until the next layer's turn
        for segment in reversed(self._segments):
            if segment != self._segments[-1]:
                for place in segment:
                    self._run(place, "recompute")
            for place in reversed(segment):
                seat = self.seats[place]
                self.account.enter(seat.name, "backward")
                arrived = gradients.pop(seat.name, [])
                if arrived and seat.runs_backward:
                    self._through(seat, self._total(seat, arrived), gradients, first)
                seat.saved = []

    def _total(self, seat: Seat, arrived: list[Taken]) -> Taken:
        return arrived[0] if len(arrived) == 1 else self.account.take(seat.total)

    def _through(self, seat: Seat, gradient: Taken, gradients: Gradients, first: bool) -> None:
        """One layer's gradients; a halo is under way without the gradient that it came from."""
        added = [] if first else [self.account.take(size) for size in seat.weights]  # to those of earlier passes
        if seat.in_flight:
            moved = seat.intakes[0].start_backward(seat.backward(gradient))
            if moved is not None:
                gradients.setdefault(seat.intakes[0].source, []).append(moved[-1])
            added.clear()
            return
        dx = seat.backward(gradient)
        for intake in seat.intakes:
            if not intake.needs_gradient:
                continue
            moved = intake.start_backward(dx)
            if moved is not None:
                gradients.setdefault(intake.source, []).append(moved[-1])
        added.clear()
