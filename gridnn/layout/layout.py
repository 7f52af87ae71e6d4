"""Which rank holds which box of a tensor, and whether its copies are replicas or partial sums: pure integers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from gridnn.errors import UserError
from gridnn.layout.partition import Even, Interval, Partition, intersect
from gridnn.layout.split import coordinates_of, index_at

Box = tuple[Interval, ...]

KEPT = 64  # boxes that a layout remembers


def box_shape(box: Box) -> tuple[int, ...]:
    """The number of elements along every dimension of ``box``."""
    return tuple([stop - start for start, stop in box])


def box_size(box: Box) -> int:
    """The number of elements of ``box``."""
    return math.prod(box_shape(box))


def common(a: Box, b: Box) -> Box:
    """The elements that two boxes share."""
    return tuple(intersect(x, y) for x, y in zip(a, b, strict=True))


def within(box: Box, outer: Box) -> tuple[slice, ...]:
    """The slices that cut ``box`` out of an array that holds ``outer``."""
    return tuple(slice(start - base, stop - base) for (start, stop), (base, _) in zip(box, outer, strict=True))


@dataclass(frozen=True)
class Dim:
    """One dimension of a layout: its partition, and the mesh axes along which its parts lie."""

    partition: Partition
    mesh_axes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Layout:
    """Who holds what of one tensor.

    Attributes
    ----------
    mesh : tuple of int
        The size of every mesh axis, the slowest first; their product is P, and a rank's index has a coordinate on each.
    dims : tuple of Dim
        One per dimension of the tensor.
    partial : tuple of int
        The mesh axes over which the copies are partial sums.  Over the mesh axes that appear nowhere they are replicas.
    """

    mesh: tuple[int, ...]
    dims: tuple[Dim, ...]
    partial: tuple[int, ...] = ()

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        """Layouts are keys of many tables, and hash all of their dimensions."""
        return hash((self.mesh, self.dims, self.partial))

    @classmethod
    def whole(cls, shape: tuple[int, ...], mesh: tuple[int, ...]) -> Layout:
        """Every rank holds everything."""
        return cls(mesh, tuple(Dim(Even(size, 1)) for size in shape))

    @classmethod
    def even(cls, shape: tuple[int, ...], grid: Any, **parts: int) -> Layout:
        """A tensor divided evenly over the ranks of ``grid``: ``even((10, 7), grid, dim0=2, dim1=2)``.

        Parameters
        ----------
        grid : Grid
            Whose ranks; the parts of ``dim0`` vary slowest with the rank's index.
        **parts : int
            Into how many parts a dimension, ``dim0`` to ``dimN``, is divided; their product divides the ranks, and what
            is left over are replicas.

        Raises
        ------
        UserError
            If the parts do not divide the ranks, or there is no such dimension.
        """
        names, ranks = [f"dim{i}" for i in range(len(shape))], grid.shape.rows * grid.shape.cols
        mesh = tuple(parts.values())
        if not set(parts) <= set(names) or ranks % math.prod(mesh):
            said = " x ".join(f"{name}={count}" for name, count in parts.items())
            raise UserError(
                f"Layout.even{shape} by {said}: dimensions are {', '.join(names)}, their parts divide {ranks}"
            )
        order = {name: mesh_axis for mesh_axis, name in enumerate(parts)}
        dims = (
            Dim(Even(size, parts.get(name, 1)), (order[name],) if parts.get(name, 1) > 1 else ())
            for name, size in zip(names, shape, strict=True)
        )
        return cls((*mesh, ranks // math.prod(mesh)), tuple(dims))

    def slices(self, index: int) -> tuple[slice, ...]:
        """Where the part of rank ``index`` lies in the whole tensor."""
        return tuple(slice(*interval) for interval in self.box(index))

    @property
    def shape(self) -> tuple[int, ...]:
        """The global shape of the tensor."""
        return tuple(dim.partition.size for dim in self.dims)

    @property
    def replicas(self) -> tuple[int, ...]:
        """The mesh axes over which the copies are replicas."""
        used = {mesh_axis for dim in self.dims for mesh_axis in dim.mesh_axes} | set(self.partial)
        return tuple(mesh_axis for mesh_axis in range(len(self.mesh)) if mesh_axis not in used)

    def part(self, index: int, mesh_axes: tuple[int, ...]) -> int:
        """Which part rank ``index`` has of a dimension that ``mesh_axes`` divide."""
        place = 0
        for mesh_axis in mesh_axes:
            size = self.mesh[mesh_axis]
            place = place * size + index // self._strides[mesh_axis] % size
        return place

    @cached_property
    def _boxes(self) -> dict[int, Box]:
        """The boxes of the ranks asked for last: a schedule asks for its rank's again and again."""
        return {}

    @cached_property
    def _strides(self) -> tuple[int, ...]:
        """How far apart ranks are that are neighbours along a mesh axis."""
        return tuple(math.prod(self.mesh[mesh_axis + 1 :]) for mesh_axis in range(len(self.mesh)))

    def box(self, index: int) -> Box:
        """The part of the tensor that rank ``index`` holds."""
        found = self._boxes.get(index)
        if found is None:
            parts = [self.part(index, dim.mesh_axes) if dim.mesh_axes else 0 for dim in self.dims]
            found = tuple([dim.partition.interval(part) for dim, part in zip(self.dims, parts, strict=True)])
            if len(self._boxes) >= KEPT:
                self._boxes.clear()
            self._boxes[index] = found
        return found

    def summed(self) -> Layout:
        """This layout with its partial sums replaced by replicas of their sum."""
        return Layout(self.mesh, self.dims)

    def holders(self, box: Box, vary: tuple[int, ...], near: int, same: tuple[int, ...] = ()) -> Iterator[int]:
        """The ranks whose boxes share elements with ``box``, of those that have the part of rank ``near`` of ``same``.

        ``same`` are dimensions. Digits that divide no dimension run over all values where they are in ``vary``;
        elsewhere they are those of rank ``near``, which so finds its own copy first.
        """
        parts = {
            place: dim.partition.touching(interval)
            for place, (dim, interval) in enumerate(zip(self.dims, box, strict=True))
            if place not in same
        }
        return self.ranks(parts, vary, near)

    def ranks(self, parts: Mapping[int, Iterable[int]], vary: tuple[int, ...], near: int) -> Iterator[int]:
        """The ranks that have one of ``parts`` of every dimension named there, and otherwise the part of ``near``."""
        coordinates = list(coordinates_of(near, self.mesh))
        choices = []
        for place, wanted in parts.items():
            dim = self.dims[place]
            sizes = tuple(self.mesh[axis] for axis in dim.mesh_axes)
            choices.append([tuple(zip(dim.mesh_axes, coordinates_of(part, sizes), strict=True)) for part in wanted])
        choices.extend([((mesh_axis, value),) for value in range(self.mesh[mesh_axis])] for mesh_axis in vary)
        for choice in itertools.product(*choices):
            for mesh_axis, value in itertools.chain.from_iterable(choice):
                coordinates[mesh_axis] = value
            yield index_at(tuple(coordinates), self.mesh)

    def refined(self, mesh: tuple[int, ...]) -> Layout:
        """The same layout with its mesh axes as those of a finer mesh (see `common_mesh`)."""
        where, position = [], 0
        for radix in self.mesh:
            start, product = position, 1
            while product < radix:
                product *= mesh[position]
                position += 1
            where.append(tuple(range(start, position)))

        def spread(mesh_axes: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(fine for mesh_axis in mesh_axes for fine in where[mesh_axis])

        dims = tuple(Dim(dim.partition, spread(dim.mesh_axes)) for dim in self.dims)
        return Layout(mesh, dims, spread(self.partial))


def common_mesh(*meshes: tuple[int, ...]) -> tuple[int, ...] | None:
    """The coarsest mesh that refines all of ``meshes``, or None: 3 x 2 and 2 x 3 have none."""
    cuts = {1}
    for mesh in meshes:
        product = 1
        for radix in reversed(mesh):
            product *= radix
            cuts.add(product)
    ordered = sorted(cuts)
    steps = list(itertools.pairwise(ordered))
    if any(high % low for low, high in steps):
        return None
    return tuple(high // low for low, high in reversed(steps))
