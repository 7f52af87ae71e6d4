"""Layers that run with one set of samples, and their inputs as several readers share them."""

from __future__ import annotations

from gridnn.layout.layout import box_shape
from gridnn.program.fusion import fused_layers
from gridnn.program.placed import PlacedLayer, Reading
from gridnn.program.program import Program
from gridnn.program.regions import Region

FORWARD = -1  # the first run of a section; others recompute the segment of their number
WHOLE = slice(None)


class SharedInput:
    """One tensor as its readers see it: several layers may read the same one."""

    def __init__(self, placed: PlacedLayer, index: int, rank: int) -> None:
        self.edge, self.owner, self.readers, self.number = placed.edges[index], placed.name, 0, index
        ghosts = placed.ghost_widths(rank, index)
        self.box = self.edge.layout.box(rank)
        extents = box_shape(self.box)
        self.shape = tuple(low + size + high for (low, high), size in zip(ghosts, extents, strict=True))
        self.inside = tuple(slice(low, low + size) for (low, _), size in zip(ghosts, extents, strict=True))
        self.has_ghosts = self.shape != extents
        self.value = placed.node.layer.padding_value
        self.arrived = 0
        self.total: str | None = None

    @property
    def slabs(self) -> tuple[Region, ...]:
        """The ghost zones."""
        slabs = []
        for axis, (inside, size) in enumerate(zip(self.inside, self.shape, strict=True)):
            for part in (slice(0, inside.start), slice(inside.stop, size)):
                if part.start < part.stop:
                    slabs.append((*(WHOLE,) * axis, part))
        return tuple(slabs)


class Section:
    """Layers that run with one set of samples: those ``needed`` of a program, or of its stack in one round."""

    def __init__(self, program: Program, rank: int, number: int, fuses: bool, needed: frozenset[str]) -> None:
        self.program, self.number, self.needed = program, number, needed
        self.suffix = f" #{number}" if number else ""
        self.segment = {place: s for s, segment in enumerate(program.segments) for place in segment}
        self.home = {placed.name: self.segment[place] for place, placed in enumerate(program.layers)}
        self.fused, self.makers = fused_layers(program) if fuses else ({}, {})
        self.shared_inputs: dict[Reading, SharedInput] = {}
        for placed in (placed for placed in program.layers if placed.name in needed):
            for i in range(len(placed.edges)):
                key = placed.reading(i)
                if key not in self.shared_inputs:
                    self.shared_inputs[key] = SharedInput(placed, i, rank)
                self.shared_inputs[key].readers += 1
        self.given: dict[str, str] = {}
        self.arrays: dict[tuple[Reading, int], str] = {}  # by reading and run
        self.outputs: dict[tuple[str, int], str] = {}
        self.gradients: dict[str, list[str]] = {}

    def output(self, name: str, run: int) -> str:
        """The buffer with the output of layer ``name``, as it is read in a run."""
        if name in self.given:
            return self.given[name]
        return self.outputs[name, run if run != FORWARD and self.home[name] == run else FORWARD]

    def tag(self, run: int) -> str:
        """What tells the buffers of a run apart."""
        return self.suffix if run == FORWARD else f"{self.suffix} again {run}"
