"""One layer of a program: its split, the layouts of all its tensors, and the transfers of its inputs; pure integers."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from gridnn.layers.base import Cut, Parameter, Shapes
from gridnn.layout.group import Group
from gridnn.layout.layout import Dim, Layout, box_size, common, within
from gridnn.layout.partition import Even, Window, window_ghosts
from gridnn.layout.split import Split
from gridnn.layout.stage import Stage
from gridnn.layout.transfer import Transfer
from gridnn.network import Node, Shared

GhostWidths = tuple[tuple[int, int], ...]
Region = tuple[slice, ...]
Reading = tuple[str, Layout, tuple[tuple[str, Window], ...], float]  # see `PlacedLayer.reading`


@dataclass(frozen=True)
class Edge:
    """One input of a layer: where it comes from, what it must look like, and the transfer between.

    ``reads_samples``: the source is an input of the network, which every rank reads as it needs it; nothing moves.
    """

    source: str
    layout: Layout
    transfer: Transfer
    needs_gradient: bool
    reads_samples: bool = False


@dataclass(frozen=True)
class PlacedLayer:
    """One layer of the program.

    Attributes
    ----------
    weights : dict
        The parameters that it has for itself, with their layouts.
    shared : dict
        Those that are another layer's: which, with the layouts that they have here.
    frozen : frozenset of str
        Those of ``weights`` and ``shared`` that are not trained.
    """

    node: Node
    split: Split
    shapes: Shapes
    output: Layout
    edges: tuple[Edge, ...]
    weights: dict[str, tuple[Parameter, Layout]]
    states: dict[str, tuple[Parameter, Layout]]
    shared: dict[str, tuple[Shared, Parameter, Layout]] = field(default_factory=dict)
    frozen: frozenset[str] = frozenset()

    @property
    def trained(self) -> dict[str, tuple[Parameter, Layout]]:
        """Those of ``weights`` that are trained."""
        return {name: one for name, one in self.weights.items() if name not in self.frozen}

    @property
    def layouts(self) -> dict[str, Layout]:
        """Of all parameters that it computes with."""
        own = {name: layout for name, (_, layout) in self.weights.items()}
        return own | {name: layout for name, (_, _, layout) in self.shared.items()}

    @property
    def learns(self) -> bool:
        """Whether it has a gradient for some parameter."""
        return not self.frozen.issuperset((*self.weights, *self.shared))

    @property
    def name(self) -> str:
        """The name of the layer."""
        return self.node.name

    def part(self, index: int, axis: str) -> int:
        """Which part of ``axis`` rank ``index`` has."""
        return self.output.part(index, self.split.mesh_axes(axis))

    def ghost_widths(self, index: int, edge: int) -> GhostWidths:
        """The padding before and after every dimension of input ``edge`` on rank ``index``."""
        windows = self.node.layer.windows(self.shapes)
        outputs = dict(zip(self.node.layer.output_axes(self.shapes), self.output.box(index), strict=True))
        axes = self.node.layer.input_axes(edge, self.shapes)
        held = self.edges[edge].layout.box(index)
        return tuple(
            window_ghosts(windows[axis], outputs[axis], interval) if axis in windows else (0, 0)
            for axis, interval in zip(axes, held, strict=True)
        )

    def interior(self, index: int, edge: int) -> Region | None:
        """The part of the output, from its own start on, that rank ``index`` can compute before a halo arrives.

        Its windows lie on what the rank has itself and on padding. None if there is no such part, or no halo.
        """
        windows, transfer = self.node.layer.windows(self.shapes), self.edges[edge].transfer
        needed = transfer.target.box(index)
        kept = common(transfer.source.box(index), needed)
        outputs = dict(zip(self.node.layer.output_axes(self.shapes), self.output.box(index), strict=True))
        axes = self.node.layer.input_axes(edge, self.shapes)
        inside = dict(outputs)
        for axis, size, has, needs in zip(axes, self.shapes.inputs[edge], kept, needed, strict=True):
            if axis in windows:
                inside[axis] = windows[axis].covered(has, size, outputs[axis])
            elif has != needs:
                return None
        if inside == outputs or box_size(tuple(inside.values())) == 0:
            return None
        return within(tuple(inside.values()), tuple(outputs.values()))

    def reading(self, edge: int) -> Reading:
        """What input ``edge`` looks like here, padding included: layers that read a tensor alike share one transfer."""
        return self._readings[edge]

    @cached_property
    def _readings(self) -> tuple[Reading, ...]:
        windows = tuple(self.node.layer.windows(self.shapes).items())
        return tuple((edge.source, edge.layout, windows, self.node.layer.padding_value) for edge in self.edges)

    def group(self, index: int, axes: tuple[str, ...]) -> Group:
        """The ranks that divide ``axes`` with rank ``index``."""
        return group_of(self.output, self.split.mesh_axes(*axes), index)


def layout_of(split: Split, cuts: tuple[Cut, ...], partial: tuple[int, ...] = ()) -> Layout:
    """The layout of a tensor whose dimensions a split cuts in this way."""
    dims = (Dim(c.partition, split.mesh_axes(c.axis) if c.axis and c.partition.parts > 1 else ()) for c in cuts)
    return Layout(split.mesh, tuple(dims), partial)


def group_of(layout: Layout, mesh_axes: tuple[int, ...], index: int) -> Group:
    """The ranks that differ from rank ``index`` in ``mesh_axes`` only."""
    return Stage("all-reduce", layout, layout, mesh_axes).members(index)


def parameter_cuts(parameter: Parameter, split: Split) -> tuple[Cut, ...]:
    """How a split cuts a parameter: evenly along the axes that it has."""
    return tuple(
        Cut(axis, Even(size, split.parts(axis) if axis else 1))
        for axis, size in zip(parameter.axes, parameter.shape, strict=True)
    )
