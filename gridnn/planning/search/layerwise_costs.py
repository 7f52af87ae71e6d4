"""The cost of a step in the layer-wise search, eq (1) of Jia, Lin, Qi, Aiken 2018: computing, moving, a server.

No latency and no overlap. The time of a movement is what its busiest link carries, in and out together, over the
bandwidth: of a device to the others of its node, of a node to the network. The server is spread: each of the devices
that share a part of the weights serves its share to the others, which moves what an all-reduce does.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from gridnn.cost.machine import Machine
from gridnn.cost.work import seconds, work
from gridnn.layers.base import Layer, Shapes
from gridnn.layout.split import Split
from gridnn.network import Network
from gridnn.planning.search.arrays import Integers, Numbers
from gridnn.planning.search.devices import configurations, devices, has_configuration, held, near, needed, sent, volume
from gridnn.planning.search.graph import CostGraph
from gridnn.planning.search.groups import GroupEdge, GroupGraph, LayerGroup, group_layers
from gridnn.planning.search.timing import device_slots, link_seconds, link_units
from gridnn.units import wide

BLOCK = 1 << 22  # elements of one array of overlaps


class Moved(NamedTuple):
    """A movement: its seconds, and the bytes that all devices together receive."""

    seconds: Numbers
    size: Numbers


@dataclass(frozen=True)
class LayerwiseCosts:
    """The cost model of a network on P devices."""

    network: Network  # a loss at its end is a layer as any other
    # ranks, batch: P and B
    ranks: int
    batch: int
    machine: Machine  # bandwidths and computing rates; latencies are not used
    itemsize: int = 4  # bytes of an element

    @cached_property
    def _grouped(self) -> GroupGraph:
        return group_layers(self.network, self.batch, has_configuration)

    @property
    def groups(self) -> dict[str, LayerGroup]:
        """The groups of layers with a configuration, by name."""
        return self._grouped.groups

    @property
    def edges(self) -> tuple[GroupEdge, ...]:
        """The tensors between them."""
        return self._grouped.edges

    @cached_property
    def splits(self) -> dict[str, tuple[Split, ...]]:
        """The configurations of every group, on as many devices as they divide it into."""
        return {name: configurations(group, self.ranks) for name, group in self.groups.items()}

    def chosen(self, choice: Sequence[int]) -> dict[str, Split]:
        """The configuration of every group in a choice."""
        return {name: splits[i] for (name, splits), i in zip(self.splits.items(), choice, strict=True)}

    @cached_property
    def slots(self) -> int:
        """The devices of the machine's units that are used, idle ones included."""
        return device_slots(self.machine, self.ranks)

    @cached_property
    def link_units(self) -> list[int]:
        """How many devices share each kind of unit: see `gridnn.planning.search.timing.link_units`."""
        return link_units(self.machine, self.ranks)

    @cached_property
    def transfers(self) -> list[tuple[tuple[int, int], Moved]]:
        """t_X of every edge [C_u, C_v], and its bytes, by the numbers of the groups."""
        place = {name: number for number, name in enumerate(self.groups)}
        known: dict[Hashable, Moved] = {}
        found = []
        for edge in self.edges:
            ends = edge.source, edge.target
            key = (*(self.groups[name].leader for name in ends), *(self.splits[name] for name in ends), edge.index)
            if key not in known:
                known[key] = self._transfer(edge)
            found.append(((place[edge.source], place[edge.target]), known[key]))
        return found

    @cached_property
    def computing(self) -> list[Numbers]:
        """t_C of every group [C], seconds."""
        known: dict[tuple[LayerGroup, tuple[Split, ...]], Numbers] = {}
        for name, group in self.groups.items():
            key = group, self.splits[name]
            if key not in known:
                known[key] = np.array([self._computing(group, split) for split in self.splits[name]])
        return [known[group, self.splits[name]] for name, group in self.groups.items()]

    @cached_property
    def sums(self) -> list[Moved]:
        """t_S of every group [C], and its bytes."""
        return [self._sum(group, self.splits[name]) for name, group in self.groups.items()]

    @cached_property
    def graph(self) -> CostGraph:
        """Eq (1) as a graph of costs."""
        costs = [own + moved.seconds for own, moved in zip(self.computing, self.sums, strict=True)]
        return CostGraph(list(self.groups), costs, [(key, moved.seconds) for key, moved in self.transfers])

    def size(self, choice: tuple[int, ...]) -> float:
        """The bytes that a step moves; shared weights count for the server too, as in the paper's figure 8."""
        edges = sum(moved.size[choice[u], choice[v]] for (u, v), moved in self.transfers)
        return float(edges + sum(moved.size[i] for moved, i in zip(self.sums, choice, strict=True)))

    def _computing(self, group: LayerGroup, split: Split) -> float:
        """Forward and backward on the critical device."""
        total = 0.0
        for one in group.layers:
            local = _local(one.layer, one.shapes, {axis: split.parts(axis) for axis, _ in split.factors})
            weights = _weights(one.layer, one.shapes, split.parts("co"))
            made = work(one.layer, one.shapes, local, weights, not group.leader.is_first, self.itemsize)
            total += seconds(self.machine.compute, made.forward) + seconds(self.machine.compute, made.backward)
        return total

    def _sum(self, group: LayerGroup, splits: Sequence[Split]) -> Moved:
        """Gradients to the server and weights back, for every part of the weights that several devices have."""
        used, parts = devices(splits, self.slots)
        share = np.array([split.parts("co") for split in splits])
        sharing = np.array([split.ranks for split in splits]) // share
        counts = [sum(_weights(one.layer, one.shapes, int(k)) for one in group.layers) for k in share]
        size = wide(self.itemsize) * np.array(counts, dtype=float)
        inside = [np.zeros((2, *used.shape)) for _ in self.link_units]
        for row in range(len(splits)):
            members = np.flatnonzero(used[row])
            same = parts["co"][row][members]
            together = (same[:, None] == same) & ~np.eye(len(members), dtype=bool)
            traffic = together * self._served(size[row], members, share[row], sharing[row])
            for level, unit in enumerate(self.link_units):
                inner = members[:, None] // unit == members // unit
                inside[level][:, row, members] = (traffic * inner).sum(axis=1)
        return Moved(self._link_seconds(inside), np.where(sharing > 1, 2 * size * share * sharing, 0.0))

    def _served(self, size: float, members: Integers, share: int, sharing: int) -> Numbers | float:
        """The bytes between any two devices that have the same part of the weights, each way.

        The devices ``members`` have ``share`` parts of ``size`` bytes, ``sharing`` of them the same one.
        """
        return 2 * size / sharing  # as one served, and as a server

    def _link_seconds(self, inside: list[Numbers]) -> Numbers:
        return link_seconds(self.machine, self.ranks, inside)

    def _transfer(self, edge: GroupEdge) -> Moved:
        """What a device needs and does not have, forward, and its gradient on the way back."""
        source, target, slots = self.groups[edge.source], self.groups[edge.target], self.slots
        before, after = self.splits[edge.source], self.splits[edge.target]
        have = held(source, before, slots)
        need = needed(target, after, edge.index, slots, source.leader.shapes.output)
        shape = (len(before), len(after), slots)
        inside = [np.zeros((2, *shape)) for _ in self.link_units]
        for array, unit in zip(inside[:-1], self.link_units, strict=False):
            rows = max(1, BLOCK // (shape[1] * slots * unit))
            for first in range(0, shape[0], rows):
                block = slice(first, first + rows)
                array[:, block] = near(have[:, :, block], need, unit)
        inside[-1][0], inside[-1][1] = volume(need), sent(have, need, after)
        both = 2 * self.itemsize
        moved = (inside[-1][0] - inside[0][0]).sum(axis=-1)
        return Moved(self._link_seconds([both * array for array in inside]), both * moved)


def _weights(layer: Layer, shapes: Shapes, parts: int) -> int:
    """The weights of the largest of ``parts`` parts."""
    return sum(
        math.prod(-(-size // (parts if axis == "co" else 1)) for size, axis in zip(p.shape, p.axes, strict=True))
        for p in layer.weights(shapes).values()
    )


def _local(layer: Layer, shapes: Shapes, parts: dict[str, int]) -> Shapes:
    """The largest part of a layer; axes that a follower lacks leave it whole."""

    def divided(axes: tuple[str, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(-(-size // parts.get(axis, 1)) for axis, size in zip(axes, shape, strict=True))

    inputs = (divided(layer.input_axes(i, shapes), shape) for i, shape in enumerate(shapes.inputs))
    return Shapes(tuple(inputs), divided(layer.output_axes(shapes), shapes.output))
