"""network + plan + batch -> who computes what and what must move: pure integers, without MPI.

What is run, counted, priced and explained is the schedule that `gridnn.program.build` makes of it for one rank.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from gridnn.errors import UserError
from gridnn.layers.base import Cut, Loss, Shapes
from gridnn.layout.group import Group
from gridnn.layout.layout import Layout, box_size, common_mesh
from gridnn.layout.partition import Even
from gridnn.layout.split import Split
from gridnn.layout.transfer import Transfer, plan_transfer
from gridnn.network import Network, Node
from gridnn.planning.plan import Plan
from gridnn.planning.splitbrain import stack_start
from gridnn.program.microbatches import ConnectedLayers, Microbatch
from gridnn.program.placed import Edge, PlacedLayer, group_of, layout_of, parameter_cuts

BUCKET_WORDS = 2**20  # gradients are summed in pieces of about this many: large enough to be bound by bandwidth


class Program:
    """A network on a grid, compiled for one size of the batch.

    Parameters
    ----------
    network : Network
        The serial network; its last layer may be a loss.
    plan : Plan
        The grid and a split for every layer.
    batch : int
        B, the global number of samples.

    Raises
    ------
    UserError
        If a split does not fit its layer; the text names the layer.
    """

    _connected: ConnectedLayers | None

    def __init__(self, network: Network, plan: Plan, batch: int) -> None:
        self._begin(network, plan, batch)
        start = stack_start(network) if plan.microbatches > 1 else None
        for node in network.nodes[:start]:
            self._add(node)
        if start is not None:
            source = network.nodes[start].inputs[0]
            self._connected = ConnectedLayers(
                start, source, self._layouts[source], self._gradient[source], plan.microbatches
            )
            self._add_connected(self._connected, max(self._connected.microbatches, key=lambda one: one.size))
        read = {source for node in network.nodes for source in node.inputs} | set(network.outputs)
        for node in network.nodes[:-1]:
            if node.name not in read:
                raise UserError(
                    f"layer {node.name!r}: no layer reads its output, and it is not the last one; remove it, or let "
                    "Network.give name it"
                )

    def _begin(self, network: Network, plan: Plan, batch: int) -> None:
        self.network, self.plan, self.batch = network, plan, batch
        self.rows, self.ranks = plan.grid.rows, plan.grid.size
        self.layers: list[PlacedLayer] = []
        self.microbatch: Microbatch | None = None  # the samples of the layers that run in microbatches
        self._connected = None
        self._gradient: dict[str, bool] = dict.fromkeys(network.inputs, False)
        self._layouts: dict[str, Layout] = {}
        self._transfers: dict[tuple[Layout, Layout], Transfer] = {}

    def _add_connected(self, connected: ConnectedLayers, microbatch: Microbatch) -> None:
        """Add the layers that run in microbatches, for the samples of one of these."""
        self.microbatch = microbatch
        self._gradient[connected.source] = connected.needs_gradient
        self._layouts[connected.source] = connected.read_layout(microbatch)
        for node in self.network.nodes[connected.start :]:
            self._add(node)

    def _add(self, node: Node) -> None:
        shapes = self.network.sizes(node, self.microbatch.size if self.microbatch else self.batch)
        split, layer = self.plan.splits[node.name], node.layer
        try:
            layer.check(shapes, split)
            cuts = self._cuts(layer.cut_output(shapes, split))
            output = layout_of(split, cuts, split.mesh_axes(*layer.contracted(shapes)))
            edges = tuple(self._edge(node, i, source, shapes, split) for i, source in enumerate(node.inputs))
        except UserError as error:
            raise UserError(f"layer {node.name!r}: {error}") from error
        weights, states = (
            {name: (p, layout_of(split, parameter_cuts(p, split))) for name, p in tensors.items()}
            for tensors in (layer.weights(shapes), layer.states(shapes))
        )
        shared = {name: (whose, *weights.pop(name)) for name, whose in node.shared.items()}
        keys = {name: f"{node.name}.{name}" for name in weights}
        keys |= {name: f"{whose.layer}.{whose.name}" for name, whose in node.shared.items()}
        frozen = frozenset(name for name, key in keys.items() if key in self.network.frozen)
        placed = PlacedLayer(node, split, shapes, output, edges, weights, states, shared, frozen)
        self._check_shared(placed)
        self._layouts[node.name] = output
        self._gradient[node.name] = placed.learns or any(self._gradient[source] for source in node.inputs)
        self.layers.append(placed)

    def _check_shared(self, placed: PlacedLayer) -> None:
        """Refuse splits that cut a shared parameter otherwise than its owner's: every rank uses the part it has."""
        for name, (whose, _, layout) in placed.shared.items():
            owner = next(other for other in self.layers if other.name == whose.layer)
            own = owner.weights[whose.name][1]
            there = Layout(own.mesh, own.dims[::-1]) if whose.transposed else own
            mesh = common_mesh(layout.mesh, there.mesh)
            if mesh is None or layout.refined(mesh) != there.refined(mesh):
                raise UserError(
                    f"layer {placed.name!r}: its {name} is {whose}, but its split {placed.split} and {owner.split} of "
                    f"{owner.name!r} cut it in different ways: give both layers splits that leave it whole, or cut it "
                    "alike (--plan)"
                )

    def _edge(self, node: Node, index: int, source: str, shapes: Shapes, split: Split) -> Edge:
        layout = layout_of(split, self._cuts(node.layer.cut_input(index, shapes, split)))
        if node.samples[index]:
            return Edge(source, layout, Transfer(layout, layout, ()), False, True)
        transfer = self._transfer(self._layouts[source], layout)
        return Edge(source, transfer.target, transfer, self._gradient[source])

    def _transfer(self, source: Layout, target: Layout) -> Transfer:
        """Layers that are alike share theirs, and what it remembers."""
        if (source, target) not in self._transfers:
            made = plan_transfer(source, target, self.rows, self.plan.full_sum, self.plan.halo)
            self._transfers[source, target] = made
        return self._transfers[source, target]

    def _cuts(self, cuts: tuple[Cut, ...]) -> tuple[Cut, ...]:
        """``cuts`` with the samples of a microbatch as they come, not evenly."""
        if self.microbatch is None:
            return cuts
        return tuple(Cut("n", self.microbatch.over(c.partition.parts)) if c.axis == "n" else c for c in cuts)

    @cached_property
    def sections(self) -> tuple[Program, ...]:
        """What runs in turn: this program; or the layers before the stack, and the stack on each microbatch."""
        if self._connected is None:
            return (self,)
        repeated = (ProgramSection(self, self._connected, one) for one in self.microbatches)
        return (ProgramSection(self, self._connected, None), *repeated)

    @property
    def microbatches(self) -> tuple[Microbatch, ...]:
        """The samples of every round of the stack, if there is one."""
        return self._connected.microbatches if self._connected else ()

    @cached_property
    def segments(self) -> tuple[range, ...]:
        """The layers in runs whose activations are kept together: all of them, or about sqrt(N) runs to be recomputed.

        With recomputation only what a later segment reads outlives the forward pass of a segment; the last one goes
        straight on into its backward pass (Chen et al. 2016, arXiv 1604.06174, section 3). Segments have about as many
        elements of activations each.
        """
        if not self.plan.recompute:
            return (range(len(self.layers)),)
        sizes = [math.prod(placed.shapes.output) for placed in self.layers]
        share = sum(sizes) / math.ceil(math.sqrt(len(sizes)))
        ends: list[int] = []
        total = 0
        for place, size in enumerate(sizes, 1):
            total += size
            if total >= share * (len(ends) + 1) or place == len(sizes):
                ends.append(place)
        return tuple(range(start, stop) for start, stop in itertools.pairwise([0, *ends]))

    @property
    def loss(self) -> PlacedLayer:
        """The last layer, a loss."""
        assert isinstance(self.layers[-1].node.layer, Loss)
        return self.layers[-1]

    def repeats(self, place: int) -> int:
        """How often step ``place`` runs in one pass: the layers of the stack once a round."""
        return len(self.microbatches) if self._connected and place >= self._connected.start else 1

    def buckets(self, index: int) -> list[Bucket]:
        """The gradient sums of rank ``index``, in the order in which backward completes them.

        Consecutive gradients that are summed over the same ranks go together until they are `BUCKET_WORDS` long.
        """
        open_buckets: dict[Group, list[Gradient]] = {}
        done: list[Bucket] = []
        for placed in reversed(self.layers):
            for name, (_, layout) in reversed(placed.trained.items()):
                members = group_of(layout, layout.replicas, index)
                entries = open_buckets.setdefault(members, [])
                entries.append(Gradient(placed.name, name, box_size(layout.box(index))))
                if sum(gradient.size for gradient in entries) >= BUCKET_WORDS:
                    done.append(Bucket(members, tuple(open_buckets.pop(members))))
        done.extend(Bucket(members, tuple(entries)) for members, entries in open_buckets.items())
        return done


class ProgramSection(Program):
    """A part of a program as a program of its own: the layers before the stack, or the stack in one round."""

    def __init__(self, whole: Program, connected: ConnectedLayers, microbatch: Microbatch | None) -> None:
        self._begin(whole.network, whole.plan, whole.batch)
        if microbatch is None:
            self.layers = whole.layers[: connected.start]
        else:
            self._add_connected(connected, microbatch)


def pass_sizes(batch: int, accumulate: int) -> list[int]:
    """The samples of every pass of a batch; passes without samples are left out."""
    even = Even(batch, accumulate)
    return [even.extent(i) for i in range(accumulate) if even.extent(i)]


def pass_programs(network: Network, plan: Plan, sizes: Sequence[int]) -> list[Program]:
    """The programs of passes of so many samples (see `pass_sizes`); passes of equal size share one."""
    made = {size: Program(network, plan, size) for size in set(sizes)}
    return [made[size] for size in sizes]


@dataclass(frozen=True)
class Gradient:
    """The gradient of one trained tensor on one rank."""

    layer: str
    name: str
    size: int


@dataclass(frozen=True)
class Bucket:
    """Gradients that are summed over ``members`` in one call."""

    members: Group
    gradients: tuple[Gradient, ...]
