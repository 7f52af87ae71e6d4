"""A network as a graph of layer groups: in each one layer has a choice, and the others take what it leaves them.

Every search works on this graph; they differ in which layers have a choice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gridnn.errors import UserError
from gridnn.layers import Flatten
from gridnn.layers.base import Layer, Loss, Shapes
from gridnn.layout.split import Split
from gridnn.network import Network, Node
from gridnn.planning.search.space import divisors


@dataclass(frozen=True)
class GroupLayer:
    """One layer of a group, without its name, so that equal groups compare equal."""

    # layer, shapes: the layer and its global shapes
    layer: Layer
    shapes: Shapes
    # the place in the group of the layer that it reads; None: of the leader, which reads other groups
    source: int | None
    is_first: bool  # whether it reads the network's input
    input_gradients: tuple[bool, ...]  # whether the gradient of each input is computed

    @property
    def has_gradient(self) -> bool:
        """Whether the gradient of its output is computed."""
        return any(self.input_gradients) or bool(self.layer.weights(self.shapes))

    @property
    def sizes(self) -> dict[str, int]:
        """The global extent of every axis."""
        return self.layer.extents(self.shapes)

    def can_have(self, split: Split) -> bool:
        """Whether the layer does not refuse ``split``."""
        try:
            self.layer.check(self.shapes, split)
        except UserError:
            return False
        return True


@dataclass(frozen=True)
class LayerGroup:
    """A layer with a choice and the layers that follow it, in the order in which they run."""

    layers: tuple[GroupLayer, ...]

    @property
    def leader(self) -> GroupLayer:
        """The layer with the choice."""
        return self.layers[0]


@dataclass(frozen=True)
class GroupEdge:
    """A tensor that goes from layer ``place`` of group ``source`` to input ``index`` of the leader of ``target``."""

    source: str
    place: int
    target: str
    index: int


@dataclass(frozen=True)
class GroupGraph:
    """The groups of a network by the names of their leaders, the tensors between them, the names of their layers."""

    groups: dict[str, LayerGroup]
    edges: tuple[GroupEdge, ...]
    names: dict[str, tuple[str, ...]]


def group_layers(network: Network, batch: int, has_choice: Callable[[Node, Shapes], bool] | None = None) -> GroupGraph:
    """The graph of layer groups of ``network``.

    ``has_choice`` says whether a layer leads a group; one that does not has one input, and it is another layer's
    output. Without it, leaders are layers that multiply by weights, that have several inputs or read the network's
    input, Flatten and the loss; the others follow their input as `gridnn.planning.propagate.propagate` lets them.
    """
    has_choice = has_choice or _divides_by_choice
    layers: dict[str, list[GroupLayer]] = {}
    names: dict[str, list[str]] = {}
    home: dict[str, tuple[str, int]] = {}
    trained = dict.fromkeys(network.inputs, False)
    edges = []
    for node in network.nodes:
        shapes = network.sizes(node, batch)
        is_leader = has_choice(node, shapes)
        group, source = (node.name, None) if is_leader else home[node.inputs[0]]
        gradients = tuple(trained[name] for name in node.inputs)
        layer = GroupLayer(node.layer, shapes, source, node.reads_samples, gradients)
        trained[node.name] = layer.has_gradient
        layers.setdefault(group, []).append(layer)
        names.setdefault(group, []).append(node.name)
        home[node.name] = group, len(layers[group]) - 1
        if is_leader:
            edges += [GroupEdge(*home[name], group, i) for i, name in enumerate(node.inputs) if not node.samples[i]]
    groups = {name: LayerGroup(tuple(members)) for name, members in layers.items()}
    return GroupGraph(groups, tuple(edges), {name: tuple(members) for name, members in names.items()})


def _divides_by_choice(node: Node, shapes: Shapes) -> bool:
    if len(node.inputs) > 1 or node.reads_samples or isinstance(node.layer, Flatten | Loss):
        return True
    return node.layer.multiplies(shapes)


def allowed_parts(group: LayerGroup, ranks: int) -> dict[str, frozenset[int]]:
    """The numbers of parts, divisors of P, that every axis of the leader may have, alone.

    More parts than elements, of the leader or of a layer that follows it, are left out, and what a layer refuses.
    """
    may = {axis: set(divisors(ranks)) for axis in group.leader.layer.axes(group.leader.shapes)}
    for place, layer in enumerate(group.layers):
        for axis, size in layer.sizes.items():
            for own in ("co", "ci") if place and axis == "co" else (axis,):
                if own in may:
                    may[own] = {
                        parts for parts in may[own] if parts <= size and layer.can_have(Split.of(**{axis: parts}))
                    }
    return {axis: frozenset(parts) for axis, parts in may.items()}


def allowed_channel_parts(group: LayerGroup, ranks: int) -> frozenset[int]:
    """The numbers of parts that out- and in-channels may have together: what they leave, the followers have of co."""
    may = set(divisors(ranks))
    for layer in group.layers[1:]:
        if "co" in layer.layer.axes(layer.shapes):
            size = layer.sizes["co"]
            may = {parts for parts in may if parts <= size and layer.can_have(Split.of(co=parts))}
    return frozenset(may)
