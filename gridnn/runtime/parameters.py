"""The trained tensors of one rank, in flat arrays that the update and the gradient sums run over."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import Any

from gridnn.comm.grid import Grid
from gridnn.comm.ledger import Where
from gridnn.layers.base import Parameter
from gridnn.layout.layout import Box, Layout, box_shape, box_size
from gridnn.network import Shared
from gridnn.program.placed import group_of
from gridnn.program.program import Bucket, Program

Array = Any


@dataclass(frozen=True)
class Entry:
    """One trained or kept tensor: its global description and this rank's box of it."""

    layer: str
    name: str
    parameter: Parameter
    layout: Layout
    box: Box

    @property
    def key(self) -> str:
        """Its name in the network: ``layer.tensor``."""
        return f"{self.layer}.{self.name}"


def layer_key(name: str) -> int:
    """The number that stands for a layer's name in random keys: the same in every run and on every rank."""
    return zlib.crc32(name.encode())


class Parameters:
    """Values and gradients of all parameters of this rank, flat, in the order in which backward completes them.

    So every bucket is one range of `gradients`, and nothing is packed before it is summed. Where the activations have
    16 bits, values and gradients are float32 ("master weights", Micikevicius et al. 2018, section 3.1), and `rounded`
    is what products take.

    Parameters
    ----------
    program : Program
        Any program of the network and plan (parameters do not depend on the batch).
    grid : Grid
        This rank's place.
    dtype : dtype
        Of the activations.
    seed : int
        First values are keyed by (seed, layer and name, global index), so they are the same on every grid.

    Attributes
    ----------
    dtype, wide : dtype
        Of the activations; of values, gradients and running statistics (see `Backend.wide`).
    all_values : array
        Flat: of the trained parameters first, then of the frozen ones.
    values, gradients : array
        Flat, of the trained ones; ``values`` is the first part of ``all_values``.
    rounded : array
        ``all_values`` in ``dtype`` as they were at the last `refresh`: the same memory where that is their own type.
    """

    def __init__(self, program: Program, grid: Grid, dtype: Any, seed: int) -> None:
        self.backend, self.grid = grid.backend, grid
        self.dtype, self.wide = self.backend.dtype(dtype), self.backend.wide(dtype)
        self.buckets = program.buckets(grid.index)
        described = {
            (placed.name, name): Entry(placed.name, name, p, layout, layout.box(grid.index))
            for placed in program.layers
            for name, (p, layout) in placed.weights.items()
        }
        self.entries = [described.pop((g.layer, g.name)) for bucket in self.buckets for g in bucket.gradients]
        trained = sum(box_size(entry.box) for entry in self.entries)
        self.entries += described.values()
        size = sum(box_size(entry.box) for entry in self.entries)
        self.all_values = self.backend.zeros((size,), self.wide)
        self.values = self.all_values[:trained]
        self.gradients = self.backend.zeros((trained,), self.wide)
        self.rounded = self.all_values if self.dtype == self.wide else self.backend.zeros((size,), self.dtype)
        self._shared = {placed.name: placed.shared for placed in program.layers}
        self._views: dict[str, slice] = {}
        self.ranges: list[slice] = []
        self._place()
        for entry in self.entries:
            self.value(entry)[...] = self._first_value(entry, seed)
        self.states = self._make_states(program, seed)
        self.refresh()

    def _place(self) -> None:
        start = 0
        for entry in self.entries:
            stop = start + box_size(entry.box)
            self._views[entry.key] = slice(start, stop)
            start = stop
        start = 0
        for bucket in self.buckets:
            stop = start + sum(gradient.size for gradient in bucket.gradients)
            self.ranges.append(slice(start, stop))
            start = stop

    def _first_value(self, entry: Entry, seed: int) -> Array:
        parameter = entry.parameter
        if parameter.fan_in is None:
            return self.backend.full(box_shape(entry.box), parameter.value, self.wide)
        bound = parameter.gain * math.sqrt(3.0 / parameter.fan_in)
        random = self.backend.uniform((seed, layer_key(entry.key)), entry.box, parameter.shape, self.wide)
        return (2.0 * random - 1.0) * bound

    def _make_states(self, program: Program, seed: int) -> dict[str, dict[str, Array]]:
        states: dict[str, dict[str, Array]] = {}
        for placed in program.layers:
            for name, (p, layout) in placed.states.items():
                entry = Entry(placed.name, name, p, layout, layout.box(self.grid.index))
                states.setdefault(placed.name, {})[name] = self._first_value(entry, seed)
        return states

    def value(self, entry: Entry) -> Array:
        """This rank's part of a parameter, a view of `all_values`."""
        return self.all_values[self._views[entry.key]].reshape(box_shape(entry.box))

    def spans(self) -> dict[str, slice]:
        """Where the trained parameters lie in `values`, by name, in this order."""
        return {e.key: self._views[e.key] for e in self.entries if self._views[e.key].stop <= len(self.values)}

    def of(self, layer: str, flat: Array) -> dict[str, Array]:
        """The parameters of one layer by name, as views of ``flat``; without frozen ones in an array like `values`."""
        own = (entry for entry in self.entries if entry.layer == layer and self._views[entry.key].stop <= len(flat))
        return {entry.name: flat[self._views[entry.key]].reshape(box_shape(entry.box)) for entry in own}

    def used(self, layer: str) -> dict[str, Array]:
        """What a layer computes with: weights of products in the type of the activations, all others as they are."""
        values, rounded = self.of(layer, self.all_values), self.of(layer, self.rounded)
        factors = {e.name for e in self.entries if e.layer == layer and e.parameter.fan_in is not None}
        used = {name: rounded[name] if name in factors else value for name, value in values.items()}
        for name, (whose, parameter, _) in self._shared[layer].items():
            used[name] = self.shared(whose, self.all_values if parameter.fan_in is None else self.rounded)
        return used

    def shared(self, whose: Shared, flat: Array) -> Array:
        """A parameter as another layer has it, a view of ``flat``."""
        array = self.of(whose.layer, flat)[whose.name]
        return array.transpose() if whose.transposed else array

    def refresh(self) -> None:
        """Round the values for the products that follow; whoever has changed `values` calls it."""
        if self.rounded is not self.all_values:
            self.backend.kernels.convert(self.all_values, self.rounded)

    def shares(self, bucket: Bucket) -> list[tuple[Where, int]]:
        """Whose gradients a bucket holds, for the ledger."""
        return [(Where(gradient.layer, "update"), gradient.size) for gradient in bucket.gradients]

    def not_finite(self) -> set[str]:
        """The layers whose gradients on this rank are not finite."""
        names = {entry.layer for entry in self.entries}
        flats = ((name, flat) for name in names for flat in self.of(name, self.gradients).values())
        return {name for name, flat in flats if not self.backend.xp.isfinite(flat).all()}

    def norm(self, where: Where) -> float:
        """The Euclidean norm of the whole gradient: every parameter counts once, however many ranks hold it."""
        xp = self.backend.xp
        total = self.backend.zeros((1,), "float64")
        for bucket, flat in zip(self.buckets, self.ranges, strict=True):
            if bucket.members[0] == self.grid.index:
                part = self.gradients[flat]
                total += xp.sum(xp.square(part, dtype="float64"))
        self.grid.all.all_reduce(total, where)
        return math.sqrt(float(self.backend.to_host(total)[0]))


def join_groups(program: Program, grid: Grid) -> None:
    """Make the communicators of the gradient sums: in the same order on all ranks, unlike their buckets."""
    for placed in program.layers:
        for _, layout in placed.trained.values():
            grid.group(group_of(layout, layout.replicas, grid.index))
