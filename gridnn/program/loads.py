"""What a pass begins with: this rank's boxes of samples and targets."""

from __future__ import annotations

from collections.abc import Sequence

from gridnn.layers.base import Loss
from gridnn.layout.layout import Box, box_shape
from gridnn.network import INPUT
from gridnn.program.listing import Listing
from gridnn.program.schedule import Copy, InputPart, Load
from gridnn.program.section import FORWARD, Section


class Loads:
    """The first operation of a schedule, which goes to ``listing``; ``with_target`` where a loss is computed."""

    def __init__(self, listing: Listing, with_target: bool) -> None:
        self.list, self.rank, self.with_target = listing, listing.rank, with_target

    def load(self, sections: Sequence[Section]) -> tuple[tuple[InputPart, ...], Box | None]:
        """Begin the pass: gives what of samples and targets this rank holds."""
        front, loss = sections[0], self.list.program.layers[-1]
        names: list[str] = []
        parts: list[InputPart] = []
        known = self.list.program.network.inputs
        for key, tensor in front.shared_inputs.items():
            source = tensor.edge.source
            if tensor.edge.reads_samples:
                again = sum(part.source == source for part in parts)  # other layers that read it in another way
                name, dtype = f"{source} {again}" if again else source, known[source].dtype
                self.list.new(name, tensor.shape, dtype, "input", source)
                front.arrays[key, FORWARD] = name
                names.append(self.list.inside(name, tensor))
                parts.append(InputPart(source, tensor.box, dtype))
                self.list.ghosts(tensor, name, source, "forward")
        box = None
        if isinstance(loss.node.layer, Loss) and self.with_target:
            box = self._target_box(sections[-1])
            spec = loss.node.layer.target(box_shape(box))
            names.append(self.list.new("target", spec.shape, spec.dtype, "input", INPUT))
        self.list.operations.insert(0, Load(INPUT, "forward", (), tuple(names)))
        return tuple(parts), box

    def _target_box(self, section: Section) -> Box:
        """The part of the targets that this rank compares with, in all microbatches together."""
        loss, microbatch = section.program.layers[-1], section.program.microbatch
        box = loss.edges[0].layout.box(self.rank)
        if microbatch is None:
            return box
        return (microbatch.block(loss.split.parts("n"), loss.part(self.rank, "n")), *box[1:])

    def target(self, section: Section) -> str:
        """The buffer with the targets of a section: of a round its samples, in their order."""
        microbatch = section.program.microbatch
        if microbatch is None:
            return "target"
        loss, whole = section.program.layers[-1], self.list.buffers["target"]
        parts, part = loss.split.parts("n"), loss.part(self.rank, "n")
        offset = microbatch.block(parts, part)[0]
        places = [slice(start - offset, stop - offset) for start, stop in microbatch.samples(parts, part)]
        size = sum(place.stop - place.start for place in places)
        if len(places) == 1:
            return self.list.view(f"target{section.suffix}", "target", (size, *whole.shape[1:]), (places[0],))
        name = self.list.new(f"target{section.suffix}", (size, *whole.shape[1:]), whole.dtype, "input", INPUT)
        start = 0
        for number, place in enumerate(places):
            shape = (place.stop - place.start, *whole.shape[1:])
            part_name = self.list.view(f"{name} {number}", name, shape, (slice(start, start + shape[0]),))
            self.list.emit(Copy(loss.name, "forward", ("target",), (part_name,), (place,)))
            start += shape[0]
        return name

    def seed(self, section: Section) -> str:
        """Where the gradient of the last layer's output is loaded, of a program without a loss."""
        placed = section.program.layers[-1]
        name = self.list.new(
            f"{placed.name}.dy", box_shape(placed.output.box(self.rank)), kind="input", layer=placed.name
        )
        load = self.list.operations[0]
        self.list.operations[0] = Load(INPUT, "forward", (), (*load.writes, name))
        return name
