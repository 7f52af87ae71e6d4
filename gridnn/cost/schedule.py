"""What one rank does in a pass, step by step, with seconds: the same program that runs, on a machine."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from gridnn.cost.machine import Machine
from gridnn.cost.movements import Call, Movement, Movements
from gridnn.cost.work import Work, seconds, update_seconds, work
from gridnn.layers.base import Loss, Partwise, Shapes
from gridnn.layout.group import Group
from gridnn.layout.layout import box_shape, box_size
from gridnn.layout.transfer import Transfer
from gridnn.program.program import Program
from gridnn.program.step import Step

LOSS_WORDS = 3  # summed loss, right answers, whether somebody wants to stop
Shares = tuple[tuple[str, Movement], ...]  # of the layers in the sum of a bucket of gradients


class Reading(NamedTuple):
    """How a tensor comes to its readers, and its gradient back: the calls of a transfer, copies and packing.

    ``flies``: messages that are under way between their start and their end. ``interior``: the share of the reader's
    output that is computed meanwhile.
    """

    forward: tuple[Call, ...]
    backward: tuple[Call, ...]
    copy: float
    copy_back: float
    flies: bool
    interior: float


@dataclass(frozen=True)
class PricedStep:
    """One layer on the priced rank.

    Attributes
    ----------
    forward, inputs, weights, update : float
        Seconds of computation: forward, the two halves of backward, and the update of its parameters.
    accumulate : float
        Seconds to add its gradients to those of earlier passes.
    readings : tuple of Reading
        Of the inputs that no earlier layer reads alike.
    sums : tuple of Movement
        The reductions that it asks for (batch norm, a loss over divided classes).
    """

    step: Step
    forward: float
    inputs: float
    weights: float
    update: float
    accumulate: float
    readings: tuple[Reading, ...]
    sums: tuple[Movement, ...]

    @property
    def name(self) -> str:
        """The name of the layer."""
        return self.step.name

    @property
    def has_backward(self) -> bool:
        """Whether anything is done for it in the backward pass."""
        return bool(self.step.weights) or any(edge.needs_gradient for edge in self.step.edges)


@dataclass(frozen=True)
class Part:
    """Steps that run forward and backward by themselves (see `Program.pieces`), and how they are recomputed."""

    steps: tuple[PricedStep, ...]
    segments: tuple[range, ...]

    @property
    def recomputed(self) -> int:
        """How many of the steps run a second time before their backward pass: the first so many."""
        return self.segments[-1].start


@dataclass(frozen=True)
class Schedule:
    """A pass of a program on one rank.

    Attributes
    ----------
    program : Program
        What runs.
    index : int
        The rank.
    parts : tuple of Part
        All steps; or those before the fully connected layers, and these once for every round.
    buckets : mapping of str to list of Shares
        The sums of gradients that start after the last backward pass of a layer.
    loss : Movement or None
        The sum of the loss, at the end of a batch.
    """

    program: Program
    index: int
    parts: tuple[Part, ...]
    buckets: Mapping[str, Sequence[Shares]]
    loss: Movement | None

    @property
    def updates(self) -> dict[str, float]:
        """The seconds of the update of every layer."""
        return {priced.name: priced.update for part in self.parts for priced in part.steps}


def schedule(program: Program, machine: Machine, index: int, *, itemsize: int = 4, slots: int = 1) -> Schedule:
    """The work and the movements of rank ``index`` in a pass of ``program`` on ``machine``.

    Parameters
    ----------
    itemsize : int
        Bytes of an element.
    slots : int
        Arrays that the optimizer keeps for every weight.
    """
    return _Pricing(program, machine, index, itemsize, slots).schedule()


class _Pricing:
    """One rank of one program; equal layers with equal transfers are priced once."""

    def __init__(self, program: Program, machine: Machine, index: int, itemsize: int, slots: int) -> None:
        self.program, self.machine, self.index = program, machine, index
        self.itemsize, self.slots = itemsize, slots
        self.movements = Movements(machine, program.plan.grid, index, itemsize)
        self._seen: set[tuple] = set()
        self._known: dict[tuple, PricedStep] = {}

    def schedule(self) -> Schedule:
        program, loss = self.program, None
        if isinstance(program.steps[-1].node.layer, Loss):
            loss = self.movements.all_reduce("forward", Group(0, ((program.ranks, 1),)), LOSS_WORDS)
        return Schedule(program, self.index, tuple(map(self._part, program.pieces)), self._buckets(), loss)

    def _part(self, piece: Program) -> Part:
        self._seen.clear()
        arrivals = self._arrivals(piece)
        steps = (replace(self._like(step, arrivals.get(step.name, 1)), step=step) for step in piece.steps)
        return Part(tuple(steps), piece.segments)

    def _like(self, step: Step, arrivals: int) -> PricedStep:
        """The price of a step, or that of an earlier one that differs in its name only."""
        fresh = tuple(self._fresh(step))
        edges = tuple((edge.transfer, edge.layout, edge.needs_gradient) for edge in step.edges)
        key = (step.node.layer, step.shapes, step.split, edges, fresh, arrivals)
        if key not in self._known:
            self._known[key] = self._step(step, fresh, arrivals)
        return self._known[key]

    def _fresh(self, step: Step) -> Iterator[int]:
        """The inputs that no earlier layer reads alike."""
        for i, edge in enumerate(step.edges):
            key = step.reading(i)
            if edge.transfer is not None and key not in self._seen:
                self._seen.add(key)
                yield i

    def _step(self, step: Step, fresh: tuple[int, ...], arrivals: int) -> PricedStep:
        compute = self.machine.compute
        size = sum(box_size(layout.box(self.index)) for _, layout in step.weights.values())
        done = self._work(step, size)
        added = self._copied(3 * (arrivals - 1) * box_size(step.output.box(self.index)))
        return PricedStep(
            step,
            forward=seconds(compute, done.forward),
            inputs=seconds(compute, done.inputs) + added,
            weights=seconds(compute, done.weights),
            update=update_seconds(compute, size, self.slots, self.itemsize),
            accumulate=self._copied(3 * size),
            readings=tuple(self._reading(step, i) for i in fresh),
            sums=tuple(self._sums(step)),
        )

    def _work(self, step: Step, weights: int) -> Work:
        inputs = tuple(box_shape(edge.layout.box(self.index)) for edge in step.edges)
        local = Shapes(inputs, box_shape(step.output.box(self.index)))
        asked = any(edge.needs_gradient for edge in step.edges)
        return work(step.node.layer, step.shapes, local, weights, asked, self.itemsize)

    def _sums(self, step: Step) -> Iterator[Movement]:
        for wanted in step.node.layer.reductions(step.shapes, step.output.box(self.index), True):
            members = step.group(self.index, wanted.axes)
            if len(members) > 1:
                yield self.movements.all_reduce(wanted.phase, members, wanted.words)

    @staticmethod
    def _arrivals(piece: Program) -> dict[str, int]:
        """How many gradients come back to every layer: one from each different reading of its output."""
        readings: dict[str, set] = {}
        for step in piece.steps:
            for i, edge in enumerate(step.edges):
                readings.setdefault(edge.source, set()).add(step.reading(i))
        return {name: len(keys) for name, keys in readings.items()}

    def _buckets(self) -> dict[str, list[Shares]]:
        """The gradient sums by the layer after which they start."""
        starts: dict[str, list[Shares]] = {}
        for group in self.program.buckets(self.index):
            if len(group.members) > 1:
                starts.setdefault(group.gradients[-1].layer, []).append(self.movements.bucket(group))
        return starts

    def _reading(self, step: Step, edge: int) -> Reading:
        transfer, needs_gradient = step.edges[edge].transfer, step.edges[edge].needs_gradient
        copy, back = self._copies(step, edge, transfer)
        flies = isinstance(step.node.layer, Partwise) and bool(transfer.stages)
        flies = flies and all(stage.kind == "neighbours" for stage in transfer.stages)
        return Reading(
            self.movements.transfer(transfer, "forward"),
            self.movements.transfer(transfer, "backward") if needs_gradient else (),
            copy,
            back if needs_gradient else 0.0,
            flies,
            self._interior(step, edge) if flies else 0.0,
        )

    def _interior(self, step: Step, edge: int) -> float:
        """The share of a layer's output whose windows lie on what the rank has itself."""
        region = step.interior(self.index, edge)
        if region is None:
            return 0.0
        return math.prod(part.stop - part.start for part in region) / box_size(step.output.box(self.index))

    def _copies(self, step: Step, edge: int, transfer: Transfer) -> tuple[float, float]:
        """Seconds of filling the frame, packing and unpacking, forward and backward; a view costs nothing."""
        framed = any(low or high for low, high in step.frame(self.index, edge))
        forward = 2 * box_size(transfer.target.box(self.index)) if framed and not transfer.stages else 0
        backward = 0
        for stage in transfer.stages:
            source, target = (box_size(layout.box(self.index)) for layout in (stage.source, stage.target))
            packed = stage.kind not in ("local", "neighbours")
            forward += 2 * (target + source * packed)
            backward += 2 * (source + target * packed)
        return self._copied(forward), self._copied(backward)

    def _copied(self, elements: int) -> float:
        return self.machine.compute.seconds("memory", 0, elements * self.itemsize)
