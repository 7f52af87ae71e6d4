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
from gridnn.program.placed import PlacedLayer
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
        self._wanted = program.network.outputs if kind == "prediction" else (program.layers[-1].name,)
        self._needed = program.network.ancestors(self._wanted)
        self._stored: set[tuple[str, str]] = set()  # parameters that have a gradient already
        shared = (one[0] for placed in program.layers for one in placed.shared.values())
        self._several = {(whose.layer, whose.name) for whose in shared}  # parameters of several layers
        self._made: dict[tuple[int, int], tuple[LayerPart, Computation]] = {}

    # -- the order of a pass -----------------------------------------------------------------------------------

    def build(self) -> Schedule:
        if self.training:
            self.program.network.check_training(self.program.batch)
        runs, fuses = enumerate(self.program.sections), self.policy.fuses
        sections = [Section(one, self.rank, n, fuses, self._needed) for n, one in runs]
        first, *connected = sections
        parts, target = self.loads.load(sections)
        last = self.program.layers[-1]
        has_loss = isinstance(last.node.layer, Loss)
        outputs, seed = {}, None
        self._forward(first)
        if connected:
            self._rounds(first, connected)
        if not has_loss or self.kind == "prediction":
            outputs = {name: sections[-1].output(name, FORWARD) for name in self._wanted}
        if self.training:
            if not has_loss:
                seed = self.loads.seed(sections[-1])
                first.gradients[last.name] = [seed]
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

    def _rounds(self, front: Section, connected: list[Section]) -> None:
        """The connected layers forward and backward, once for the samples of every round."""
        edge = connected[0].program.layers[0].edges[0]
        source = edge.source
        whole = front.output(source, FORWARD)
        shape, layout = self.list.buffers[whole].shape, edge.transfer.source
        returned = self.list.new(f"{source}.dy", shape, kind="gradient", layer=source) if edge.needs_gradient else None
        source_part = layout.part(self.rank, layout.dims[0].mesh_axes)
        for section, microbatch in zip(connected, self.program.microbatches, strict=True):
            given = slice(*microbatch.given(source_part))
            part = (given.stop - given.start, *shape[1:])
            section.given[source] = self.list.view(f"{source}.y{section.suffix}", whole, part, (given,))
            self._forward(section)
            if not self.training:
                continue
            self._backward(section, self.last and section is connected[-1])
            if returned:
                place = self.list.view(f"{source}.dy{section.suffix}", returned, part, (given,))
                self.list.emit(Add(source, "backward", tuple(section.gradients[source]), (place,)))
        if returned:
            front.gradients[source] = [returned]

    def _forward(self, section: Section) -> None:
        for place in self._places(section):
            self._layer_forward(section, place, FORWARD)

    def _places(self, section: Section, among: Sequence[int] | None = None) -> list[int]:
        """The layers that what is wanted depends on."""
        layers = section.program.layers
        return [place for place in among or range(len(layers)) if layers[place].name in self._needed]

    def _backward(self, section: Section, last: bool) -> None:
        program = section.program
        loss = program.layers[-1]
        if isinstance(loss.node.layer, Loss):
            section.gradients[loss.name] = [""]
        sums = self._buckets() if last else {}
        for number in reversed(range(len(program.segments))):
            segment = program.segments[number]
            run = FORWARD if number == len(program.segments) - 1 else number
            for place in self._places(section, segment) if run != FORWARD else ():
                self._layer_forward(section, place, run)
            for place in reversed(segment):
                placed = program.layers[place]
                arrived = section.gradients.pop(placed.name, [])
                if arrived and (placed.learns or any(edge.needs_gradient for edge in placed.edges)):
                    self._layer_backward(section, place, run, arrived)
                for movement in sums.get(placed.name, ()):
                    self._begin_sum(movement)

    def _finish(self, has_loss: bool) -> None:
        """What is done at the end of the last pass of a batch."""
        if not self.last:
            return
        self.list.operations.extend(self.waiting)
        if has_loss and self.kind != "prediction":
            name, ranks = self.program.layers[-1].name, self.program.ranks
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
            self._made[key] = part, section.program.layers[place].node.layer.computation(part)
        return self._made[key]

    def _part(self, section: Section, place: int) -> LayerPart:
        placed = section.program.layers[place]
        return LayerPart(
            placed.shapes,
            tuple(edge.layout.box(self.rank) for edge in placed.edges),
            placed.output.box(self.rank),
            tuple(section.shared_inputs[placed.reading(i)].shape for i in range(len(placed.edges))),
            self.training,
            any(edge.needs_gradient for edge in placed.edges),
            section.fused.get(place, UNFUSED),
        )

    def _layer_forward(self, section: Section, place: int, run: int) -> None:
        placed, phase = section.program.layers[place], "forward" if run == FORWARD else "recompute"
        part, made = self._declares(section, place)
        names, pending = self._names(section, place, run, part, made), None
        for i, name in enumerate(input_names(len(placed.edges))):
            names[name], pending = self.inputs.read(section, place, i, run)
        if isinstance(placed.node.layer, Loss):
            names["target"] = self.loads.target(section)
        self._views(placed, names, made.views, ("y",), section, run)
        if "y" not in names and not isinstance(placed.node.layer, Loss):
            names["y"] = self.list.new(f"{placed.name}.y{section.tag(run)}", part.output, layer=placed.name)
        section.outputs[placed.name, run] = names.get("y", "")
        for call in made.forward:
            if isinstance(call, Reduction):
                if run == FORWARD:
                    self.list.reduce(placed, call, names, phase)
            elif run == FORWARD or not call.once:
                self._compute(section, place, call, names, phase, pending=pending)
                pending = None

    def _layer_backward(self, section: Section, place: int, run: int, arrived: list[str]) -> None:
        placed, (part, made) = section.program.layers[place], self._declares(section, place)
        names = self._names(section, place, run, part, made)
        inputs = input_names(len(placed.edges))
        for i, name in enumerate(inputs):
            names[name] = self.inputs.array(section, placed, i, run)
        names["y"] = section.output(placed.name, run)
        names["dy"] = self._sum(placed, arrived, section)
        wanted = {gradient(n): i for i, n in enumerate(inputs) if placed.edges[i].needs_gradient}
        self._views(placed, names, made.views, tuple(wanted), section, run)
        returned = set()
        for name in wanted:
            if name not in names:
                full = f"{placed.name}.{name}{section.suffix}"
                names[name] = self.list.new(full, part.ghosted[wanted[name]], kind="gradient", layer=placed.name)
        for call in made.backward:
            if isinstance(call, Reduction):
                self.list.reduce(placed, call, names, "backward")
                continue
            useless = [w for w in call.writes if w.startswith("d") and w[1:] in inputs and w not in wanted]
            learns = call.stores_gradients and placed.learns
            if not learns and (useless or not call.writes):
                continue
            gradients, sums = self._parameter_gradients(placed) if call.stores_gradients else ((), {})
            half = "weights" if call.stores_gradients else "input"
            self._compute(section, place, call, names, "backward", gradients=gradients, half=half)
            if sums:
                self.list.emit(Accumulate(placed.name, "backward", tuple(sums), (), tuple(sums.values())))
            for name in wanted:
                if name in call.writes:
                    returned.add(name)
                    self.inputs.give_back(section, placed, wanted[name], names[name])
        for name in wanted:
            if name not in returned:
                self.inputs.give_back(section, placed, wanted[name], names[name])

    def _names(self, section: Section, place: int, run: int, part: LayerPart, made: Computation) -> dict[str, str]:
        """The buffers that the layer declares, by its own names; what is computed once keeps the name of that run."""
        placed = section.program.layers[place]
        once = {name for call in made.forward if isinstance(call, Task) and call.once for name in call.writes}
        names = {}
        for spec in made.buffers:
            tag = section.suffix if spec.name in once else section.tag(run)
            names[spec.name] = self._declared(f"{placed.name}.{spec.name}{tag}", spec, placed.name)
        return names

    def _declared(self, name: str, spec: BufferSpec, layer: str) -> str:
        return name if name in self.list.buffers else self.list.new(name, spec.shape, spec.dtype, "saved", layer)

    def _views(
        self,
        placed: PlacedLayer,
        names: dict[str, str],
        views: Sequence[View],
        wanted: tuple[str, ...],
        section: Section,
        run: int,
    ) -> None:
        for view in views:
            if view.name in wanted:
                tag = section.tag(run) if view.name == "y" else section.suffix
                name = f"{placed.name}.{view.name}{tag}"
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
        placed = section.program.layers[place]
        order = (*task.reads, *(w for w in task.writes if w not in task.reads))
        arrays = tuple(names[name] for name in order)
        writes = tuple(names[name] for name in task.writes)

        def call(region: Index | None, used: tuple[str, ...]) -> Compute:
            held = used[: len(task.reads)], writes if region is None else used[len(task.reads) :]
            where = (place, section.number, gradients, region, half)
            return Compute(placed.name, phase, held[0], (*held[1], *dict(gradients).values()), task, used, *where)

        if pending is None:
            self.list.emit(call(None, arrays))
            return
        shape = self.list.buffers[names["y"]].shape
        regions = [pending.interior, *around(pending.interior, shape)]
        for number, region in enumerate(regions):
            if number == 1:
                for operation in pending.operations:
                    self.list.emit(operation)
            self.list.emit(
                call(region, tuple(self._region(placed, name, names[name], region, shape) for name in order))
            )
        if len(regions) == 1:
            for operation in pending.operations:
                self.list.emit(operation)

    def _region(self, placed: PlacedLayer, local: str, name: str, region: Index, shape: tuple[int, ...]) -> str:
        """A view of a buffer: what lies under the windows of ``region`` of the input, else ``region`` itself."""
        index = under(region, shape, placed.node.layer.windows(placed.shapes)) if local == "x" else region
        extents = tuple(
            len(range(*part.indices(size))) for part, size in zip(index, self.list.buffers[name].shape, strict=True)
        )
        label = ",".join(f"{part.start}:{part.stop}" for part in index)
        return self.list.view(f"{name}[{label}]", name, extents, index)

    def _parameter_gradients(self, placed: PlacedLayer) -> tuple[tuple[tuple[str, str], ...], dict[str, Sum]]:
        """Arrays for those gradients of a layer's parameters that are not simply stored, and what is done with them.

        The first gradient of a parameter that only one layer has is stored where the optimizer reads it; all others are
        added to it. Those of frozen parameters go nowhere.
        """
        places, sums = [], {}
        for name, layout in placed.layouts.items():
            whose = placed.shared[name][0] if name in placed.shared else Shared(placed.name, name)
            key = whose.layer, whose.name
            stored, learns = key in self._stored or not self.first, name not in placed.frozen
            self._stored.add(key)
            if learns and not stored and key not in self._several:
                continue
            self.list.count += 1
            buffer = f"{placed.name}.d{name} +{self.list.count}"
            self.list.new(buffer, box_shape(layout.box(self.rank)), "wide", "gradient", placed.name)
            places.append((name, buffer))
            if learns:
                sums[buffer] = Sum(whose, not stored)
        return tuple(places), sums

    def _sum(self, placed: PlacedLayer, arrived: list[str], section: Section) -> str:
        """The gradient of a layer's output: the sum of what came from its readers."""
        if len(arrived) == 1:
            return arrived[0]
        name = f"{placed.name}.dy{section.suffix}"
        self.list.new(name, self.list.buffers[arrived[0]].shape, kind="gradient", layer=placed.name)
        self.list.emit(Add(placed.name, "backward", tuple(arrived), (name,)))
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
