"""A network as a graph of choices: the layers that are divided by choice, with those that follow them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gridnn.layers import Flatten
from gridnn.layers.base import Layer, Loss, Shapes
from gridnn.layout.split import AXES, COPIES, Split
from gridnn.network import INPUT, Network, Node
from gridnn.plan.search.movement import ONE
from gridnn.plan.search.space import Digits, Space, divisors


@dataclass(frozen=True)
class Member:
    """One layer of a block, without its name, so that equal blocks compare equal.

    Attributes
    ----------
    layer, shapes
        The layer and its global shapes.
    follows : int or None
        The place in the block of the layer that it reads; None: the first one, which reads other blocks.
    reads : bool
        Whether the network's input is its input.
    wanted : tuple of bool
        Whether the gradient of each input is computed.
    """

    layer: Layer
    shapes: Shapes
    follows: int | None
    reads: bool
    wanted: tuple[bool, ...]


@dataclass(frozen=True)
class Block:
    """A layer with a choice and the layers that follow it, in the order in which they run."""

    members: tuple[Member, ...]

    @property
    def main(self) -> Member:
        """The layer with the choice."""
        return self.members[0]


@dataclass(frozen=True)
class Link:
    """A tensor that goes from a layer of one block to the first layer of another."""

    source: str
    member: int
    target: str
    index: int


@dataclass(frozen=True)
class Condensed:
    """The blocks of a network by the name of their first layer, the links between them, and the layers' names."""

    blocks: dict[str, Block]
    links: tuple[Link, ...]
    names: dict[str, tuple[str, ...]]


def condense(network: Network, batch: int) -> Condensed:
    """The graph of choices of ``network``.

    Layers that multiply by weights, that have several inputs or read the network's input, Flatten and the loss have a
    choice; the others follow their input as `gridnn.plan.propagate.propagate` lets them.
    """
    members: dict[str, list[Member]] = {}
    names: dict[str, list[str]] = {}
    home: dict[str, tuple[str, int]] = {}
    trained = {INPUT: False}
    links = []
    for node in network.nodes:
        shapes = network.sizes(node, batch)
        wanted = tuple(trained[source] for source in node.inputs)
        trained[node.name] = any(wanted) or bool(node.layer.weights(shapes))
        chosen = _has_choice(node, shapes)
        block, follows = (node.name, None) if chosen else home[node.inputs[0]]
        members.setdefault(block, []).append(Member(node.layer, shapes, follows, INPUT in node.inputs, wanted))
        names.setdefault(block, []).append(node.name)
        home[node.name] = block, len(members[block]) - 1
        if chosen:
            links += [Link(*home[source], block, i) for i, source in enumerate(node.inputs) if source != INPUT]
    blocks = {name: Block(tuple(layers)) for name, layers in members.items()}
    return Condensed(blocks, tuple(links), {name: tuple(layers) for name, layers in names.items()})


def _has_choice(node: Node, shapes: Shapes) -> bool:
    if len(node.inputs) > 1 or INPUT in node.inputs or isinstance(node.layer, Flatten | Loss):
        return True
    return node.layer.multiplies(shapes)


def allowed(block: Block, ranks: int) -> dict[str, frozenset[int]]:
    """The numbers of parts, divisors of P, that every axis of the first layer may have, alone.

    More parts than elements, of the layer or of one that follows it, are left out, and what a layer refuses.
    """
    may = {axis: set(divisors(ranks)) for axis in block.main.layer.axes(block.main.shapes)}
    for place, member in enumerate(block.members):
        for axis, size in _sizes(member).items():
            for own in ("co", "ci") if place and axis == "co" else (axis,):
                if own in may:
                    may[own] = {parts for parts in may[own] if parts <= size and _accepts(member, axis, parts)}
    return {axis: frozenset(parts) for axis, parts in may.items()}


def together(block: Block, ranks: int) -> frozenset[int]:
    """The numbers of parts that out- and in-channels may have together: what they leave, the followers have of co."""
    may = set(divisors(ranks))
    for member in block.members[1:]:
        if "co" in member.layer.axes(member.shapes):
            size = _sizes(member)["co"]
            may = {parts for parts in may if parts <= size and _accepts(member, "co", parts)}
    return frozenset(may)


def _sizes(member: Member) -> dict[str, int]:
    layer, shapes = member.layer, member.shapes
    sizes = dict(zip(layer.input_axes(0, shapes), shapes.inputs[0], strict=True))
    sizes.update(zip(layer.output_axes(shapes), shapes.output, strict=True))
    return sizes


def _accepts(member: Member, axis: str, parts: int) -> bool:
    try:
        member.layer.check(member.shapes, Split.of(**{axis: parts}))
    except ValueError:
        return False
    return True


Placing = dict[str, Digits]


def placings(block: Block, space: Space) -> list[Placing]:
    """The digits of every axis, and of the copies, of every layer of a block, for all configurations of the first."""
    found: list[Placing] = []
    for member in block.members:
        if member.follows is None:
            found.append(dict(space.digits))
            continue
        placing = dict(found[member.follows])
        placing["co"], placing["ci"] = joined(placing["co"], placing["ci"]), ONE
        axes = member.layer.axes(member.shapes)
        placing.update({axis: ONE for axis in AXES if axis not in axes})
        found.append(placing)
    return found


def joined(*digits: Digits) -> Digits:
    """Neighbouring digits as one."""
    far = np.iinfo(np.int64).max
    start, parts = far, 1
    for one in digits:
        start = np.minimum(start, np.where(one.parts > 1, one.start, far))
        parts = parts * one.parts
    return Digits(np.where(parts > 1, start, 1), parts)


def copies_of(placing: Placing, used: tuple[str | None, ...]) -> tuple[Digits, ...]:
    """The digits of all axes that are not ``used``, the copies among them."""
    return tuple(placing[axis] for axis in (*AXES, COPIES) if axis not in used and (placing[axis].parts > 1).any())
