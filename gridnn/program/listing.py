"""The list of a schedule while it is made: operations, buffers, and what a movement needs of both."""

from __future__ import annotations

from gridnn.layers.computation import ACTIVATION, Index, Reduction
from gridnn.layout.counts import Count, all_reduce, dimension_of
from gridnn.layout.group import Group
from gridnn.layout.layout import box_shape
from gridnn.layout.messages import call_kind, is_stacked, message_dtype, message_sizes
from gridnn.layout.stage import Stage
from gridnn.program.placed import PlacedLayer
from gridnn.program.program import Program
from gridnn.program.schedule import Begin, Buffer, Copy, End, Fill, GroupSum, Movement, Operation, Policy, StageMovement
from gridnn.program.section import SharedInput


class Listing:
    """Operations and buffers of rank ``rank``, in the order in which they are added."""

    def __init__(self, program: Program, rank: int, policy: Policy) -> None:
        self.program, self.rank, self.policy = program, rank, policy
        self.operations: list[Operation] = []
        self.buffers: dict[str, Buffer] = {}
        self.count = 0  # of numbered movements and messages
        self._known: dict[tuple[Stage, bool, bool], tuple[tuple[Count, ...], tuple[int, int]]] = {}

    def stage(
        self, stage: Stage, adjoint: bool, full_sum: bool, source: str, out: str, layer: str, phase: str
    ) -> list[Operation]:
        """The operations of one stage of a transfer, or of its adjoint."""
        if stage.kind == "local":
            held, needed = stage.source.box(self.rank), stage.target.box(self.rank)
            index = tuple(slice(a - c, b - c) for (a, b), (c, _) in zip(needed, held, strict=True))
            return [Copy(layer, phase, (source,), (out,), index, adjoint)]
        kind = call_kind(stage, adjoint, full_sum)
        counts, sizes = self._counted(stage, adjoint, full_sum)
        members = None if kind == "neighbours" else stage.members(self.rank)
        entries = tuple((layer, count) for count in counts)
        movement = StageMovement(kind, members, entries, stage, adjoint)
        send, receive = self.messages(stage, kind, sizes, source, out, layer)
        self.count += 1
        begin = Begin(layer, phase, (source,), (send, receive, out), movement, self.count)
        return [begin, End(layer, phase, (send, receive), (out,), movement, self.count)]

    def _counted(self, stage: Stage, adjoint: bool, full_sum: bool) -> tuple[tuple[Count, ...], tuple[int, int]]:
        """What a stage moves, and the sizes of its messages: equal stages of many layers are looked at once."""
        key = (stage, adjoint, full_sum)
        if key not in self._known:
            counts = tuple(stage.counts(self.rank, self.program.rows, adjoint, full_sum))
            self._known[key] = counts, message_sizes(stage, self.rank, adjoint, full_sum)
        return self._known[key]

    def messages(
        self, stage: Stage, kind: str, sizes: tuple[int, int], source: str, out: str, layer: str
    ) -> tuple[str, str]:
        """The buffers that a stage packs into: where the memory is one run, that of the arrays themselves."""
        dtype = message_dtype(kind)
        whole = self.policy.itemsize > 2 or dtype == ACTIVATION
        stacked = is_stacked(stage, kind)
        plain = {
            "all-reduce": (False, True),  # packed into the result, and summed there
            "all-gather": (True, stacked),
            "reduce-scatter": (stacked, True),
        }.get(kind, (False, False))
        if kind == "all-reduce":
            fits = whole and self.is_run(out) and self.buffers[out].elements == sizes[0]
            one = self.flat(out) if fits else self.message(sizes[0], dtype, layer)
            return one, one
        names = []
        for array, can, size in zip((source, out), plain, sizes, strict=True):
            names.append(self.flat(array) if can and whole and self.is_run(array) else self.message(size, dtype, layer))
        return names[0], names[1]

    def message(self, size: int, dtype: str, layer: str) -> str:
        self.count += 1
        return self.new(f"message {self.count}", (size,), dtype, "message", layer)

    def is_run(self, name: str) -> bool:
        """Whether a buffer is one run of memory."""
        buffer = self.buffers[name]
        while buffer.base is not None:
            if buffer.region is not None and self.buffers[buffer.base].shape != buffer.shape:
                return False
            buffer = self.buffers[buffer.base]
        return True

    def root(self, name: str) -> str:
        while (base := self.buffers[name].base) is not None:
            name = base
        return name

    def flat(self, name: str) -> str:
        buffer = self.buffers[name]
        self.count += 1
        return self.view(f"{name} flat {self.count}", name, (buffer.elements,), None)

    def reduce(self, placed: PlacedLayer, call: Reduction, names: dict[str, str], phase: str) -> None:
        members = placed.group(self.rank, call.axes)
        if len(members) == 1:
            return
        name = names[call.buffer]
        words = self.buffers[name].elements
        count = all_reduce(self.along(members), len(members), members.index(self.rank), words)
        movement = GroupSum("all-reduce", members, ((placed.name, count),), "reduction", call.operation)
        self.pair(placed.name, phase, movement, (name,), (name,), (name,), (name,))

    def pair(self, layer: str, phase: str, movement: Movement, *buffers: tuple[str, ...]) -> None:
        self.count += 1
        self.emit(Begin(layer, phase, buffers[0], buffers[1], movement, self.count))
        self.emit(End(layer, phase, buffers[2], buffers[3], movement, self.count))

    def along(self, members: Group) -> str:
        return dimension_of(members, self.program.rows)

    def new(
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

    def view(self, name: str, base: str, shape: tuple[int, ...], region: Index | None) -> str:
        if name not in self.buffers:
            old = self.buffers[base]
            self.buffers[name] = Buffer(name, tuple(shape), old.dtype, old.kind, old.layer, base, region)
        return name

    def emit(self, operation: Operation) -> None:
        self.operations.append(operation)

    def inside(self, name: str, tensor: SharedInput) -> str:
        """What of a ghosted array is not ghost zones."""
        return self.view(f"{name} inside", name, box_shape(tensor.box), tensor.inside) if tensor.has_ghosts else name

    def ghosts(self, tensor: SharedInput, name: str, layer: str, phase: str) -> None:
        if tensor.has_ghosts:
            self.emit(Fill(layer, phase, (), (name,), tensor.value, tensor.slabs))
