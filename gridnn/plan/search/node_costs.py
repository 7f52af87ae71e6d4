"""What a layer with a choice, and those that follow it, cost for all configurations: seconds, words, bytes by term."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from gridnn.cost.work import seconds, update_seconds, weight_bytes, work
from gridnn.layers.base import Loss, Shapes
from gridnn.layers.rooms import Part
from gridnn.plan.search.edge_costs import LinkPricer, Setting, Terms, no_terms
from gridnn.plan.search.groups import Block, Member, Placing, copies_of, placings
from gridnn.plan.search.movement import ONE, rounds
from gridnn.plan.search.space import Digits, Space
from gridnn.plan.search.timing import Strides
from gridnn.program.program import BUCKET_WORDS

FLOAT = 4  # bytes, against which the widths of other types are counted


class Pricer(LinkPricer):
    """Prices blocks and links.

    Costs are by term, in seconds a step: ``compute``, ``update``, ``latency`` and ``bandwidth`` of transfers and sums
    in both directions, ``gradient latency`` and ``gradient bandwidth``; then ``words`` and ``gradient words``, means
    over ranks; for blocks also ``memory``, the sum of ``weight memory`` and ``activation memory``, what is kept, and
    ``passing memory``, the gradients of the inputs and the output of its largest layer, which are not; all in bytes.
    """

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._calls: dict[tuple, float] = {}

    def block(self, block: Block, space: Space) -> Terms:
        """The costs of a block: [C]."""
        names = ("compute", "update", "latency", "bandwidth", "words", "weight memory", "activation memory")
        names += ("passing memory",)
        terms = no_terms((len(space),), *names, "gradient latency", "gradient bandwidth", "gradient words")
        placed = placings(block, space)
        for place, (member, placing) in enumerate(zip(block.members, placed, strict=True)):
            if member.follows is not None:
                before = placed[member.follows]
                moved = self.stages(block.members[member.follows], before, member, placing, 0, True)
                self.add_stages(terms, moved, member.wanted[0])
            outputs = self._extents(member, placing, None)
            inputs = [self._extents(member, placing, i) for i in range(len(member.shapes.inputs))]
            trained = self._trained(terms, member, placing, space, place > 0)
            self._compute(terms, member, inputs, outputs, trained)
            self._reductions(terms, member, placing, outputs)
            made, read = kept(member)
            terms["activation memory"] += made * np.prod(outputs, axis=0)
            sizes = [np.prod(extents, axis=0) for extents in (*inputs, outputs)]
            if read:
                terms["activation memory"] += sizes[0]
            terms["passing memory"] = np.maximum(terms["passing memory"], sum(sizes))
            if isinstance(member.layer, Loss):
                self._sum_loss(terms)
        for name in ("activation memory", "passing memory"):
            terms[name] *= self.setting.itemsize
        terms["memory"] = terms["weight memory"] + terms["activation memory"]
        return terms

    def _extents(self, member: Member, placing: Placing, index: int | None) -> list[np.ndarray]:
        """The largest extents of this rank's part of the output (None) or of an input, halos included."""
        layer, shapes = member.layer, member.shapes
        ndim = len(shapes.output if index is None else shapes.inputs[index])
        extents = []
        for dim in range(ndim):
            found = (
                self.tables.output(layer, shapes, dim)
                if index is None
                else self.tables.input(layer, shapes, index, dim)
            )
            axis, family = found
            extents.append(self.tables.widest(family)[self.place(placing.get(axis, ONE))])
        count = len(placing["n"].parts)
        return [np.broadcast_to(extent, (count,)) for extent in extents]

    def _compute(self, terms: Terms, member: Member, inputs: list, outputs: list, trained: np.ndarray) -> None:
        """The calls of forward and backward; those of equal local shapes are priced once."""
        rows = np.stack([*itertools.chain(*inputs), *outputs, trained], axis=1).astype(np.int64)
        unique, back = np.unique(rows, axis=0, return_inverse=True)
        costs = [self._call(member, tuple(row)) for row in unique.tolist()]
        terms["compute"] += self.setting.passes * np.array(costs)[back.reshape(-1)]

    def _call(self, member: Member, row: tuple[int, ...]) -> float:
        key = (member.layer, member.shapes, any(member.wanted), row)
        if key not in self._calls:
            sizes = iter(row)
            inputs = tuple(tuple(itertools.islice(sizes, len(shape))) for shape in member.shapes.inputs)
            local = Shapes(inputs, tuple(itertools.islice(sizes, len(member.shapes.output))))
            trained, compute = next(sizes), self.setting.machine.compute
            done = work(member.layer, member.shapes, local, trained, any(member.wanted), self.setting.itemsize)
            forward = seconds(compute, done.forward)
            self._calls[key] = forward * (2 if self.setting.recompute else 1) + seconds(compute, done.backward)
        return self._calls[key]

    def _trained(self, terms: Terms, member: Member, placing: Placing, space: Space, follows: bool) -> np.ndarray:
        """Add gradient sums, update and memory of the trained tensors; their elements on the busiest rank."""
        total = np.zeros(len(space), np.int64)
        sums: dict[tuple, np.ndarray] = {}
        for parameter in member.layer.weights(member.shapes).values():
            parts = [placing[axis].parts if axis else 1 for axis in parameter.axes]
            total += math.prod(-(-size // count) for size, count in zip(parameter.shape, parts, strict=True))
            used = tuple(dict.fromkeys(axis for axis in parameter.axes if axis))
            sums[used] = sums.get(used, 0) + math.prod(
                size / count for size, count in zip(parameter.shape, parts, strict=True)
            )
        for used, size in sums.items():
            self._sum_gradients(terms, size, copies_of(space.digits, (*used, "ci") if follows else used), len(space))
        setting = self.setting
        terms["update"] += update_seconds(setting.machine.compute, total, setting.slots, setting.itemsize)
        terms["weight memory"] += weight_bytes(setting.itemsize, setting.slots) * total
        return total

    def _sum_gradients(self, terms: Terms, size: np.ndarray, groups: Sequence[Digits], count: int) -> None:
        """Gradients are summed over all ranks that have the same weights, in buckets of several layers."""
        members = np.broadcast_to(math.prod((one.parts for one in groups), start=np.int64(1)), (count,))
        where = np.flatnonzero(members > 1)
        if not len(where):
            return
        group, size = members[where], np.broadcast_to(size, (count,))[where]
        words, messages = 2 * size * (1 - 1 / group), 2 * rounds(group) * np.minimum(1, size / BUCKET_WORDS)
        found = no_terms((count,), "latency", "bandwidth", "words")
        self.enter(found, where, "started all-reduce", words, messages, self._strides(groups, where), 1)
        for name, array in found.items():
            terms[f"gradient {name}"] += array

    def _reductions(self, terms: Terms, member: Member, placing: Placing, outputs: list) -> None:
        """The sums that a layer asks for: batch norm, divided classes."""
        layer, shapes = member.layer, member.shapes
        boxes = np.stack(outputs, axis=1)
        unique, back = np.unique(boxes, axis=0, return_inverse=True)
        asked = [layer.reductions(shapes, tuple((0, size) for size in row), True) for row in unique.tolist()]
        for slot in range(max(map(len, asked))):
            wanted = [one[slot] if slot < len(one) else None for one in asked]
            axes = next(one.axes for one in wanted if one)
            words = np.array([one.words if one else 0 for one in wanted])[back.reshape(-1)]
            groups = tuple(placing[axis] for axis in axes if (placing[axis].parts > 1).any())
            members = np.broadcast_to(math.prod((one.parts for one in groups), start=np.int64(1)), words.shape)
            where = np.flatnonzero((members > 1) & (words > 0))
            if len(where):
                group, size = members[where], words[where]
                counts = 2 * size * (1 - 1 / group), 2 * rounds(group)
                self.enter(terms, where, "all-reduce", *counts, self._strides(groups, where), self.setting.passes)

    def _sum_loss(self, terms: Terms) -> None:
        """Three words over all ranks, once a step."""
        ranks = self.setting.ranks
        if ranks > 1:
            everywhere = np.arange(len(terms["words"]))
            group = np.full(len(everywhere), ranks)
            strides = ((group, np.ones_like(group)),)
            self.enter(terms, everywhere, "all-reduce", 6 * (1 - 1 / group), 2 * rounds(group), strides, 1)

    def _strides(self, groups: Sequence[Digits], where: np.ndarray) -> Strides:
        ranks = self.setting.ranks
        return tuple((one.parts[where], np.maximum(ranks // one.stop[where], 1)) for one in groups)


def kept(member: Member) -> tuple[float, bool]:
    """What a layer keeps until backward: elements for each element of its output, and whether it keeps its input.

    A layer that follows another one keeps what that one made, which is counted there or with its own output.
    """
    shapes = member.shapes
    boxes = tuple(tuple((0, size) for size in shape) for shape in (*shapes.inputs, shapes.output))
    rooms = member.layer.rooms(Part(shapes, boxes[:-1], boxes[-1], shapes.inputs))
    own = sum(room.size(FLOAT) for room in rooms.forward if room.name in rooms.saved)
    return own / FLOAT / math.prod(shapes.output), "x" in rooms.saved
