"""The layer-wise search's devices: the configurations of a layer, and which box of a tensor every device has.

Jia, Lin, Qi, Aiken 2018 (arXiv 1802.04924), section 4: a configuration divides the output of a layer evenly over
sample, channel and space; the product of the degrees is the number of devices used, and divides P here. The other
devices are idle. Layers that work element by element are in the group of the layer that they follow.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from gridnn.layers.base import Cut, Loss, Shapes
from gridnn.layout.split import REPLICAS, Split
from gridnn.network import Node
from gridnn.planning.search.arrays import Flags, Numbers
from gridnn.planning.search.groups import LayerGroup
from gridnn.planning.search.space import divisors

Boxes = NDArray[np.int32]  # [dimensions, start and stop, configurations, devices]
AXES = ("n", "d", "h", "w", "co")  # the mesh axes of the devices, the slowest first


def has_configuration(node: Node, shapes: Shapes) -> bool:
    """Whether a layer leads a group: all but those that work element by element, or only change the form (Flatten)."""
    layer = node.layer
    if len(node.inputs) > 1 or node.reads_samples or isinstance(layer, Loss):
        return True
    return bool(layer.windows(shapes) or layer.contracted(shapes))


@lru_cache(maxsize=1024)
def configurations(group: LayerGroup, ranks: int) -> tuple[Split, ...]:
    """The divisions of the leader's output whose product divides ``ranks``, and that it and its followers can have."""
    layer, shapes = group.leader.layer, group.leader.shapes
    axes = layer.output_axes(shapes)
    sizes = dict(zip(axes, shapes.output, strict=True))
    possible = ("n",) if isinstance(layer, Loss) else AXES  # a softmax needs all channels of its samples
    divided = [axis for axis in possible if axis in axes]
    choices = [[parts for parts in divisors(ranks) if parts <= sizes[axis]] for axis in divided]
    found = []
    for parts in itertools.product(*map(reversed, choices)):
        product = int(np.prod(parts))
        if ranks % product == 0:
            split = Split.of(**dict(zip(divided, parts, strict=True)))
            if _can_have(group, split):
                found.append(split)
    return tuple(found)


def _can_have(group: LayerGroup, split: Split) -> bool:
    """Whether the layers of a group, as far as they have the axes, do not refuse ``split``."""
    for one in group.layers:
        axes = one.layer.axes(one.shapes)
        if not one.can_have(Split(tuple((a if a in axes else REPLICAS, parts) for a, parts in split.factors))):
            return False
    return True


def devices(splits: Sequence[Split], slots: int) -> tuple[Flags, dict[str, NDArray[np.int32]]]:
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


def held(group: LayerGroup, splits: Sequence[Split], slots: int) -> Boxes:
    """The box of the leader's output that every device computes: [dimensions, 2, C, slots]."""
    layer, shapes = group.leader.layer, group.leader.shapes
    return _boxes(splits, slots, [layer.cut_output(shapes, split) for split in splits])


def needed(group: LayerGroup, splits: Sequence[Split], index: int, slots: int, shape: tuple[int, ...]) -> Boxes:
    """The box of input ``index`` that every device reads, halos included: [dimensions, 2, C, slots].

    ``shape`` is that of the tensor where it is made: after a Flatten every device reads all of its space and channels.
    """
    layer, shapes = group.leader.layer, group.leader.shapes
    boxes = _boxes(splits, slots, [layer.cut_input(index, shapes, split) for split in splits])
    if len(boxes) == len(shape):
        return boxes
    used = devices(splits, slots)[0]
    whole = [np.stack([np.zeros_like(used, dtype=np.int32), np.where(used, size, 0)]) for size in shape[1:]]
    return np.stack([boxes[0], *whole])


def _boxes(splits: Sequence[Split], slots: int, cuts: Sequence[Sequence[Cut]]) -> Boxes:
    """The interval of every dimension, configuration and device; empty where a device is idle."""
    used, parts = devices(splits, slots)
    boxes = np.zeros((len(cuts[0]), 2, len(splits), slots), dtype=np.int32)
    for row, dimensions in enumerate(cuts):
        for place, (axis, partition) in enumerate(dimensions):
            which = parts[axis][row] if axis in parts else np.zeros(slots, dtype=np.int32)
            intervals = np.array([partition.interval(part) for part in range(partition.parts)], dtype=np.int32)
            boxes[place, :, row] = intervals[np.minimum(which, partition.parts - 1)].T
    return boxes * used


def volume(boxes: Boxes) -> Numbers:
    """The elements of boxes [dimensions, 2, ...]."""
    elements: Numbers = np.prod(np.maximum(boxes[:, 1] - boxes[:, 0], 0), axis=0, dtype=float)
    return elements


def near(have: Boxes, need: Boxes, unit: int) -> tuple[Numbers, Numbers]:
    """The elements that a device reads from its unit of devices, and that its unit reads from it: [C_u, C_v, P]."""
    ranks = have.shape[-1]
    by_unit = (*have.shape[:3], ranks // unit, unit)
    source = have.reshape(by_unit)[:, :, :, None, :, :, None]
    by_unit = (*need.shape[:3], ranks // unit, unit)
    target = need.reshape(by_unit)[:, :, None, :, :, None, :]
    shared = np.ones(1)
    for (start, stop), (first, last) in zip(source, target, strict=True):
        shared = shared * np.maximum(np.minimum(stop, last) - np.maximum(start, first), 0)
    shape = (*shared.shape[:2], ranks)
    return shared.sum(axis=-2).reshape(shape), shared.sum(axis=-1).reshape(shape)


def sent(have: Boxes, need: Boxes, splits: Sequence[Split]) -> Numbers:
    """The elements of every device's part that all devices together read: [C_u, C_v, P].

    The devices in use have every combination of parts once, and a dimension depends on the part of one axis, so that
    the mean over them of the product is the product of the means.
    """
    out = np.tile(np.array([float(split.ranks) for split in splits])[:, None], (have.shape[2], 1, have.shape[3]))
    for (start, stop), target in zip(have[..., None], need, strict=True):
        known: dict[tuple[tuple[int, int], ...], Numbers] = {}
        for column, split in enumerate(splits):
            first, last = target[:, column, : split.ranks]
            key = tuple(sorted(zip(first.tolist(), last.tolist(), strict=True)))
            if key not in known:
                known[key] = np.maximum(np.minimum(stop, last) - np.maximum(start, first), 0).mean(axis=-1)
            out[:, column] *= known[key]
    return out
