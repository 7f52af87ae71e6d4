"""How tensors come to their readers, and gradients back: the transfers of a program as operations."""

from __future__ import annotations

from typing import NamedTuple

from gridnn.layers.computation import Index
from gridnn.layers.computation import inputs as input_names
from gridnn.layout.layout import box_shape
from gridnn.program.listing import Listing
from gridnn.program.schedule import Add, Copy, Operation
from gridnn.program.section import FORWARD, WHOLE, Feed, Section
from gridnn.program.step import Step


class Pending(NamedTuple):
    """An input that is under way: what ends it, and the part of the reader's output that can be computed before."""

    operations: list[Operation]
    interior: Index


class Inputs:
    """The inputs of all layers, whose operations go to ``listing``."""

    def __init__(self, listing: Listing) -> None:
        self.list, self.rank = listing, listing.rank

    def array(self, section: Section, step: Step, index: int, run: int) -> str:
        key = step.reading(index)
        return section.arrays[key, run] if (key, run) in section.arrays else section.arrays[key, FORWARD]

    def read(self, section: Section, place: int, index: int, run: int) -> tuple[str, Pending | None]:
        """The buffer with input ``index`` of a layer; its movement is emitted at its first reader."""
        step = section.program.steps[place]
        key = step.reading(index)
        feed = section.feeds[key]
        if feed.edge.reads_samples:
            return section.arrays[key, FORWARD], None
        if (key, run) in section.arrays:
            return section.arrays[key, run], None
        source, transfer = section.output(feed.edge.source, run), feed.edge.transfer
        if not transfer.stages and not feed.has_ghosts:
            section.arrays[key, run] = source
            return source, None
        phase, tag = "forward" if run == FORWARD else "recompute", section.tag(run)
        name = f"{feed.owner}.{input_names(feed.number + 1)[-1]}{tag}"
        self.list.new(name, feed.shape, kind="ghosted" if feed.has_ghosts else "activation", layer=feed.owner)
        section.arrays[key, run] = name
        out = self.list.inside(name, feed)
        self.list.ghosts(feed, name, feed.owner, phase)
        if not transfer.stages:
            self.list.emit(Copy(feed.owner, phase, (source,), (out,), (WHOLE,) * len(feed.shape)))
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
            places.append(self.list.new(f"{out} stage {number}", shape, layer=feed.owner))
        places.append(out)
        later: list[Operation] = []
        flies = step.node.layer.is_tiled and all(stage.kind == "neighbours" for stage in transfer.stages)
        interior = step.interior(self.rank, index) if flies else None
        if interior is not None and len(transfer.stages) > 1:
            self._keep(feed, source, out, phase)
        for number, stage in enumerate(transfer.stages):
            made = self.list.stage(stage, False, False, places[number], places[number + 1], feed.owner, phase)
            if interior is not None:
                if number == 0:
                    self.list.emit(made.pop(0))
                later += made
            else:
                self.list.operations += made
        return None if interior is None else Pending(later, interior)

    def _keep(self, feed: Feed, source: str, out: str, phase: str) -> None:
        """Copy what a rank has of its input already, where several stages bring the rest."""
        transfer = feed.edge.transfer
        held, needed = transfer.source.box(self.rank), transfer.target.box(self.rank)
        kept = tuple((max(a, c), min(b, d)) for (a, b), (c, d) in zip(held, needed, strict=True))
        index = tuple(slice(a - c, b - c) for (a, b), (c, _) in zip(kept, needed, strict=True))
        shape = tuple(b - a for a, b in kept)
        place = self.list.view(f"{out} kept", out, shape, index)
        cut = tuple(slice(a - c, b - c) for (a, b), (c, _) in zip(kept, held, strict=True))
        self.list.emit(Copy(feed.owner, phase, (source,), (place,), cut))

    def give_back(self, section: Section, step: Step, index: int, name: str) -> None:
        """Take the gradient of an input as one reader has it; after the last reader's, the adjoint of its movement."""
        feed = section.feeds[step.reading(index)]
        feed.arrived += 1
        if feed.readers > 1:
            name = self._added(feed, step, name, section)
        if feed.arrived < feed.readers:
            return
        transfer, source = feed.edge.transfer, feed.edge.source
        label = f"{feed.owner}.d{input_names(feed.number + 1)[-1]}{section.suffix}"
        place = self.list.inside(name, feed) if feed.has_ghosts else name
        for number, stage in enumerate(reversed(transfer.stages)):
            shape = box_shape(stage.source.box(self.rank))
            result = self.list.new(f"{label} back {number}", shape, kind="gradient", layer=feed.owner)
            self.list.operations += self.list.stage(
                stage, True, transfer.full_sum, place, result, feed.owner, "backward"
            )
            place = result
        section.gradients.setdefault(source, []).append(place)

    def _added(self, feed: Feed, step: Step, name: str, section: Section) -> str:
        """The sum of the gradients that have arrived from the readers of ``feed``."""
        if feed.total is None:
            feed.total = name
            return name
        label = f"{feed.owner}.d{input_names(feed.number + 1)[-1]} sum{section.suffix}"
        if feed.total != label:
            self.list.new(label, feed.shape, kind="gradient", layer=feed.owner)
        self.list.emit(Add(feed.owner, "backward", (feed.total, name), (label,)))
        feed.total = label
        return label
