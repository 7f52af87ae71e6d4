"""OptCNN's cost of a step, eq (1) of Jia, Lin, Qi, Aiken 2018: computing, moving tensors, and a parameter server.

No latency and no overlap. The time of a movement is what its busiest link carries, in and out together, over the
bandwidth: of a device to the others of its node, of a node to the network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from gridnn.cost.machine import Machine
from gridnn.cost.work import seconds, work
from gridnn.errors import unknown
from gridnn.layers.base import Layer, Shapes
from gridnn.layout.split import Split
from gridnn.network import Network
from gridnn.plan.search.device_links import Links, near, sent, volume
from gridnn.plan.search.devices import Edge, Unit, devices, held, needed, units_of
from gridnn.plan.search.graph import CostGraph
from gridnn.units import wide

BLOCK = 1 << 22  # elements of one array of overlaps
SERVERS = ("spread", "one")


class Reading(NamedTuple):
    """What the paper leaves open, or measures.

    Attributes
    ----------
    server : {"spread", "one"}
        Whether each of the devices that share a part of the weights serves its share to the others (which moves what an
        all-reduce does), or one of them serves all.
    duplex : bool
        Whether a link carries bytes in and bytes out at once.
    pace : float
        By what the computing times of the machine are multiplied (to meet a measured rate of one device).
    """

    server: str = "spread"
    duplex: bool = False
    pace: float = 1.0


READING = Reading()


class Moved(NamedTuple):
    """A movement: its seconds, and the bytes that all devices together receive."""

    seconds: np.ndarray
    size: np.ndarray


@dataclass(frozen=True)
class OptCNN:
    """The cost model of a network on P devices.

    Parameters
    ----------
    network : Network
        A loss at its end is a layer as any other.
    ranks, batch : int
        P and B.
    machine : Machine
        Bandwidths and computing rates; latencies are not used.
    reading : Reading
        See there.
    itemsize : int
        Bytes of an element.

    Raises
    ------
    UserError
        If there is no such server.
    """

    network: Network
    ranks: int
    batch: int
    machine: Machine
    reading: Reading = READING
    itemsize: int = 4

    def __post_init__(self) -> None:
        if self.reading.server not in SERVERS:
            raise unknown("server", self.reading.server, SERVERS)

    @cached_property
    def _parts(self) -> tuple[list[Unit], list[Edge]]:
        return units_of(self.network, self.ranks, self.batch)

    @property
    def units(self) -> list[Unit]:
        """The layers with a configuration."""
        return self._parts[0]

    @cached_property
    def links(self) -> Links:
        """Those of the machine."""
        return Links(self.machine, self.ranks, self.reading.duplex)

    @cached_property
    def transfers(self) -> list[tuple[tuple[int, int], Moved]]:
        """t_X of every edge [C_u, C_v], and its bytes."""
        known: dict[tuple, Moved] = {}
        found = []
        for edge in self._parts[1]:
            source, target = self.units[edge.source], self.units[edge.target]
            key = (source.members[0], source.splits, target.members[0], target.splits, edge.index)
            if key not in known:
                known[key] = self._transfer(source, target, edge.index)
            found.append(((edge.source, edge.target), known[key]))
        return found

    @cached_property
    def computing(self) -> list[np.ndarray]:
        """t_C of every unit [C], seconds."""
        known: dict[tuple, np.ndarray] = {}
        for unit in self.units:
            key = (unit.members, unit.splits, unit.reads)
            if key not in known:
                known[key] = np.array([self._computing(unit, split) for split in unit.splits])
        return [known[unit.members, unit.splits, unit.reads] for unit in self.units]

    @cached_property
    def sums(self) -> list[Moved]:
        """t_S of every unit [C], and its bytes."""
        return [self._sum(unit) for unit in self.units]

    @cached_property
    def graph(self) -> CostGraph:
        """Eq (1) as a graph of costs."""
        costs = [own + moved.seconds for own, moved in zip(self.computing, self.sums, strict=True)]
        edges = [(key, moved.seconds) for key, moved in self.transfers]
        return CostGraph([unit.name for unit in self.units], costs, edges)

    def size(self, choice: tuple[int, ...]) -> float:
        """The bytes that a step moves; shared weights count for the server too, as in the paper's figure 8."""
        edges = sum(moved.size[choice[u], choice[v]] for (u, v), moved in self.transfers)
        return float(edges + sum(moved.size[i] for moved, i in zip(self.sums, choice, strict=True)))

    def _computing(self, unit: Unit, split: Split) -> float:
        """Forward and backward on the busiest device."""
        total = 0.0
        for layer, shapes in unit.members:
            local = _local(layer, shapes, {axis: split.parts(axis) for axis, _ in split.factors})
            weights = self._weights(layer, shapes, split.parts("co"))
            one = work(layer, shapes, local, weights, not unit.reads, self.itemsize)
            total += seconds(self.machine.compute, one.forward) + seconds(self.machine.compute, one.backward)
        return self.reading.pace * total

    def _weights(self, layer: Layer, shapes: Shapes, parts: int) -> int:
        """The weights of the largest of ``parts`` parts."""
        return sum(
            math.prod(-(-size // (parts if axis == "co" else 1)) for size, axis in zip(p.shape, p.axes, strict=True))
            for p in layer.weights(shapes).values()
        )

    def _sum(self, unit: Unit) -> Moved:
        """Gradients to the server and weights back, for every part of the weights that several devices have."""
        used, parts = devices(unit.splits, self.links.slots)
        share = np.array([split.parts("co") for split in unit.splits])
        sharing = np.array([split.ranks for split in unit.splits]) // share
        counts = [sum(self._weights(*member, int(k)) for member in unit.members) for k in share]
        size = wide(self.itemsize) * np.array(counts, dtype=float)
        inside = [np.zeros((2, *used.shape)) for _ in self.links.units]
        for row in range(len(unit.splits)):
            members = np.flatnonzero(used[row])
            same = parts["co"][row][members]
            together = (same[:, None] == same) & ~np.eye(len(members), dtype=bool)
            if self.reading.server == "spread":
                traffic = together * (2 * size[row] / sharing[row])  # as one served, and as a server
            else:
                serves = members < share[row]
                traffic = together * (serves[:, None] | serves) * size[row]
            for level, unit_size in enumerate(self.links.units):
                inner = members[:, None] // unit_size == members // unit_size
                inside[level][:, row, members] = (traffic * inner).sum(axis=1)
        return Moved(self.links.seconds(inside), np.where(sharing > 1, 2 * size * share * sharing, 0.0))

    def _transfer(self, source: Unit, target: Unit, index: int) -> Moved:
        """What a device needs and does not have, forward, and its gradient on the way back."""
        slots = self.links.slots
        have = held(source, slots)
        need = needed(target, index, slots, source.members[0][1].output)
        shape = (len(source.splits), len(target.splits), slots)
        inside = [np.zeros((2, *shape)) for _ in self.links.units]
        for array, unit_size in zip(inside[:-1], self.links.units, strict=False):
            rows = max(1, BLOCK // (shape[1] * slots * unit_size))
            for first in range(0, shape[0], rows):
                block = slice(first, first + rows)
                array[:, block] = near(have[:, :, block], need, unit_size)
        inside[-1][0], inside[-1][1] = volume(need), sent(have, need, target.splits)
        both = 2 * self.itemsize
        moved = (inside[-1][0] - inside[0][0]).sum(axis=-1)
        return Moved(self.links.seconds([both * array for array in inside]), both * moved)


def _local(layer: Layer, shapes: Shapes, parts: dict[str, int]) -> Shapes:
    """The largest part of a layer; axes that a follower lacks leave it whole."""

    def divided(axes: tuple[str, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(-(-size // parts.get(axis, 1)) for axis, size in zip(axes, shape, strict=True))

    inputs = (divided(layer.input_axes(i, shapes), shape) for i, shape in enumerate(shapes.inputs))
    return Shapes(tuple(inputs), divided(layer.output_axes(shapes), shapes.output))
