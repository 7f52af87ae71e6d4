"""The movement of one tensor from one layout to another, planned from integers alone.

A transfer is a linear operator.  It is at most two stages: the partial sums are summed, then the boxes are moved.  Each
stage is of one kind:

==================  ==========================================  ===================
kind                what the layouts look like                  its adjoint
==================  ==========================================  ===================
``local``           everything needed is at hand                ``local``
``all-gather``      divided -> replicated                       ``reduce-scatter``
``reduce-scatter``  partial sums -> divided                     ``all-gather``
``all-reduce``      partial sums -> replicated                  ``all-reduce``
``all-to-all``      divided -> divided along another dimension  ``all-to-all``
``neighbours``      anything else (halos, uneven changes)       ``neighbours``
==================  ==========================================  ===================

A halo over d dimensions goes either to all 3^d - 1 neighbours at once, or dimension after dimension (2 d messages, and
the corners travel along): see `gridnn.layout.halo.halo_stages`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from gridnn.layout.counts import Count
from gridnn.layout.halo import halo_stages
from gridnn.layout.layout import Dim, Layout, common_mesh
from gridnn.layout.partition import Even, Partition
from gridnn.layout.stage import Stage


@dataclass(frozen=True)
class Transfer:
    """The plan of a movement: its stages, and how its adjoint sums."""

    # source, target: where the tensor is and where it must be. Parts of ``source`` do not overlap (between two stages
    # they may, along dimensions that the second one leaves alone), ``target`` has no partial sums
    source: Layout
    target: Layout
    stages: tuple[Stage, ...]  # tuple of Stage: what is done, in this order; nothing for an identity
    # whether the adjoint of an all-gather is the all-reduce of Gholami et al. 2018, eq (8), of which each rank keeps
    # its part, in place of the reduce-scatter
    full_sum: bool = False

    def counts(self, index: int, rows: int, backward: bool = False) -> list[Count]:
        """The words and messages of rank ``index`` on a grid of ``rows`` rows, for the movement or its adjoint."""
        return [c for stage in self.stages for c in stage.counts(index, rows, backward, self.full_sum)]


def plan_transfer(source: Layout, target: Layout, rows: int, full_sum: bool = False, halo: str = "auto") -> Transfer:
    """Plan the movement from ``source`` to ``target`` on a grid of ``rows`` rows.

    ``halo`` is one of `HALOS`: how halos over several dimensions are exchanged.

    Raises
    ------
    ValueError
        If the layouts are of different tensors or different numbers of ranks.

    Examples
    --------
    Ten elements, divided over two ranks of a column, and then held by both:

    >>> divided = Layout((2,), (Dim(Even(10, 2), (0,)),))
    >>> transfer = plan_transfer(divided, Layout.whole((10,), (2,)), rows=2)
    >>> transfer.counts(0, rows=2)
    [Count(kind='all-gather', dimension='column', words=5, messages=1)]
    >>> transfer.counts(0, rows=2, backward=True)
    [Count(kind='reduce-scatter', dimension='column', words=5, messages=1)]
    """
    if source.shape != target.shape:
        raise ValueError(f"a transfer keeps its tensor's shape, but {source.shape} is not {target.shape}")
    grid = (-(-math.prod(source.mesh) // rows), rows)
    mesh = common_mesh(source.mesh, target.mesh, grid) or common_mesh(source.mesh, target.mesh)
    if mesh is None:
        stages = _sum_everywhere(source) + _pairwise(source.summed(), target)
    else:
        stages = _plan(source.refined(mesh), target.refined(mesh))
    if stages and stages[-1].kind == "neighbours":
        stages = (*stages[:-1], *halo_stages(stages[-1], halo))
    return Transfer(source, target, stages, full_sum)


def _plan(source: Layout, target: Layout) -> tuple[Stage, ...]:
    if not source.partial:
        return _move(source, target)
    middle = _scattered(source, target)
    if middle is None:
        return _sum_everywhere(source) + _move(source.summed(), target)
    return (Stage("reduce-scatter", source, middle, source.partial), *_move(middle, target))


def _sum_everywhere(source: Layout) -> tuple[Stage, ...]:
    return (Stage("all-reduce", source, source.summed(), source.partial),) if source.partial else ()


def _scattered(source: Layout, target: Layout) -> Layout | None:
    """``source`` with its partial sums divided where ``target`` divides them, or None if not all of them are."""
    left, dims = set(source.partial), []
    for old, new in zip(source.dims, target.dims, strict=True):
        added = new.mesh_axes[len(old.mesh_axes) :]
        if not added or new.mesh_axes[: len(old.mesh_axes)] != old.mesh_axes or not left.issuperset(added):
            dims.append(old)
            continue
        partition = _nested(old.partition, new.partition, _radix(source, added))
        if partition is None:
            return None
        left.difference_update(added)
        dims.append(Dim(partition, new.mesh_axes))
    return None if left else Layout(source.mesh, tuple(dims))


def _nested(coarse: Partition, wanted: Partition, factor: int) -> Partition | None:
    """``wanted`` if its parts nest in those of ``coarse``, else the even partition if it does (a halo comes after)."""
    for partition in (wanted, Even(coarse.size, coarse.parts * factor)):
        if partition.coarsen(factor) == coarse:
            return partition
    return None


def _radix(layout: Layout, mesh_axes: tuple[int, ...]) -> int:
    return math.prod(layout.mesh[mesh_axis] for mesh_axis in mesh_axes)


def _move(source: Layout, target: Layout) -> tuple[Stage, ...]:
    """The stage between two layouts without partial sums."""
    if source.dims == target.dims:
        return ()
    removed: set[int] = set()
    added: set[int] = set()
    nested = True
    for old, new in zip(source.dims, target.dims, strict=True):
        if old == new:
            continue
        gone, come = old.mesh_axes[len(new.mesh_axes) :], new.mesh_axes[len(old.mesh_axes) :]
        removed.update(gone)
        added.update(come)
        prefix = old.mesh_axes[: len(new.mesh_axes)] == new.mesh_axes[: len(old.mesh_axes)]
        finer, coarser = (old, new) if gone else (new, old)
        factor = _radix(source, gone or come)
        nested &= prefix and factor > 1 and finer.partition.coarsen(factor) == coarser.partition
    group = tuple(sorted(removed))
    if nested and not added:
        return (Stage("all-gather", source, target, group),)
    if nested and not removed:
        return (Stage("local", source, target),)
    if nested and added == removed:
        return (Stage("all-to-all", source, target, group),)
    return _pairwise(source, target)


def _pairwise(source: Layout, target: Layout) -> tuple[Stage, ...]:
    return (Stage("neighbours", source, target),)
