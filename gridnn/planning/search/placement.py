"""Where the axes of every layer of a group lie in the ranks, for all configurations of its leader at once."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gridnn.layout.split import REPLICAS, ordered_axes
from gridnn.planning.search.groups import LayerGroup
from gridnn.planning.search.space import MeshAxis, Space

UNDIVIDED = MeshAxis(np.ones(1, np.int64), np.ones(1, np.int64))
Placement = dict[str, MeshAxis]


def placements(group: LayerGroup, space: Space) -> list[Placement]:
    """The mesh axis of every axis, and of the replicas, of every layer, for all configurations of the leader."""
    found: list[Placement] = []
    for one in group.layers:
        if one.source is None:
            own = one.layer.axes(one.shapes)
            found.append({**space.mesh_axes, **{axis: UNDIVIDED for axis in own if axis not in space.mesh_axes}})
            continue
        placement = dict(found[one.source])
        placement["co"], placement["ci"] = merge_axes(placement["co"], placement["ci"]), UNDIVIDED
        axes = one.layer.axes(one.shapes)
        placement.update({axis: UNDIVIDED for axis in (*placement, *axes) if axis not in axes and axis != REPLICAS})
        found.append(placement)
    return found


def merge_axes(*axes: MeshAxis) -> MeshAxis:
    """Neighbouring mesh axes as one."""
    far = np.iinfo(np.int64).max
    start, parts = np.full(1, far), UNDIVIDED.parts
    for one in axes:
        start = np.minimum(start, np.where(one.parts > 1, one.start, far))
        parts = parts * one.parts
    return MeshAxis(np.where(parts > 1, start, 1), parts)


def replica_axes(placement: Mapping[str, MeshAxis], used: tuple[str | None, ...]) -> tuple[MeshAxis, ...]:
    """The mesh axes of all axes that are not ``used``, that of the replicas among them."""
    return tuple(
        placement[axis] for axis in ordered_axes(placement) if axis not in used and (placement[axis].parts > 1).any()
    )
