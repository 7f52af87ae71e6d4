"""What OptCNN sees of a network: layers with a configuration each, and which box of a tensor every device has.

Jia, Lin, Qi, Aiken 2018 (arXiv 1802.04924), section 4: a configuration divides the output of a layer evenly over
sample, channel and space; the product of the degrees is the number of devices used, and divides P here. The other
devices are idle. Layers that work element by element are part of the layer that they follow.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from gridnn.layers.base import Cut, Layer, Loss, Shapes
from gridnn.layout.partition import Partition
from gridnn.layout.split import COPIES, Split
from gridnn.network import INPUT, Network, Node
from gridnn.plan.search.space import divisors

AXES = ("n", "d", "h", "w", "co")  # the digits of a device, the slowest first


class Edge(NamedTuple):
    """The tensor that goes from unit ``source`` to unit ``target``, which reads it as its input ``index``."""

    source: int
    target: int
    index: int


@dataclass(frozen=True)
class Unit:
    """A layer with a configuration, and those that follow it.

    Attributes
    ----------
    name : str
        Of the layer.
    members : tuple of (Layer, Shapes)
        The layer first, and its global shapes.
    splits : tuple of Split
        Its configurations, on as many devices as they divide the layer into.
    reads : bool
        Whether its input is the network's, so that nobody asks for the gradient.
    """

    name: str
    members: tuple[tuple[Layer, Shapes], ...]
    splits: tuple[Split, ...]
    reads: bool


def units_of(network: Network, ranks: int, batch: int) -> tuple[list[Unit], list[Edge]]:
    """The units of ``network`` on ``ranks`` devices, in the order in which they run, and the tensors between them."""
    heads: list[list[Node]] = []
    place: dict[str, int] = {}
    edges = []
    for node in network.nodes:
        if node.inputs[0] != INPUT and _follows(node, network.sizes(node, batch)):
            place[node.name] = place[node.inputs[0]]
            heads[place[node.name]].append(node)
            continue
        place[node.name] = len(heads)
        heads.append([node])
        for index, source in enumerate(node.inputs):
            if source != INPUT:
                edges.append(Edge(place[source], place[node.name], index))
    return [_unit(network, nodes, ranks, batch) for nodes in heads], edges


def _follows(node: Node, shapes: Shapes) -> bool:
    """Whether a layer works element by element, or only changes the form (Flatten)."""
    layer = node.layer
    alone = len(node.inputs) == 1 and not layer.windows(shapes) and not layer.contracted(shapes)
    return alone and not isinstance(layer, Loss)


def _unit(network: Network, nodes: Sequence[Node], ranks: int, batch: int) -> Unit:
    members = tuple((node.layer, network.sizes(node, batch)) for node in nodes)
    return Unit(nodes[0].name, members, configurations(members, ranks), INPUT in nodes[0].inputs)


@lru_cache(maxsize=1024)
def configurations(members: tuple[tuple[Layer, Shapes], ...], ranks: int) -> tuple[Split, ...]:
    """The divisions of a layer's output whose product divides ``ranks``, and that it and its followers can have."""
    layer, shapes = members[0]
    axes = layer.output_axes(shapes)
    sizes = dict(zip(axes, shapes.output, strict=True))
    possible = ("n",) if isinstance(layer, Loss) else AXES  # a softmax needs all channels of its samples
    axes = [axis for axis in possible if axis in axes]
    choices = [[parts for parts in divisors(ranks) if parts <= sizes[axis]] for axis in axes]
    found = []
    for parts in itertools.product(*map(reversed, choices)):
        product = int(np.prod(parts))
        if ranks % product == 0:
            split = Split.of(**dict(zip(axes, parts, strict=True)))
            if _can_have(members, split):
                found.append(split)
    return tuple(found)


def _can_have(members: tuple[tuple[Layer, Shapes], ...], split: Split) -> bool:
    """Whether the layer, and those that follow it as far as they have the axes, do not refuse ``split``."""
    for layer, shapes in members:
        axes = layer.axes(shapes)
        try:
            layer.check(shapes, Split(tuple((a if a in axes else COPIES, parts) for a, parts in split.factors)))
        except ValueError:
            return False
    return True


def devices(splits: Sequence[Split], slots: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Which devices each configuration uses, the first ones, and which part of every axis they have: [C, slots]."""
    number = np.arange(slots)
    used = np.stack([number < split.ranks for split in splits])
    parts = {axis: np.zeros((len(splits), slots), dtype=np.int32) for axis in AXES}
    for row, split in enumerate(splits):
        rest = number
        for axis, count in reversed(split.factors):
            parts[axis][row] = rest % count
            rest = rest // count
    return used, parts


def held(unit: Unit, slots: int) -> np.ndarray:
    """The box of the unit's output that every device computes: [dimensions, 2, C, slots]."""
    layer, shapes = unit.members[0]
    return _boxes(unit.splits, slots, [layer.cut_output(shapes, split) for split in unit.splits])


def needed(unit: Unit, index: int, slots: int, shape: tuple[int, ...]) -> np.ndarray:
    """The box of input ``index`` that every device reads, halos included: [dimensions, 2, C, slots].

    ``shape`` is that of the tensor where it is made: after a Flatten every device reads all of its space and channels.
    """
    layer, shapes = unit.members[0]
    boxes = _boxes(unit.splits, slots, [layer.cut_input(index, shapes, split) for split in unit.splits])
    if len(boxes) == len(shape):
        return boxes
    used = devices(unit.splits, slots)[0]
    whole = [np.stack([np.zeros_like(used, dtype=np.int32), np.where(used, size, 0)]) for size in shape[1:]]
    return np.stack([boxes[0], *whole])


def _boxes(splits: Sequence[Split], slots: int, cuts: Sequence[Sequence[Cut]]) -> np.ndarray:
    """The interval of every dimension, configuration and device; empty where a device is idle."""
    used, parts = devices(splits, slots)
    boxes = np.zeros((len(cuts[0]), 2, len(splits), slots), dtype=np.int32)
    for row, dimensions in enumerate(cuts):
        for place, (axis, partition) in enumerate(dimensions):
            which = parts[axis][row] if axis in parts else np.zeros(slots, dtype=np.int32)
            boxes[place, :, row] = _intervals(partition)[np.minimum(which, partition.parts - 1)].T
    return boxes * used


def _intervals(partition: Partition) -> np.ndarray:
    return np.array([partition.interval(part) for part in range(partition.parts)], dtype=np.int32)
