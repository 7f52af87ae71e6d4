"""From a program to the schedule of one rank: the order of a pass, written once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gridnn.layers.base import UNFUSED, Loss
from gridnn.layers.computation import ACTIVATION, BufferSpec, Computation, LayerPart, Reduction, Task, View, gradient
from gridnn.layers.computation import inputs as input_names
from gridnn.layout.counts import all_reduce, bucket, dimension_of
from gridnn.layout.group import Group
from gridnn.layout.layout import box_shape
from gridnn.layout.messages import call_kind, is_stacked, message_dtype, message_sizes
from gridnn.layout.stage import Stage
from gridnn.network import INPUT
from gridnn.program.fusion import fused_layers
from gridnn.program.overlap import overlap
from gridnn.program.program import Program
from gridnn.program.regions import around, under
from gridnn.program.schedule import (
    Accumulate,
    Add,
    Begin,
    Buffer,
    Compute,
    Copy,
    End,
    Fill,
    Index,
    Load,
    Movement,
    Operation,
    Policy,
    Schedule,
    Update,
)
from gridnn.program.step import Step

LOSS_WORDS = 3  # summed loss, right answers, whether somebody wants to stop
FORWARD = -1  # the first run of a section; others recompute the segment of their number
WHOLE = slice(None)


def build(
    program: Program,
    rank: int,
    policy: Policy | None = None,
    *,
    kind: str = "training",
    first: bool = True,
    last: bool = True,
) -> Schedule:
    """The schedule of rank ``rank`` for one pass over the batch of ``program``.

    Parameters
    ----------
    policy : Policy, optional
        Of the device; default: float32 on a CPU.
    kind : {"training", "evaluation", "prediction"}
        Forward and backward; forward alone; forward up to the layer before the loss.
    first, last : bool
        Of the passes of a batch (``--accumulate``): the first one overwrites the gradients of weights, the last one
        sums them over the ranks, and the loss, and updates.
    """
    return _Builder(program, rank, policy or Policy(), kind, first, last).build()


class Pending(NamedTuple):
    """An input that is under way: what ends it, and the part of the reader's output that can be computed before."""

    operations: list[Operation]
    interior: Index


class Feed:
    """One tensor as its readers see it: several layers may read the same one."""

    def __init__(self, step: Step, index: int, rank: int) -> None:
        self.edge, self.owner, self.readers, self.number = step.edges[index], step.name, 0, index
        frame = step.frame(rank, index)
        self.box = self.edge.layout.box(rank)
        extents = box_shape(self.box)
        self.shape = tuple(low + size + high for (low, high), size in zip(frame, extents, strict=True))
        self.inside = tuple(slice(low, low + size) for (low, _), size in zip(frame, extents, strict=True))
        self.has_ghosts = self.shape != extents
        self.value = step.node.layer.padding_value
        self.arrived = 0
        self.total: str | None = None

    @property
    def slabs(self) -> tuple[Index, ...]:
        """The ghost zones."""
        slabs = []
        for axis, (inside, size) in enumerate(zip(self.inside, self.shape, strict=True)):
            for part in (slice(0, inside.start), slice(inside.stop, size)):
                if part.start < part.stop:
                    slabs.append((*(WHOLE,) * axis, part))
        return tuple(slabs)


class Section:
    """Layers that run with one set of samples: all of a program, or of its stack in one round."""

    def __init__(self, program: Program, rank: int, number: int, fuses: bool) -> None:
        self.program, self.number = program, number
        self.suffix = f" #{number}" if number else ""
        self.segment = {place: s for s, segment in enumerate(program.segments) for place in segment}
        self.home = {step.name: self.segment[place] for place, step in enumerate(program.steps)}
        self.fused, self.makers = fused_layers(program) if fuses else ({}, {})
        self.feeds: dict[tuple, Feed] = {}
        for step in program.steps:
            for i in range(len(step.edges)):
                key = step.reading(i)
                if key not in self.feeds:
                    self.feeds[key] = Feed(step, i, rank)
                self.feeds[key].readers += 1
        self.given: dict[str, str] = {}
        self.arrays: dict[tuple[tuple, int], str] = {}  # (reading, run) -> buffer
        self.outputs: dict[tuple[str, int], str] = {}
        self.gradients: dict[str, list[str]] = {}

    def output(self, name: str, run: int) -> str:
        """The buffer with the output of layer ``name``, as it is read in a run."""
        if name in self.given:
            return self.given[name]
        return self.outputs[name, run if run != FORWARD and self.home[name] == run else FORWARD]


class _Builder:
    def __init__(self, program: Program, rank: int, policy: Policy, kind: str, first: bool, last: bool) -> None:
        self.program, self.rank, self.policy, self.kind = program, rank, policy, kind
        self.first, self.last, self.training = first, last, kind == "training"
        self.operations: list[Operation] = []
        self.buffers: dict[str, Buffer] = {}
        self.count = 0
        self.waiting: list[End] = []  # sums of gradients under way

    # -- the order of a pass -----------------------------------------------------------------------------------

    def build(self) -> Schedule:
        front, *rounds = self.program.pieces
        sections = [Section(one, self.rank, n, self.policy.fuses) for n, one in enumerate((front, *rounds))]
        first, *stack = sections
        boxes, target = self._load(sections)
        steps = self.program.steps
        has_loss = isinstance(steps[-1].node.layer, Loss)
        output = seed = None
        self._forward(first)
        if stack:
            self._rounds(first, stack)
        if not has_loss or self.kind == "prediction":
            output = self._result(sections[-1])
        if self.training:
            if not has_loss:
                seed = self._seed(sections[-1])
                first.gradients[steps[-1].name] = [seed]
            self._backward(first, self.first, self.last)
        self.operations = overlap(self.operations, self.policy, self._root)
        self._finish(has_loss)
        return Schedule(
            self.program,
            self.rank,
            self.policy,
            self.kind,
            tuple(self.operations),
            self.buffers,
            boxes,
            target,
            output,
            seed,
            tuple(sections),
        )

    def _rounds(self, front: Section, stack: list[Section]) -> None:
        """The layers of the stack forward and backward, once for the samples of every round."""
        edge = stack[0].program.steps[0].edges[0]
        source = edge.source
        whole = front.output(source, FORWARD)
        shape, layout = self.buffers[whole].shape, edge.transfer.source
        returned = self._new(f"{source}.dy", shape, kind="gradient", layer=source) if edge.needs_gradient else None
        hand = layout.part(self.rank, layout.dims[0])
        for section in stack:
            dealt = slice(*section.program.turn.given(hand))
            part = (dealt.stop - dealt.start, *shape[1:])
            section.given[source] = self._view(f"{source}.y{section.suffix}", whole, part, (dealt,))
            self._forward(section)
            if not self.training:
                continue
            starts, ends = section is stack[0], section is stack[-1]
            self._backward(section, self.first and starts, self.last and ends)
            if returned:
                place = self._view(f"{source}.dy{section.suffix}", returned, part, (dealt,))
                self._emit(Add(source, "backward", tuple(section.gradients[source]), (place,)))
        if returned:
            front.gradients[source] = [returned]

    def _forward(self, section: Section) -> None:
        for place in self._places(section):
            self._layer_forward(section, place, FORWARD)

    def _places(self, section: Section) -> range:
        """All layers, without the loss where only its input is wanted."""
        steps = section.program.steps
        without = self.kind == "prediction" and isinstance(steps[-1].node.layer, Loss)
        return range(len(steps) - without)

    def _backward(self, section: Section, first: bool, last: bool) -> None:
        program = section.program
        loss = program.steps[-1]
        if isinstance(loss.node.layer, Loss):
            section.gradients[loss.name] = [""]
        sums = self._buckets() if last else {}
        for number in reversed(range(len(program.segments))):
            segment = program.segments[number]
            run = FORWARD if number == len(program.segments) - 1 else number
            for place in segment if run != FORWARD else ():
                self._layer_forward(section, place, run)
            for place in reversed(segment):
                step = program.steps[place]
                arrived = section.gradients.pop(step.name, [])
                if arrived and (step.weights or any(edge.needs_gradient for edge in step.edges)):
                    self._layer_backward(section, place, run, arrived, first)
                for movement in sums.get(step.name, ()):
                    self._begin_sum(movement)

    def _finish(self, has_loss: bool) -> None:
        """What is done at the end of the last pass of a batch."""
        if not self.last:
            return
        self.operations.extend(self.waiting)
        if has_loss and self.kind != "prediction":
            name, ranks = self.program.steps[-1].name, self.program.ranks
            members = Group(0, ((ranks, 1),))
            count = all_reduce(self._along(members), ranks, self.rank, LOSS_WORDS)
            movement = Movement("all-reduce", members, ((name, count),), "loss")
            self._pair(name, "forward", movement, (), (), (), ())
        if self.training:
            self._emit(Update("", "update", (), ()))

    # -- samples, targets, output ------------------------------------------------------------------------------

    def _load(self, sections: Sequence[Section]) -> tuple[tuple, tuple | None]:
        front, loss = sections[0], self.program.steps[-1]
        names, boxes = [], []
        for key, feed in front.feeds.items():
            if feed.edge.source == INPUT:
                name = self._new(f"{INPUT} {len(names)}" if names else INPUT, feed.shape, kind="input", layer=INPUT)
                front.arrays[key, FORWARD] = name
                names.append(self._inside(name, feed))
                boxes.append(feed.box)
                self._ghosts(feed, name, INPUT, "forward")
        box = None
        if isinstance(loss.node.layer, Loss) and self.kind != "prediction":
            box = self._target_box(sections[-1])
            spec = loss.node.layer.target(box_shape(box))
            names.append(self._new("target", spec.shape, spec.dtype, "input", INPUT))
        self.operations.insert(0, Load(INPUT, "forward", (), tuple(names)))
        return tuple(boxes), box

    def _target_box(self, section: Section) -> tuple:
        """The part of the targets that this rank compares with, in all rounds together."""
        loss, turn = section.program.steps[-1], section.program.turn
        box = loss.edges[0].layout.box(self.rank)
        if turn is None:
            return box
        return (turn.block(loss.split.parts("n"), loss.part(self.rank, "n")), *box[1:])

    def _target(self, section: Section) -> str:
        """The buffer with the targets of a section: of a round the samples of its turn, in their order."""
        turn = section.program.turn
        if turn is None:
            return "target"
        loss, whole = section.program.steps[-1], self.buffers["target"]
        parts, part = loss.split.parts("n"), loss.part(self.rank, "n")
        offset = turn.block(parts, part)[0]
        places = [slice(start - offset, stop - offset) for start, stop in turn.samples(parts, part)]
        size = sum(place.stop - place.start for place in places)
        if len(places) == 1:
            return self._view(f"target{section.suffix}", "target", (size, *whole.shape[1:]), (places[0],))
        name = self._new(f"target{section.suffix}", (size, *whole.shape[1:]), whole.dtype, "input", INPUT)
        start = 0
        for number, place in enumerate(places):
            shape = (place.stop - place.start, *whole.shape[1:])
            part_name = self._view(f"{name} {number}", name, shape, (slice(start, start + shape[0]),))
            self._emit(Copy(loss.name, "forward", ("target",), (part_name,), (place,)))
            start += shape[0]
        return name

    def _result(self, section: Section) -> str:
        places = self._places(section)
        return section.output(section.program.steps[places[-1]].name, FORWARD)

    def _seed(self, section: Section) -> str:
        """Where the gradient of the last layer's output is loaded, of a program without a loss."""
        step = section.program.steps[-1]
        name = self._new(f"{step.name}.dy", box_shape(step.output.box(self.rank)), kind="input", layer=step.name)
        load = self.operations[0]
        self.operations[0] = Load(INPUT, "forward", (), (*load.writes, name))
        return name

    # -- one layer ---------------------------------------------------------------------------------------------

    def _part(self, section: Section, place: int) -> LayerPart:
        step = section.program.steps[place]
        return LayerPart(
            step.shapes,
            tuple(edge.layout.box(self.rank) for edge in step.edges),
            step.output.box(self.rank),
            tuple(section.feeds[step.reading(i)].shape for i in range(len(step.edges))),
            self.training,
            any(edge.needs_gradient for edge in step.edges),
            section.fused.get(place, UNFUSED),
        )

    def _layer_forward(self, section: Section, place: int, run: int) -> None:
        step, phase = section.program.steps[place], "forward" if run == FORWARD else "recompute"
        part = self._part(section, place)
        made = step.node.layer.computation(part)
        names, pending = self._names(section, place, run, part, made), None
        for i, name in enumerate(input_names(len(step.edges))):
            names[name], pending = self._read(section, place, i, run)
        if isinstance(step.node.layer, Loss):
            names["target"] = self._target(section)
        self._views(step, names, made.views, ("y",), section, run)
        if "y" not in names and not isinstance(step.node.layer, Loss):
            names["y"] = self._new(f"{step.name}.y{self._tag(section, run)}", part.output, layer=step.name)
        section.outputs[step.name, run] = names.get("y", "")
        for call in made.forward:
            if isinstance(call, Reduction):
                if run == FORWARD:
                    self._reduce(step, call, names, phase)
            elif run == FORWARD or not call.once:
                self._compute(section, place, call, names, phase, pending=pending)
                pending = None

    def _layer_backward(self, section: Section, place: int, run: int, arrived: list[str], first: bool) -> None:
        step, part = section.program.steps[place], self._part(section, place)
        made = step.node.layer.computation(part)
        names = self._names(section, place, run, part, made)
        inputs = input_names(len(step.edges))
        for i, name in enumerate(inputs):
            names[name] = self._array(section, step, i, run)
        names["y"] = section.output(step.name, run)
        names["dy"] = self._sum(step, arrived, section)
        wanted = {gradient(n): i for i, n in enumerate(inputs) if step.edges[i].needs_gradient}
        self._views(step, names, made.views, tuple(wanted), section, run)
        returned = set()
        for name in wanted:
            if name not in names:
                full = f"{step.name}.{name}{section.suffix}"
                names[name] = self._new(full, part.ghosted[wanted[name]], kind="gradient", layer=step.name)
        for call in made.backward:
            if isinstance(call, Reduction):
                self._reduce(step, call, names, "backward")
                continue
            useless = [w for w in call.writes if w.startswith("d") and w[1:] in inputs and w not in wanted]
            if useless and not call.stores_gradients:
                continue
            gradients = self._parameter_gradients(step, call, first)
            half = "weights" if call.stores_gradients else "input"
            self._compute(section, place, call, names, "backward", gradients=gradients, half=half)
            if gradients:
                self._emit(Accumulate(step.name, "backward", gradients, (), tuple(step.weights)))
            for name in wanted:
                if name in call.writes:
                    returned.add(name)
                    self._return(section, step, wanted[name], names[name])
        for name in wanted:
            if name not in returned:
                self._return(section, step, wanted[name], names[name])

    def _names(self, section: Section, place: int, run: int, part: LayerPart, made: Computation) -> dict[str, str]:
        """The buffers that the layer declares, by its own names; what is computed once keeps the name of that run."""
        step = section.program.steps[place]
        once = {name for call in made.forward if isinstance(call, Task) and call.once for name in call.writes}
        names = {}
        for spec in made.buffers:
            tag = section.suffix if spec.name in once else self._tag(section, run)
            names[spec.name] = self._declared(f"{step.name}.{spec.name}{tag}", spec, step.name)
        return names

    def _declared(self, name: str, spec: BufferSpec, layer: str) -> str:
        return name if name in self.buffers else self._new(name, spec.shape, spec.dtype, "saved", layer)

    def _views(
        self,
        step: Step,
        names: dict[str, str],
        views: Sequence[View],
        wanted: tuple[str, ...],
        section: Section,
        run: int,
    ) -> None:
        for view in views:
            if view.name in wanted:
                tag = self._tag(section, run) if view.name == "y" else section.suffix
                name = f"{step.name}.{view.name}{tag}"
                names[view.name] = self._view(name, names[view.base], view.shape, view.index)

    def _compute(
        self,
        section: Section,
        place: int,
        task: Task,
        names: dict[str, str],
        phase: str,
        *,
        pending: Pending | None = None,
        gradients: tuple[str, ...] = (),
        half: str = "forward",
    ) -> None:
        step = section.program.steps[place]
        order = (*task.reads, *(w for w in task.writes if w not in task.reads))
        arrays = tuple(names[name] for name in order)
        writes = tuple(names[name] for name in task.writes)

        def call(region: Index | None, used: tuple[str, ...]) -> Compute:
            held = used[: len(task.reads)], writes if region is None else used[len(task.reads) :]
            where = (place, section.number, gradients, region, half)
            return Compute(step.name, phase, held[0], (*held[1], *gradients), task, used, *where)

        if pending is None:
            self._emit(call(None, arrays))
            return
        shape = self.buffers[names["y"]].shape
        regions = [pending.interior, *around(pending.interior, shape)]
        for number, region in enumerate(regions):
            if number == 1:
                for operation in pending.operations:
                    self._emit(operation)
            self._emit(call(region, tuple(self._region(step, name, names[name], region, shape) for name in order)))
        if len(regions) == 1:
            for operation in pending.operations:
                self._emit(operation)

    def _region(self, step: Step, local: str, name: str, region: Index, shape: tuple[int, ...]) -> str:
        """A view of a buffer: what lies under the windows of ``region`` of the input, else ``region`` itself."""
        index = under(region, shape, step.node.layer.windows(step.shapes)) if local == "x" else region
        extents = tuple(
            len(range(*part.indices(size))) for part, size in zip(index, self.buffers[name].shape, strict=True)
        )
        label = ",".join(f"{part.start}:{part.stop}" for part in index)
        return self._view(f"{name}[{label}]", name, extents, index)

    def _parameter_gradients(self, step: Step, task: Task, first: bool) -> tuple[str, ...]:
        """Where the gradients of a layer's parameters go if they are added to those of earlier passes."""
        if first or not task.stores_gradients:
            return ()
        names = []
        for name, (_, layout) in step.weights.items():
            self.count += 1
            shape = box_shape(layout.box(self.rank))
            names.append(self._new(f"{step.name}.d{name} +{self.count}", shape, "wide", "gradient", step.name))
        return tuple(names)

    def _sum(self, step: Step, arrived: list[str], section: Section) -> str:
        """The gradient of a layer's output: the sum of what came from its readers."""
        if len(arrived) == 1:
            return arrived[0]
        name = f"{step.name}.dy{section.suffix}"
        self._new(name, self.buffers[arrived[0]].shape, kind="gradient", layer=step.name)
        self._emit(Add(step.name, "backward", tuple(arrived), (name,)))
        return name

    # -- inputs and their gradients ----------------------------------------------------------------------------

    def _array(self, section: Section, step: Step, index: int, run: int) -> str:
        key = step.reading(index)
        return section.arrays[key, run] if (key, run) in section.arrays else section.arrays[key, FORWARD]

    def _read(self, section: Section, place: int, index: int, run: int) -> tuple[str, Pending | None]:
        """The buffer with input ``index`` of a layer; its movement is emitted at its first reader."""
        step = section.program.steps[place]
        key = step.reading(index)
        feed = section.feeds[key]
        if feed.edge.source == INPUT:
            return section.arrays[key, FORWARD], None
        if (key, run) in section.arrays:
            return section.arrays[key, run], None
        source, transfer = section.output(feed.edge.source, run), feed.edge.transfer
        if not transfer.stages and not feed.has_ghosts:
            section.arrays[key, run] = source
            return source, None
        phase, tag = "forward" if run == FORWARD else "recompute", self._tag(section, run)
        name = f"{feed.owner}.{input_names(feed.number + 1)[-1]}{tag}"
        self._new(name, feed.shape, kind="ghosted" if feed.has_ghosts else "activation", layer=feed.owner)
        section.arrays[key, run] = name
        out = self._inside(name, feed)
        self._ghosts(feed, name, feed.owner, phase)
        if not transfer.stages:
            self._emit(Copy(feed.owner, phase, (source,), (out,), (WHOLE,) * len(feed.shape)))
            return name, None
        return name, self._move(section, step, index, feed, source, out, phase)

    def _move(
        self, section: Section, step: Step, index: int, feed: Feed, source: str, out: str, phase: str
    ) -> Pending | None:
        """Emit the stages of a transfer; gives what is left where a part of the reader can be computed meanwhile."""
        transfer = feed.edge.transfer
        places = [source]
        for number, stage in enumerate(transfer.stages[:-1]):
            shape = box_shape(stage.target.box(self.rank))
            places.append(self._new(f"{out} stage {number}", shape, layer=feed.owner))
        places.append(out)
        later: list[Operation] = []
        flies = step.node.layer.is_tiled and all(stage.kind == "neighbours" for stage in transfer.stages)
        interior = step.interior(self.rank, index) if flies else None
        if interior is not None and len(transfer.stages) > 1:
            self._keep(feed, source, out, phase)
        for number, stage in enumerate(transfer.stages):
            made = self._stage(stage, False, False, places[number], places[number + 1], feed.owner, phase)
            if interior is not None:
                if number == 0:
                    self._emit(made.pop(0))
                later += made
            else:
                self.operations += made
        return None if interior is None else Pending(later, interior)

    def _keep(self, feed: Feed, source: str, out: str, phase: str) -> None:
        """Copy what a rank has of its input already, where several stages bring the rest."""
        transfer = feed.edge.transfer
        held, needed = transfer.source.box(self.rank), transfer.target.box(self.rank)
        kept = tuple((max(a, c), min(b, d)) for (a, b), (c, d) in zip(held, needed, strict=True))
        index = tuple(slice(a - c, b - c) for (a, b), (c, _) in zip(kept, needed, strict=True))
        shape = tuple(b - a for a, b in kept)
        place = self._view(f"{out} kept", out, shape, index)
        cut = tuple(slice(a - c, b - c) for (a, b), (c, _) in zip(kept, held, strict=True))
        self._emit(Copy(feed.owner, phase, (source,), (place,), cut))

    def _return(self, section: Section, step: Step, index: int, name: str) -> None:
        """Take the gradient of an input as one reader has it; after the last reader's, the adjoint of its movement."""
        feed = section.feeds[step.reading(index)]
        feed.arrived += 1
        if feed.readers > 1:
            name = self._added(feed, step, name, section)
        if feed.arrived < feed.readers:
            return
        transfer, source = feed.edge.transfer, feed.edge.source
        label = f"{feed.owner}.d{input_names(feed.number + 1)[-1]}{section.suffix}"
        place = self._inside(name, feed) if feed.has_ghosts else name
        for number, stage in enumerate(reversed(transfer.stages)):
            shape = box_shape(stage.source.box(self.rank))
            result = self._new(f"{label} back {number}", shape, kind="gradient", layer=feed.owner)
            self.operations += self._stage(stage, True, transfer.full_sum, place, result, feed.owner, "backward")
            place = result
        section.gradients.setdefault(source, []).append(place)

    def _added(self, feed: Feed, step: Step, name: str, section: Section) -> str:
        """The sum of the gradients that have arrived from the readers of ``feed``."""
        if feed.total is None:
            feed.total = name
            return name
        label = f"{feed.owner}.d{input_names(feed.number + 1)[-1]} sum{section.suffix}"
        if feed.total != label:
            self._new(label, feed.shape, kind="gradient", layer=feed.owner)
        self._emit(Add(feed.owner, "backward", (feed.total, name), (label,)))
        feed.total = label
        return label

    # -- movements ---------------------------------------------------------------------------------------------

    def _stage(
        self, stage: Stage, adjoint: bool, full_sum: bool, source: str, out: str, layer: str, phase: str
    ) -> list[Operation]:
        """The operations of one stage of a transfer, or of its adjoint."""
        if stage.kind == "local":
            held, needed = stage.source.box(self.rank), stage.target.box(self.rank)
            index = tuple(slice(a - c, b - c) for (a, b), (c, _) in zip(needed, held, strict=True))
            return [Copy(layer, phase, (source,), (out,), index, adjoint)]
        kind = call_kind(stage, adjoint, full_sum)
        counts = stage.counts(self.rank, self.program.rows, adjoint, full_sum)
        members = None if kind == "neighbours" else stage.members(self.rank)
        entries = tuple((layer, count) for count in counts)
        movement = Movement(kind, members, entries, "transfer", stage, adjoint)
        send, receive = self._messages(stage, kind, adjoint, full_sum, source, out, layer)
        self.count += 1
        begin = Begin(layer, phase, (source,), (send, receive, out), movement, self.count)
        return [begin, End(layer, phase, (send, receive), (out,), movement, self.count)]

    def _messages(
        self, stage: Stage, kind: str, adjoint: bool, full_sum: bool, source: str, out: str, layer: str
    ) -> tuple[str, str]:
        """The buffers that a stage packs into: where the memory is one run, that of the arrays themselves."""
        dtype = message_dtype(kind)
        whole = self.policy.itemsize > 2 or dtype == ACTIVATION
        sizes = message_sizes(stage, self.rank, adjoint, full_sum)
        stacked = is_stacked(stage, kind)
        plain = {
            "all-reduce": (False, True),  # packed into the result, and summed there
            "all-gather": (True, stacked),
            "reduce-scatter": (stacked, True),
        }.get(kind, (False, False))
        if kind == "all-reduce":
            fits = whole and self._is_run(out) and self.buffers[out].elements == sizes[0]
            one = self._flat(out) if fits else self._message(sizes[0], dtype, layer)
            return one, one
        names = []
        for array, can, size in zip((source, out), plain, sizes, strict=True):
            names.append(
                self._flat(array) if can and whole and self._is_run(array) else self._message(size, dtype, layer)
            )
        return names[0], names[1]

    def _message(self, size: int, dtype: str, layer: str) -> str:
        self.count += 1
        return self._new(f"message {self.count}", (size,), dtype, "message", layer)

    def _is_run(self, name: str) -> bool:
        """Whether a buffer is one run of memory."""
        buffer = self.buffers[name]
        while buffer.base is not None:
            if buffer.index is not None and self.buffers[buffer.base].shape != buffer.shape:
                return False
            buffer = self.buffers[buffer.base]
        return True

    def _root(self, name: str) -> str:
        while (base := self.buffers[name].base) is not None:
            name = base
        return name

    def _flat(self, name: str) -> str:
        buffer = self.buffers[name]
        self.count += 1
        return self._view(f"{name} flat {self.count}", name, (buffer.elements,), None)

    def _reduce(self, step: Step, call: Reduction, names: dict[str, str], phase: str) -> None:
        members = step.group(self.rank, call.axes)
        if len(members) == 1:
            return
        name = names[call.buffer]
        words = self.buffers[name].elements
        count = all_reduce(self._along(members), len(members), members.index(self.rank), words)
        movement = Movement("all-reduce", members, ((step.name, count),), "reduction", operation=call.operation)
        self._pair(step.name, phase, movement, (name,), (name,), (name,), (name,))

    def _pair(self, layer: str, phase: str, movement: Movement, *buffers: tuple[str, ...]) -> None:
        self.count += 1
        self._emit(Begin(layer, phase, buffers[0], buffers[1], movement, self.count))
        self._emit(End(layer, phase, buffers[2], buffers[3], movement, self.count))

    def _buckets(self) -> dict[str, list[Movement]]:
        """The sums of weight gradients by the layer that completes them."""
        found: dict[str, list[Movement]] = {}
        for number, one in enumerate(self.program.buckets(self.rank)):
            members = one.members
            if len(members) > 1:
                sizes = [gradient.size for gradient in one.gradients]
                counts = bucket(self._along(members), len(members), members.index(self.rank), sizes)
                entries = tuple((g.layer, count) for g, count in zip(one.gradients, counts, strict=True))
                movement = Movement("started all-reduce", members, entries, "gradients", number=number)
                found.setdefault(one.gradients[-1].layer, []).append(movement)
        return found

    def _begin_sum(self, movement: Movement) -> None:
        self.count += 1
        layer = movement.entries[-1][0]
        self._emit(Begin(layer, "update", (), (), movement, self.count))
        self.waiting.append(End(layer, "update", (), (), movement, self.count))

    def _along(self, members: Group) -> str:
        return dimension_of(members, self.program.rows)

    # -- buffers -----------------------------------------------------------------------------------------------

    def _new(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: str = ACTIVATION,
        kind: str = "activation",
        layer: str = "",
    ) -> str:
        assert name not in self.buffers, name
        self.buffers[name] = Buffer(name, tuple(shape), dtype, kind, layer)
        return name

    def _view(self, name: str, base: str, shape: tuple[int, ...], index: Index | None) -> str:
        if name not in self.buffers:
            old = self.buffers[base]
            self.buffers[name] = Buffer(name, tuple(shape), old.dtype, old.kind, old.layer, base, index)
        return name

    def _inside(self, name: str, feed: Feed) -> str:
        """What of a ghosted array is not ghost zones."""
        return self._view(f"{name} inside", name, box_shape(feed.box), feed.inside) if feed.has_ghosts else name

    def _ghosts(self, feed: Feed, name: str, layer: str, phase: str) -> None:
        if feed.has_ghosts:
            self._emit(Fill(layer, phase, (), (name,), feed.value, feed.slabs))

    @staticmethod
    def _tag(section: Section, run: int) -> str:
        return section.suffix if run == FORWARD else f"{section.suffix} again {run}"

    def _emit(self, operation: Operation) -> None:
        self.operations.append(operation)
