"""How tensors come to their readers, and gradients back: the transfers of a program as operations."""

from __future__ import annotations

from typing import NamedTuple

from gridnn.layers.computation import Index
from gridnn.layers.computation import inputs as input_names
from gridnn.layout.layout import box_shape
from gridnn.program.listing import Listing
from gridnn.program.placed import PlacedLayer
from gridnn.program.schedule import Add, Copy, Operation
from gridnn.program.section import FORWARD, WHOLE, Section, SharedInput


class Pending(NamedTuple):
    """An input that is under way: what ends it, and the part of the reader's output that can be computed before."""

    operations: list[Operation]
    interior: Index


class Inputs:
    """The inputs of all layers, whose operations go to ``listing``."""

    def __init__(self, listing: Listing) -> None:
        self.list, self.rank = listing, listing.rank

    def array(self, section: Section, placed: PlacedLayer, index: int, run: int) -> str:
        key = placed.reading(index)
        return section.arrays[key, run] if (key, run) in section.arrays else section.arrays[key, FORWARD]

    def read(self, section: Section, place: int, index: int, run: int) -> tuple[str, Pending | None]:
        """The buffer with input ``index`` of a layer; its movement is emitted at its first reader."""
        placed = section.program.layers[place]
        key = placed.reading(index)
        tensor = section.shared_inputs[key]
        if tensor.edge.reads_samples:
            return section.arrays[key, FORWARD], None
        if (key, run) in section.arrays:
            return section.arrays[key, run], None
        source, transfer = section.output(tensor.edge.source, run), tensor.edge.transfer
        if not transfer.stages and not tensor.has_ghosts:
            section.arrays[key, run] = source
            return source, None
        phase, tag = "forward" if run == FORWARD else "recompute", section.tag(run)
        name = f"{tensor.owner}.{input_names(tensor.number + 1)[-1]}{tag}"
        self.list.new(
            name,
            tensor.shape,
            kind="ghosted" if tensor.has_ghosts else "activation",
            layer=tensor.owner,
        )
        section.arrays[key, run] = name
        out = self.list.inside(name, tensor)
        self.list.ghosts(tensor, name, tensor.owner, phase)
        if not transfer.stages:
            self.list.emit(Copy(tensor.owner, phase, (source,), (out,), (WHOLE,) * len(tensor.shape)))
            return name, None
        return name, self._move(section, placed, index, tensor, source, out, phase)

    def _move(
        self,
        section: Section,
        placed: PlacedLayer,
        index: int,
        tensor: SharedInput,
        source: str,
        out: str,
        phase: str,
    ) -> Pending | None:
        """Emit the stages of a transfer; gives what is left where a part of the reader can be computed meanwhile."""
        transfer = tensor.edge.transfer
        places = [source]
        for number, stage in enumerate(transfer.stages[:-1]):
            shape = box_shape(stage.target.box(self.rank))
            places.append(self.list.new(f"{out} stage {number}", shape, layer=tensor.owner))
        places.append(out)
        later: list[Operation] = []
        flies = placed.node.layer.is_tiled and all(stage.kind == "neighbours" for stage in transfer.stages)
        interior = placed.interior(self.rank, index) if flies else None
        if interior is not None and len(transfer.stages) > 1:
            self._keep(tensor, source, out, phase)
        for number, stage in enumerate(transfer.stages):
            made = self.list.stage(stage, False, False, places[number], places[number + 1], tensor.owner, phase)
            if interior is not None:
                if number == 0:
                    self.list.emit(made.pop(0))
                later += made
            else:
                self.list.operations += made
        return None if interior is None else Pending(later, interior)

    def _keep(self, tensor: SharedInput, source: str, out: str, phase: str) -> None:
        """Copy what a rank has of its input already, where several stages bring the rest."""
        transfer = tensor.edge.transfer
        held, needed = transfer.source.box(self.rank), transfer.target.box(self.rank)
        kept = tuple((max(a, c), min(b, d)) for (a, b), (c, d) in zip(held, needed, strict=True))
        index = tuple(slice(a - c, b - c) for (a, b), (c, _) in zip(kept, needed, strict=True))
        shape = tuple(b - a for a, b in kept)
        place = self.list.view(f"{out} kept", out, shape, index)
        cut = tuple(slice(a - c, b - c) for (a, b), (c, _) in zip(kept, held, strict=True))
        self.list.emit(Copy(tensor.owner, phase, (source,), (place,), cut))

    def give_back(self, section: Section, placed: PlacedLayer, index: int, name: str) -> None:
        """Take the gradient of an input as one reader has it; after the last reader's, the adjoint of its movement."""
        tensor = section.shared_inputs[placed.reading(index)]
        tensor.arrived += 1
        if tensor.readers > 1:
            name = self._added(tensor, placed, name, section)
        if tensor.arrived < tensor.readers:
            return
        transfer, source = tensor.edge.transfer, tensor.edge.source
        label = f"{tensor.owner}.d{input_names(tensor.number + 1)[-1]}{section.suffix}"
        place = self.list.inside(name, tensor) if tensor.has_ghosts else name
        for number, stage in enumerate(reversed(transfer.stages)):
            shape = box_shape(stage.source.box(self.rank))
            result = self.list.new(f"{label} back {number}", shape, kind="gradient", layer=tensor.owner)
            self.list.operations += self.list.stage(
                stage, True, transfer.full_sum, place, result, tensor.owner, "backward"
            )
            place = result
        section.gradients.setdefault(source, []).append(place)

    def _added(self, tensor: SharedInput, placed: PlacedLayer, name: str, section: Section) -> str:
        """The sum of the gradients that have arrived from the readers of ``feed``."""
        if tensor.total is None:
            tensor.total = name
            return name
        label = f"{tensor.owner}.d{input_names(tensor.number + 1)[-1]} sum{section.suffix}"
        if tensor.total != label:
            self.list.new(label, tensor.shape, kind="gradient", layer=tensor.owner)
        self.list.emit(Add(tensor.owner, "backward", (tensor.total, name), (label,)))
        tensor.total = label
        return label
