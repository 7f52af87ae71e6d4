"""The cost model ``paper``: the closed forms of Gholami, Azad, Jin, Keutzer, Buluc 2018 (arXiv 1712.04432), as printed.

Every cost is a `Term`, messages and words as exact numbers, so that the forms can be compared as integers; its seconds
are alpha x messages + beta x words. What gridnn really moves (the model ``exact``) differs in these points:

- the last layer's output is not gathered, since the loss is divided as it is;
- the gradient of a gathered activation is a reduce-scatter (1 unit), not an all-reduce (2), unless the plan says so;
- halos are exact (strides, padding, uneven parts), not the half of a kernel; pools have them too;
- biases are summed with the weights, and what the loss and batch norm sum is counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

from gridnn.cost.machine import Machine
from gridnn.errors import UserError
from gridnn.layers.base import SPACE, Shapes
from gridnn.layout.counts import rounds
from gridnn.layout.split import Split
from gridnn.network import Network, Node
from gridnn.planning.plan import Plan

Number = int | Fraction


@dataclass(frozen=True)
class Term:
    """Messages and words of a part of a formula."""

    messages: int = 0
    words: Number = 0

    def __add__(self, other: Term) -> Term:
        return Term(self.messages + other.messages, self.words + other.words)

    def __rmul__(self, times: int) -> Term:
        return Term(times * self.messages, times * self.words)

    def seconds(self, alpha: Any, beta: Any) -> Any:
        """alpha, seconds a message, times messages plus beta, seconds a word, times words."""
        return alpha * self.messages + beta * self.words


class Sizes(NamedTuple):
    """What the formulas know of a layer with weights."""

    name: str  # the layer
    # weights, inputs, outputs: |W_i|, without biases, and the elements of its input and output (d_i) per sample
    weights: int
    inputs: int
    outputs: int
    # inside, outside: input and output per sample, ``(*space, channels)``
    inside: tuple[int, ...]
    outside: tuple[int, ...]
    kernel: tuple[int, ...]  # the taps over every axis of space


def sizes(network: Network) -> list[Sizes]:
    """The layers that multiply by weights, in their order."""
    found = (_sizes(node, network.sizes(node, 1)) for node in network.nodes)
    return [one for one in found if one]


def _sizes(node: Node, shapes: Shapes) -> Sizes | None:
    weights = [p for p in node.layer.weights(shapes).values() if p.fan_in]
    if not weights:
        return None
    count, inside, outside = math.prod(weights[0].shape), shapes.inputs[0][1:], shapes.output[1:]
    kernel = getattr(node.layer, "kernel", ())
    return Sizes(node.name, count, math.prod(inside), math.prod(outside), inside, outside, kernel)


# -- the closed forms -------------------------------------------------------------------------------------------


def gather(words: Number, ranks: int) -> Term:
    """An all-gather after which every one of ``ranks`` ranks has ``words`` (Bruck); a reduce-scatter costs as much."""
    return Term(rounds(ranks), Fraction(words) * (ranks - 1) / ranks)


def redistribution(outputs: int, batch: Number, ranks: int) -> Term:
    """Eq (6): from batch to model parallel, a tensor of ``outputs`` elements per sample."""
    return gather(batch * outputs, ranks)


def halos(layer: Sizes, samples: Number, split: Split) -> Term:
    """The halos of a layer in eqs (7) and (9) for ``samples`` samples on a rank.

    Divided by height: X_W X_C floor(kh/2) forward and Y_W Y_C floor(kw/2) backward. Other axes of space follow by
    symmetry; a kernel of one tap exchanges nothing.
    """
    axes, total = SPACE[len(layer.inside) + 1], Term()
    for place, axis in enumerate(axes if layer.kernel else ()):
        if split.parts(axis) > 1:
            ahead, behind = layer.kernel[place] // 2, layer.kernel[(place + 1) % len(axes)] // 2
            for shape, width in ((layer.inside, ahead), (layer.outside, behind)):
                edge = Fraction(math.prod(shape), shape[place])
                for other, name in enumerate(axes):
                    edge /= 1 if other == place else split.parts(name)
                total += Term(1, samples * edge * width) if width else Term()
    return total


def best_rows(layers: Iterable[Sizes], batch: int, ranks: int) -> float:
    """Pr* = sqrt(2 sum |W| P / (3 B sum d)), where the words of (8) are fewest.

    Derived: d/dPr of 3 B/P sum d (Pr - 1) + 2 (1/Pr - 1/P) sum |W| is 0 there.
    """
    layers = list(layers)
    weights, outputs = sum(layer.weights for layer in layers), sum(layer.outputs for layer in layers)
    return math.sqrt(2 * weights * ranks / (3 * batch * outputs))


# -- any plan -----------------------------------------------------------------------------------------------------


class PaperLayer(NamedTuple):
    """One layer of a plan in the paper's terms; ``redistributed`` is eq (6), which (8) and (9) leave out."""

    name: str
    split: Split
    activations: Term
    halos: Term
    gradients: Term
    redistributed: Term

    @property
    def printed(self) -> Term:
        """What eqs (3), (4), (7), (8) and (9) count."""
        return self.activations + self.halos + self.gradients


@dataclass(frozen=True)
class PaperCost:
    """The communication of a step under the paper's model; alpha in seconds a message, beta in seconds a word."""

    layers: tuple[PaperLayer, ...]
    alpha: float
    beta: float

    @property
    def printed(self) -> Term:
        """All layers, without redistribution."""
        return _sum(layer.printed for layer in self.layers)

    @property
    def total(self) -> Term:
        """All layers and the redistribution between them."""
        return self.printed + _sum(layer.redistributed for layer in self.layers)

    @property
    def seconds(self) -> float:
        """The time of `total`."""
        return float(self.total.seconds(self.alpha, self.beta))


def paper_cost(network: Network, plan: Plan, batch: int, machine: Machine, itemsize: int = 4) -> PaperCost:
    """The cost of any plan that divides n, co and space, with the conventions of the paper.

    alpha and beta are those of the outermost level of ``machine``; the paper knows one. A layer with ``p`` parts of
    ``co`` gathers its output and sums its gradient over them (3 units), sums its weights over the P / p ranks that
    share them (2 units), and exchanges halos over divided space. `UserError` if a layer divides ``ci``, which the paper
    does not.
    """
    layers, before = [], None
    for one in sizes(network):
        split = plan.splits[one.name]
        if split.parts("ci") > 1:
            raise UserError(
                f"layer {one.name!r} has the split {split}, but the cost model paper knows no ci: divide co, or use "
                "the cost model exact"
            )
        layers.append(_paper_layer(one, split, before, batch))
        before = split
    outer = machine.levels[-1]
    return PaperCost(tuple(layers), outer.alpha, outer.beta * itemsize)


def _paper_layer(one: Sizes, split: Split, before: Split | None, batch: int) -> PaperLayer:
    parts, samples = split.parts("co"), Fraction(batch, split.parts("n"))
    places = math.prod(split.parts(axis) for axis in ("d", "h", "w"))
    joined = before.parts("n") // split.parts("n") if before and before.parts("n") % split.parts("n") == 0 else 1
    return PaperLayer(
        one.name,
        split,
        activations=3 * gather(samples * one.outputs / places, parts),
        halos=halos(one, samples, split),
        gradients=2 * gather(Fraction(one.weights, parts), split.ranks // parts),
        redistributed=redistribution(one.inputs, samples, joined),
    )


def _sum(terms: Iterable[Term]) -> Term:
    return sum(terms, Term())
