"""What changes from step to step of a run, moved in memory to another grid."""

from __future__ import annotations

from collections.abc import Mapping

from gridnn.comm.grid import Grid
from gridnn.comm.reshard import Parts, reshard
from gridnn.train.checkpoint import Tensor


def move_tensors(tensors: Mapping[str, Tensor], before: Grid, targets: Mapping[str, Tensor], grid: Grid) -> None:
    """Fill ``targets``, of ``grid``, with the ``tensors`` of the same ranks on the grid ``before``; all call it."""
    holders = {place: (grid.shape.index(rank),) for place, rank in enumerate(before.shape.ranks)}
    for name, target in targets.items():
        tensor = tensors[name]
        parts = Parts(tensor.layout, holders, {before.index: tensor.array})
        reshard(parts, target.layout, target.array, grid)
