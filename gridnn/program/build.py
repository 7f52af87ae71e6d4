"""From a program to the schedule of one rank: the order of a pass, written once."""

from __future__ import annotations

from collections.abc import Sequence

from gridnn.layers.base import UNFUSED, Loss
from gridnn.layers.computation import BufferSpec, Computation, Index, LayerPart, Reduction, Task, View, gradient
from gridnn.layers.computation import inputs as input_names
from gridnn.layout.counts import all_reduce, bucket
from gridnn.layout.group import Group
from gridnn.layout.layout import box_shape
from gridnn.network import Shared
from gridnn.program.inputs import Inputs, Pending
from gridnn.program.listing import Listing
from gridnn.program.loads import Loads
from gridnn.program.overlap import overlap
from gridnn.program.program import Program
from gridnn.program.regions import around, under
from gridnn.program.schedule import (
    Accumulate,
    Add,
    Begin,
    Compute,
    End,
    GroupSum,
    Policy,
    Schedule,
    Sum,
    Update,
)
from gridnn.program.section import FORWARD, Section
from gridnn.program.step import Step

LOSS_WORDS = 3  # summed loss, right answers, whether somebody wants to stop


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


class _Builder:
    def __init__(self, program: Program, rank: int, policy: Policy, kind: str, first: bool, last: bool) -> None:
        self.program, self.rank, self.policy, self.kind = program, rank, policy, kind
        self.first, self.last, self.training = first, last, kind == "training"
        self.list = Listing(program, rank, policy)
        self.inputs, self.loads = Inputs(self.list), Loads(self.list, kind != "prediction")
        self.waiting: list[End] = []  # sums of gradients under way
        self._wanted = program.network.outputs if kind == "prediction" else (program.steps[-1].name,)
        self._needed = program.network.feeding(self._wanted)
        self._stored: set[tuple[str, str]] = set()  # parameters that have a gradient already
        shared = (one[0] for step in program.steps for one in step.shared.values())
        self._several = {(whose.layer, whose.name) for whose in shared}  # parameters of several layers
        self._made: dict[tuple[int, int], tuple[LayerPart, Computation]] = {}

    # -- the order of a pass -----------------------------------------------------------------------------------

    def build(self) -> Schedule:
        front, *rounds = self.program.pieces
        pieces, fuses = enumerate((front, *rounds)), self.policy.fuses
        sections = [Section(one, self.rank, n, fuses, self._needed) for n, one in pieces]
        first, *stack = sections
        parts, target = self.loads.load(sections)
        steps = self.program.steps
        has_loss = isinstance(steps[-1].node.layer, Loss)
        outputs, seed = {}, None
        self._forward(first)
        if stack:
            self._rounds(first, stack)
        if not has_loss or self.kind == "prediction":
            outputs = {name: sections[-1].output(name, FORWARD) for name in self._wanted}
        if self.training:
            if not has_loss:
                seed = self.loads.seed(sections[-1])
                first.gradients[steps[-1].name] = [seed]
            self._backward(first, self.last)
        self.list.operations = overlap(self.list.operations, self.policy, self.list.root)
        self._finish(has_loss)
        return Schedule(
            self.program,
            self.rank,
            self.policy,
            self.kind,
            tuple(self.list.operations),
            self.list.buffers,
            parts,
            target,
            outputs,
            seed,
            tuple(sections),
        )

    def _rounds(self, front: Section, stack: list[Section]) -> None:
        """The layers of the stack forward and backward, once for the samples of every round."""
        edge = stack[0].program.steps[0].edges[0]
        source = edge.source
        whole = front.output(source, FORWARD)
        shape, layout = self.list.buffers[whole].shape, edge.transfer.source
        returned = self.list.new(f"{source}.dy", shape, kind="gradient", layer=source) if edge.needs_gradient else None
        hand = layout.part(self.rank, layout.dims[0].digits)
        for section, turn in zip(stack, self.program.turns, strict=True):
            dealt = slice(*turn.given(hand))
            part = (dealt.stop - dealt.start, *shape[1:])
            section.given[source] = self.list.view(f"{source}.y{section.suffix}", whole, part, (dealt,))
            self._forward(section)
            if not self.training:
                continue
            self._backward(section, self.last and section is stack[-1])
            if returned:
                place = self.list.view(f"{source}.dy{section.suffix}", returned, part, (dealt,))
                self.list.emit(Add(source, "backward", tuple(section.gradients[source]), (place,)))
        if returned:
            front.gradients[source] = [returned]

    def _forward(self, section: Section) -> None:
        for place in self._places(section):
            self._layer_forward(section, place, FORWARD)

    def _places(self, section: Section, among: Sequence[int] | None = None) -> list[int]:
        """The layers that what is wanted depends on."""
        steps = section.program.steps
        return [place for place in among or range(len(steps)) if steps[place].name in self._needed]

    def _backward(self, section: Section, last: bool) -> None:
        program = section.program
        loss = program.steps[-1]
        if isinstance(loss.node.layer, Loss):
            section.gradients[loss.name] = [""]
        sums = self._buckets() if last else {}
        for number in reversed(range(len(program.segments))):
            segment = program.segments[number]
            run = FORWARD if number == len(program.segments) - 1 else number
            for place in self._places(section, segment) if run != FORWARD else ():
                self._layer_forward(section, place, run)
            for place in reversed(segment):
                step = program.steps[place]
                arrived = section.gradients.pop(step.name, [])
                if arrived and (step.learns or any(edge.needs_gradient for edge in step.edges)):
                    self._layer_backward(section, place, run, arrived)
                for movement in sums.get(step.name, ()):
                    self._begin_sum(movement)

    def _finish(self, has_loss: bool) -> None:
        """What is done at the end of the last pass of a batch."""
        if not self.last:
            return
        self.list.operations.extend(self.waiting)
        if has_loss and self.kind != "prediction":
            name, ranks = self.program.steps[-1].name, self.program.ranks
            members = Group(0, ((ranks, 1),))
            count = all_reduce(self.list.along(members), ranks, self.rank, LOSS_WORDS)
            movement = GroupSum("all-reduce", members, ((name, count),), "loss")
            self.list.pair(name, "forward", movement, (), (), (), ())
        if self.training:
            self.list.emit(Update("", "update", (), ()))

    # -- one layer ---------------------------------------------------------------------------------------------

    def _declares(self, section: Section, place: int) -> tuple[LayerPart, Computation]:
        """What a layer has here and computes, the same forward and backward."""
        key = (section.number, place)
        if key not in self._made:
            part = self._part(section, place)
            self._made[key] = part, section.program.steps[place].node.layer.computation(part)
        return self._made[key]

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
        part, made = self._declares(section, place)
        names, pending = self._names(section, place, run, part, made), None
        for i, name in enumerate(input_names(len(step.edges))):
            names[name], pending = self.inputs.read(section, place, i, run)
        if isinstance(step.node.layer, Loss):
            names["target"] = self.loads.target(section)
        self._views(step, names, made.views, ("y",), section, run)
        if "y" not in names and not isinstance(step.node.layer, Loss):
            names["y"] = self.list.new(f"{step.name}.y{section.tag(run)}", part.output, layer=step.name)
        section.outputs[step.name, run] = names.get("y", "")
        for call in made.forward:
            if isinstance(call, Reduction):
                if run == FORWARD:
                    self.list.reduce(step, call, names, phase)
            elif run == FORWARD or not call.once:
                self._compute(section, place, call, names, phase, pending=pending)
                pending = None

    def _layer_backward(self, section: Section, place: int, run: int, arrived: list[str]) -> None:
        step, (part, made) = section.program.steps[place], self._declares(section, place)
        names = self._names(section, place, run, part, made)
        inputs = input_names(len(step.edges))
        for i, name in enumerate(inputs):
            names[name] = self.inputs.array(section, step, i, run)
        names["y"] = section.output(step.name, run)
        names["dy"] = self._sum(step, arrived, section)
        wanted = {gradient(n): i for i, n in enumerate(inputs) if step.edges[i].needs_gradient}
        self._views(step, names, made.views, tuple(wanted), section, run)
        returned = set()
        for name in wanted:
            if name not in names:
                full = f"{step.name}.{name}{section.suffix}"
                names[name] = self.list.new(full, part.ghosted[wanted[name]], kind="gradient", layer=step.name)
        for call in made.backward:
            if isinstance(call, Reduction):
                self.list.reduce(step, call, names, "backward")
                continue
            useless = [w for w in call.writes if w.startswith("d") and w[1:] in inputs and w not in wanted]
            learns = call.stores_gradients and step.learns
            if not learns and (useless or not call.writes):
                continue
            gradients, sums = self._parameter_gradients(step) if call.stores_gradients else ((), {})
            half = "weights" if call.stores_gradients else "input"
            self._compute(section, place, call, names, "backward", gradients=gradients, half=half)
            if sums:
                self.list.emit(Accumulate(step.name, "backward", tuple(sums), (), tuple(sums.values())))
            for name in wanted:
                if name in call.writes:
                    returned.add(name)
                    self.inputs.give_back(section, step, wanted[name], names[name])
        for name in wanted:
            if name not in returned:
                self.inputs.give_back(section, step, wanted[name], names[name])

    def _names(self, section: Section, place: int, run: int, part: LayerPart, made: Computation) -> dict[str, str]:
        """The buffers that the layer declares, by its own names; what is computed once keeps the name of that run."""
        step = section.program.steps[place]
        once = {name for call in made.forward if isinstance(call, Task) and call.once for name in call.writes}
        names = {}
        for spec in made.buffers:
            tag = section.suffix if spec.name in once else section.tag(run)
            names[spec.name] = self._declared(f"{step.name}.{spec.name}{tag}", spec, step.name)
        return names

    def _declared(self, name: str, spec: BufferSpec, layer: str) -> str:
        return name if name in self.list.buffers else self.list.new(name, spec.shape, spec.dtype, "saved", layer)

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
                tag = section.tag(run) if view.name == "y" else section.suffix
                name = f"{step.name}.{view.name}{tag}"
                names[view.name] = self.list.view(name, names[view.base], view.shape, view.region)

    def _compute(
        self,
        section: Section,
        place: int,
        task: Task,
        names: dict[str, str],
        phase: str,
        *,
        pending: Pending | None = None,
        gradients: tuple[tuple[str, str], ...] = (),
        half: str = "forward",
    ) -> None:
        step = section.program.steps[place]
        order = (*task.reads, *(w for w in task.writes if w not in task.reads))
        arrays = tuple(names[name] for name in order)
        writes = tuple(names[name] for name in task.writes)

        def call(region: Index | None, used: tuple[str, ...]) -> Compute:
            held = used[: len(task.reads)], writes if region is None else used[len(task.reads) :]
            where = (place, section.number, gradients, region, half)
            return Compute(step.name, phase, held[0], (*held[1], *dict(gradients).values()), task, used, *where)

        if pending is None:
            self.list.emit(call(None, arrays))
            return
        shape = self.list.buffers[names["y"]].shape
        regions = [pending.interior, *around(pending.interior, shape)]
        for number, region in enumerate(regions):
            if number == 1:
                for operation in pending.operations:
                    self.list.emit(operation)
            self.list.emit(call(region, tuple(self._region(step, name, names[name], region, shape) for name in order)))
        if len(regions) == 1:
            for operation in pending.operations:
                self.list.emit(operation)

    def _region(self, step: Step, local: str, name: str, region: Index, shape: tuple[int, ...]) -> str:
        """A view of a buffer: what lies under the windows of ``region`` of the input, else ``region`` itself."""
        index = under(region, shape, step.node.layer.windows(step.shapes)) if local == "x" else region
        extents = tuple(
            len(range(*part.indices(size))) for part, size in zip(index, self.list.buffers[name].shape, strict=True)
        )
        label = ",".join(f"{part.start}:{part.stop}" for part in index)
        return self.list.view(f"{name}[{label}]", name, extents, index)

    def _parameter_gradients(self, step: Step) -> tuple[tuple[tuple[str, str], ...], dict[str, Sum]]:
        """Arrays for those gradients of a layer's parameters that are not simply stored, and what is done with them.

        The first gradient of a parameter that only one layer has is stored where the optimizer reads it; all others are
        added to it. Those of frozen parameters go nowhere.
        """
        places, sums = [], {}
        for name, layout in step.layouts.items():
            whose = step.shared[name][0] if name in step.shared else Shared(step.name, name)
            key = whose.layer, whose.name
            stored, learns = key in self._stored or not self.first, name not in step.frozen
            self._stored.add(key)
            if learns and not stored and key not in self._several:
                continue
            self.list.count += 1
            buffer = f"{step.name}.d{name} +{self.list.count}"
            self.list.new(buffer, box_shape(layout.box(self.rank)), "wide", "gradient", step.name)
            places.append((name, buffer))
            if learns:
                sums[buffer] = Sum(*key, whose.transposed, not stored)
        return tuple(places), sums

    def _sum(self, step: Step, arrived: list[str], section: Section) -> str:
        """The gradient of a layer's output: the sum of what came from its readers."""
        if len(arrived) == 1:
            return arrived[0]
        name = f"{step.name}.dy{section.suffix}"
        self.list.new(name, self.list.buffers[arrived[0]].shape, kind="gradient", layer=step.name)
        self.list.emit(Add(step.name, "backward", tuple(arrived), (name,)))
        return name

    def _buckets(self) -> dict[str, list[GroupSum]]:
        """The sums of weight gradients by the layer that completes them."""
        found: dict[str, list[GroupSum]] = {}
        for number, one in enumerate(self.program.buckets(self.rank)):
            members = one.members
            if len(members) > 1:
                sizes = [gradient.size for gradient in one.gradients]
                counts = bucket(self.list.along(members), len(members), members.index(self.rank), sizes)
                entries = tuple((g.layer, count) for g, count in zip(one.gradients, counts, strict=True))
                movement = GroupSum("started all-reduce", members, entries, "gradients", number=number)
                found.setdefault(one.gradients[-1].layer, []).append(movement)
        return found

    def _begin_sum(self, movement: GroupSum) -> None:
        self.list.count += 1
        layer = movement.entries[-1][0]
        self.list.emit(Begin(layer, "update", (), (), movement, self.list.count))
        self.waiting.append(End(layer, "update", (), (), movement, self.list.count))
