"""Which activations the layer before them applies, and which derivatives the layer after them: from a program alone.

On a GPU a pass over an activation costs as much as reading and writing it, so a product's kernel that has a value at
hand had better finish it. On a CPU kernels work in tiles that stay in the cache, and nothing is fused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gridnn.layers.base import UNFUSED, Fusion
from gridnn.layers.linear import Linear
from gridnn.program.placed import PlacedLayer
from gridnn.program.program import Program


class Chain(NamedTuple):
    """Places in a program: a layer, the activation that it applies, and who applies its derivative, if any."""

    maker: int
    activation: int
    reader: int | None


def chains(program: Program) -> list[Chain]:
    """The activations that are fused.

    An activation is applied by a linear layer or a convolution whose output is complete on every rank, that is no
    partial sum, and which only the activation reads, as it lies there. Its derivative is applied by a linear layer that
    is in the same way the only one to read it, if a linear layer made it: cuBLASLt does so by a mask of its own.
    """
    readers: dict[str, list[int]] = {}
    for place, placed in enumerate(program.layers):
        for edge in placed.edges:
            readers.setdefault(edge.source, []).append(place)
    found = []
    for place, placed in enumerate(program.layers):
        if not placed.node.layer.has_epilogue or placed.output.partial:
            continue
        next_place = _only_reader(program.layers, readers.get(placed.name, []))
        if next_place is None or program.layers[next_place].node.layer.activation == "none":
            continue
        last = _only_reader(program.layers, readers.get(program.layers[next_place].name, []))
        if last is not None and not all(isinstance(program.layers[p].node.layer, Linear) for p in (place, last)):
            last = None
        found.append(Chain(place, next_place, last))
    return found


def _only_reader(layers: Sequence[PlacedLayer], places: Sequence[int]) -> int | None:
    """The one layer that reads an output, if it reads it without movement or ghost zones."""
    if len(places) != 1:
        return None
    placed = layers[places[0]]
    moved = len(placed.edges) > 1 or placed.edges[0].transfer.stages or placed.node.layer.windows(placed.shapes)
    return None if moved else places[0]


def fused_layers(program: Program) -> tuple[dict[int, Fusion], dict[int, int]]:
    """What the layers of a program do for their neighbours, by place; and who made the mask that a layer reads."""
    found: dict[int, Fusion] = {}
    makers: dict[int, int] = {}
    for maker, activation, reader in chains(program):
        rule, derived = program.layers[activation].node.layer.activation, reader is not None
        # a layer may apply one activation to its output and have the derivative of another for its input
        found[maker] = found.get(maker, UNFUSED)._replace(activation=rule, masked=derived and rule == "relu")
        found[activation] = Fusion(applied=True, derived=derived)
        if reader is not None:
            found[reader] = Fusion(derivative=rule)
            makers[reader] = maker
    return found, makers
