"""What a layer group costs for all configurations of its leader: seconds, words, bytes by term."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from gridnn.cost.work import seconds, update_seconds, weight_bytes, work
from gridnn.layers.base import UNFUSED, Layer, Loss, Shapes
from gridnn.layers.computation import LayerPart, Task
from gridnn.planning.search.arrays import Integers, Numbers
from gridnn.planning.search.edge_costs import ANYWHERE, CostOptions, CostTerms, EdgeCosts, no_terms
from gridnn.planning.search.groups import GroupLayer, LayerGroup
from gridnn.planning.search.movement import rounds
from gridnn.planning.search.placement import UNDIVIDED, Placement, placements, replica_axes
from gridnn.planning.search.space import MeshAxis, Space
from gridnn.planning.search.timing import Strides
from gridnn.program.program import BUCKET_WORDS
from gridnn.program.schedule import saved_bytes

Extents = list[Integers]
WHOLE = np.ones(1, np.int64)  # the parts of what nothing divides
FLOAT = 4  # bytes, against which the widths of other types are counted


class NodeCosts(EdgeCosts):
    """The costs of layer groups, and of the edges between them.

    Costs are by term, in seconds a step: ``compute``, ``update``, ``latency`` and ``bandwidth`` of transfers and sums
    in both directions, ``gradient latency`` and ``gradient bandwidth``; then ``words`` and ``gradient words``, means
    over ranks; for groups also ``memory``, the sum of ``weight memory`` and ``activation memory``, what is kept, and
    ``passing memory``, the gradients of the inputs and the output of its largest layer, which are not; all in bytes.
    """

    def __init__(self, options: CostOptions) -> None:
        super().__init__(options)
        self._calls: dict[tuple[Layer, Shapes, bool, tuple[int, ...]], float] = {}

    def group(self, group: LayerGroup, space: Space) -> CostTerms:
        """The costs of a group: [C]."""
        names = ("compute", "update", "latency", "bandwidth", "words", "weight memory", "activation memory")
        summed = ("gradient latency", "gradient bandwidth", "gradient words")
        terms = no_terms((len(space),), *names, "passing memory", *summed)
        placed = list(zip(group.layers, placements(group, space), strict=True))
        for grouped, placement in placed:
            if grouped.source is not None:
                moved = self.stages(0, placed[grouped.source], (grouped, placement), ANYWHERE)
                self.add_stages(terms, moved, grouped.input_gradients[0])
            outputs = self._extents(grouped, placement, None)
            inputs = [self._extents(grouped, placement, i) for i in range(len(grouped.shapes.inputs))]
            trained = self._trained(terms, grouped, placement, space)
            self._compute(terms, grouped, inputs, outputs, trained)
            self._reductions(terms, grouped, placement, outputs)
            made, read = kept(grouped)
            terms["activation memory"] += made * np.prod(outputs, axis=0)
            sizes = [np.prod(extents, axis=0) for extents in (*inputs, outputs)]
            if read:
                terms["activation memory"] += sizes[0]
            terms["passing memory"] = np.maximum(terms["passing memory"], sum(sizes))
            if isinstance(grouped.layer, Loss):
                self._sum_loss(terms)
        for name in ("activation memory", "passing memory"):
            terms[name] *= self.options.itemsize
        terms["memory"] = terms["weight memory"] + terms["activation memory"]
        return terms

    def _extents(self, grouped: GroupLayer, placement: Placement, index: int | None) -> list[Integers]:
        """The largest extents of this rank's part of the output (None) or of an input, halos included."""
        layer, shapes = grouped.layer, grouped.shapes
        ndim = len(shapes.output if index is None else shapes.inputs[index])
        extents = []
        for dim in range(ndim):
            axis, family = (
                self.tables.output(layer, shapes, dim)
                if index is None
                else self.tables.input(layer, shapes, index, dim)
            )
            along = placement.get(axis, UNDIVIDED) if axis else UNDIVIDED
            extents.append(self.tables.widest(family)[self.place(along)])
        count = len(placement["n"].parts)
        return [np.broadcast_to(extent, (count,)) for extent in extents]

    def _compute(
        self, terms: CostTerms, grouped: GroupLayer, inputs: list[Extents], outputs: Extents, trained: Integers
    ) -> None:
        """The calls of forward and backward; those of equal local shapes are priced once."""
        rows = np.stack([*itertools.chain(*inputs), *outputs, trained], axis=1).astype(np.int64)
        unique, back = np.unique(rows, axis=0, return_inverse=True)
        costs = [self._call(grouped, tuple(row)) for row in unique.tolist()]
        terms["compute"] += self.options.passes * np.array(costs)[back.reshape(-1)]

    def _call(self, grouped: GroupLayer, row: tuple[int, ...]) -> float:
        key = (grouped.layer, grouped.shapes, any(grouped.input_gradients), row)
        if key not in self._calls:
            sizes = iter(row)
            inputs = tuple(tuple(itertools.islice(sizes, len(shape))) for shape in grouped.shapes.inputs)
            local = Shapes(inputs, tuple(itertools.islice(sizes, len(grouped.shapes.output))))
            trained, compute = next(sizes), self.options.machine.compute
            done = work(
                grouped.layer, grouped.shapes, local, trained, any(grouped.input_gradients), self.options.itemsize
            )
            forward = seconds(compute, done.forward)
            self._calls[key] = forward * (2 if self.options.recompute else 1) + seconds(compute, done.backward)
        return self._calls[key]

    def _trained(self, terms: CostTerms, grouped: GroupLayer, placement: Placement, space: Space) -> Integers:
        """Add gradient sums, update and memory of the trained tensors; their elements on the critical rank."""
        total = np.zeros(len(space), np.int64)
        sums: dict[tuple[str, ...], Numbers] = {}
        for parameter in grouped.layer.weights(grouped.shapes).values():
            parts = [placement[axis].parts if axis else WHOLE for axis in parameter.axes]
            divided = list(zip(parameter.shape, parts, strict=True))
            total += math.prod((-(-size // count) for size, count in divided), start=WHOLE)
            used = tuple(dict.fromkeys(axis for axis in parameter.axes if axis))
            words = math.prod((size / count for size, count in divided), start=np.ones(1))
            sums[used] = sums[used] + words if used in sums else words
        for used, size in sums.items():
            self._sum_gradients(
                terms,
                size,
                replica_axes(space.mesh_axes, used if grouped.source is None else (*used, "ci")),
                len(space),
            )
        options = self.options
        few, back = np.unique(total, return_inverse=True)
        update = [update_seconds(options.machine.compute, one, options.slots, options.itemsize) for one in few.tolist()]
        terms["update"] += np.array(update)[back]
        terms["weight memory"] += weight_bytes(options.itemsize, options.slots) * total
        return total

    def _sum_gradients(self, terms: CostTerms, size: Numbers, groups: Sequence[MeshAxis], count: int) -> None:
        """Gradients are summed over all ranks that have the same weights, in buckets of several layers."""
        members = np.broadcast_to(math.prod((one.parts for one in groups), start=np.int64(1)), (count,))
        where = np.flatnonzero(members > 1)
        if not len(where):
            return
        group, size = members[where], np.broadcast_to(size, (count,))[where]
        words, messages = 2 * size * (1 - 1 / group), 2 * rounds(group) * np.minimum(1, size / BUCKET_WORDS)
        found = no_terms((count,), "latency", "bandwidth", "words")
        self.add(found, where, "started all-reduce", words, messages, self._strides(groups, where), 1)
        for name, array in found.items():
            terms[f"gradient {name}"] += array

    def _reductions(self, terms: CostTerms, grouped: GroupLayer, placement: Placement, outputs: Extents) -> None:
        """The sums that a layer asks for: batch norm, divided classes."""
        layer, shapes = grouped.layer, grouped.shapes
        boxes = np.stack(outputs, axis=1)
        unique, back = np.unique(boxes, axis=0, return_inverse=True)
        asked = [layer.reductions(shapes, tuple((0, size) for size in row), True) for row in unique.tolist()]
        for slot in range(max(map(len, asked))):
            sums = [one[slot] if slot < len(one) else None for one in asked]
            axes = next(one.axes for one in sums if one)
            words = np.array([one.words if one else 0 for one in sums])[back.reshape(-1)]
            groups = tuple(placement[axis] for axis in axes if (placement[axis].parts > 1).any())
            members = np.broadcast_to(math.prod((one.parts for one in groups), start=np.int64(1)), words.shape)
            where = np.flatnonzero((members > 1) & (words > 0))
            if len(where):
                group, size = members[where], words[where]
                counts = 2 * size * (1 - 1 / group), 2 * rounds(group)
                self.add(terms, where, "all-reduce", *counts, self._strides(groups, where), self.options.passes)

    def _sum_loss(self, terms: CostTerms) -> None:
        """Three words over all ranks, once a step."""
        ranks = self.options.ranks
        if ranks > 1:
            everywhere = np.arange(len(terms["words"]))
            group = np.full(len(everywhere), ranks)
            strides = ((group, np.ones_like(group)),)
            self.add(terms, everywhere, "all-reduce", 6 * (1 - 1 / group), 2 * rounds(group), strides, 1)

    def _strides(self, groups: Sequence[MeshAxis], where: Integers) -> Strides:
        ranks = self.options.ranks
        return tuple((one.parts[where], np.maximum(ranks // one.stop[where], 1)) for one in groups)


def kept(grouped: GroupLayer) -> tuple[float, bool]:
    """What a layer keeps until backward: elements for each element of its output, and whether it keeps its input.

    A layer that follows another one keeps what that one made, which is counted there or with its own output.
    """
    shapes = grouped.shapes
    boxes = tuple(tuple((0, size) for size in shape) for shape in (*shapes.inputs, shapes.output))
    made = grouped.layer.computation(LayerPart(shapes, boxes[:-1], boxes[-1], shapes.inputs, fused=UNFUSED))
    read = {name for call in made.backward if isinstance(call, Task) for name in call.reads}
    written = {name for call in made.forward if isinstance(call, Task) for name in call.writes}
    own = sum(saved_bytes(spec, FLOAT) for spec in made.buffers if spec.name in read & written)
    own += FLOAT * math.prod(shapes.output) * ("y" in read)
    return own / FLOAT / math.prod(shapes.output), "x" in read
