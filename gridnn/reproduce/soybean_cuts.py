"""SoyBean's cuts in two: products without communication, one cut by dynamic programming, k cuts one after the other.

Wang, Huang, Li 2018 ("Unifying data, model and hybrid parallelism in deep learning via tensor tiling", arXiv
1805.04170). A cut halves the devices. Every tensor is a matrix that is halved by rows or columns or held whole on both
sides; a product is computed in one of three forms, and what turns its operands into those of the form, and its result
into what is held, moves. The forward, the backward and the gradient product of a layer share a level; a weight and its
gradient have one tiling. Volume only: no latency, no links, no time.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

from gridnn.errors import UserError
from gridnn.network import Network, Node
from gridnn.planning.search.cuts import COLUMNS, REPLICA, ROWS, SUMS, Tiling, conversion

# The three products of a layer, the tensors of each (two factors and the result), and by the axis that is halved the
# tilings that need no communication. Rows and columns: x [n, ci], w [ci, co], y [n, co].
PRODUCTS = (("x", "w", "y"), ("dy", "w", "dx"), ("x", "dy", "w"))
FORMS = (
    {"n": (ROWS, REPLICA, ROWS), "co": (REPLICA, COLUMNS, COLUMNS), "ci": (COLUMNS, ROWS, SUMS)},
    {"n": (ROWS, REPLICA, ROWS), "co": (COLUMNS, COLUMNS, SUMS), "ci": (REPLICA, ROWS, COLUMNS)},
    {"n": (ROWS, ROWS, SUMS), "co": (REPLICA, COLUMNS, COLUMNS), "ci": (COLUMNS, REPLICA, ROWS)},
)
HELD = (ROWS, COLUMNS, REPLICA)
STATES = tuple(itertools.product(HELD, HELD))  # of a level's border: an activation and its gradient
AXES = ("n", "co", "ci")
BACKWARD = 1  # the place of dx = dy w^T among the products


class Operand(NamedTuple):
    """A tensor as a matrix whose entries are blocks (places of an image, taps of a kernel) of ``depth`` elements.

    What is odd is halved all the same, into fractions: an average of both sides.
    """

    rows: float
    columns: float
    depth: int = 1
    parts: int = 1  # of the whole tensor

    @property
    def size(self) -> float:
        """Its elements."""
        return self.rows * self.columns * self.depth

    def halved(self, tiling: Tiling) -> Operand:
        """What one side has of it."""
        if tiling not in (ROWS, COLUMNS):
            return self
        return self._replace(**{("rows", "columns")[tiling]: self[tiling] / 2, "parts": 2 * self.parts})


class Level(NamedTuple):
    """The products of one layer that a level of the graph holds, with the operands of each as one side has them."""

    name: str
    products: tuple[tuple[Operand, Operand, Operand], ...]

    @classmethod
    def of(cls, name: str, x: Operand, w: Operand, y: Operand) -> Level:
        """The level of a layer y = x w before the first cut."""
        return cls(name, ((x, w, y), (y, w, x), (x, y, w)))


def levels_of(network: Network, batch: int) -> list[Level]:
    """The layers with weights of a chain, as products; what lies between them keeps its tiling.

    `UserError` if the network branches: the paper's dynamic program is for a chain.
    """
    read = [source for node in network.nodes for source in node.inputs]
    levels = []
    for node in network.nodes:
        if len(node.inputs) > 1 or read.count(node.name) > 1:
            raise UserError(f"layer {node.name!r}: the paper's levels are a chain; --strategy tiling takes branches")
        if "weight" in node.layer.weights(network.sizes(node, batch)):
            levels.append(_level(node, network, batch))
    return levels


def _level(node: Node, network: Network, batch: int) -> Level:
    shapes = network.sizes(node, batch)
    weight = node.layer.weights(shapes)["weight"].shape
    (x,), y = shapes.inputs, shapes.output

    def samples(shape: tuple[int, ...]) -> Operand:
        return Operand(shape[0], shape[-1], math.prod(shape[1:-1]))

    return Level.of(node.name, samples(x), Operand(*weight[-2:], math.prod(weight[:-2])), samples(y))


class Cut(NamedTuple):
    """One cut in two."""

    cost: float  # elements that move across it
    # tuple of (tiling, tiling): of every activation, from the input to the output, and of its gradient
    borders: tuple[tuple[Tiling, Tiling], ...]
    weights: tuple[Tiling, ...]  # of the weights of every level, and of their gradients
    # tuple of (str, str, str): which axis the forward, the backward and the gradient product of every level halve
    axes: tuple[tuple[str, str, str], ...]

    def tilings(self, level: int) -> dict[str, Tiling]:
        """The tilings of the tensors of a level by name."""
        (x, dx), (y, dy) = self.borders[level : level + 2]
        return {"x": x, "dx": dx, "y": y, "dy": dy, "w": self.weights[level]}


class Cuts(NamedTuple):
    """k cuts: ``cost`` is the sum over the cuts of 2^i times that of cut i."""

    cost: float
    cuts: tuple[Cut, ...]


def one_cut(levels: Sequence[Level], axes: Sequence[str] = AXES, tied: bool = False) -> Cut:
    """The cut of least volume, by dynamic programming over the levels.

    ``axes`` are what a product may halve: all, or one for the cut of a named strategy (``("n",)`` is data parallelism).
    With ``tied`` the three products of a layer halve the same axis, as in gridnn; the paper lets each have its own.
    """
    best: dict = {border: (0.0, (border,), (), ()) for border in STATES}
    for number, level in enumerate(levels):
        tables = _tables(level, _held(levels, number), axes, first=number == 0)
        ahead: dict = {}
        for after in STATES:
            for before, (cost, borders, weights, forms) in best.items():
                step, weight, form = _level_cost(tables, before, after, axes, tied)
                if after not in ahead or cost + step < ahead[after][0]:
                    ahead[after] = (cost + step, (*borders, after), (*weights, weight), (*forms, form))
        best = ahead
    last = levels[-1].products[0][2].size  # the loss works on one element at a time: dy is made from y
    ends = [(cost + conversion(*border, last), *rest) for border, (cost, *rest) in best.items()]
    return Cut(*min(ends, key=lambda end: end[0]))


def _held(levels: Sequence[Level], number: int) -> dict[str, int]:
    """Into how many parts the tensors of a level are divided where the product that needs the most has them."""
    around = ((number, {}), (number - 1, {"y": "x", "dy": "dx"}), (number + 1, {"x": "y", "dx": "dy"}))
    parts: dict[str, int] = {}
    for place, renamed in around:
        for names, operands in zip(PRODUCTS, levels[place].products, strict=True) if 0 <= place < len(levels) else ():
            for name, operand in zip(names, operands, strict=True):
                tensor = renamed.get(name) if renamed else name
                if tensor:
                    parts[tensor] = min(operand.parts, parts.get(tensor, operand.parts))
    return parts


def _tables(level: Level, held: dict[str, int], axes: Sequence[str], first: bool) -> list[dict]:
    """By product and (tiling, tiling, tiling) of its operands: the cost of every axis."""
    tables = []
    for place, (a, b, result) in enumerate(level.products):
        whole = result.size * result.parts / held[PRODUCTS[place][2]]
        table = {}
        for tilings in itertools.product(HELD, repeat=3):
            costs = []
            for axis in axes:
                left, right, out = FORMS[place][axis]
                cost = conversion(tilings[0], left, a.size) + conversion(tilings[1], right, b.size)
                costs.append(cost + conversion(out, tilings[2], result.size, asked=whole))
            table[tilings] = [0.0] * len(axes) if first and place == BACKWARD else costs
        tables.append(table)
    return tables


def _level_cost(tables: list[dict], before, after, axes: Sequence[str], tied: bool) -> tuple[float, Tiling, tuple]:
    """The least cost of a level between two borders, with the tiling of the weights and the axes that give it."""
    (x, dx), (y, dy) = before, after
    best: tuple | None = None
    for weight in HELD:
        costs = [tables[0][x, weight, y], tables[1][dy, weight, dx], tables[2][x, dy, weight]]
        if tied:
            sums = [sum(of_axis) for of_axis in zip(*costs, strict=True)]
            total = min(sums)
            places = (sums.index(total),) * len(costs)
        else:
            total = sum(map(min, costs))
            places = tuple(of_product.index(min(of_product)) for of_product in costs)
        if best is None or total < best[0]:
            best = (total, weight, tuple(axes[place] for place in places))
    return best


def k_cuts(
    levels: Sequence[Level], cuts: int, *, fixed: Sequence[str] = (), tied: bool = False, halves: str = "operations"
) -> Cuts:
    """Cuts for 2^k devices: cost(k) = one cut + 2 cost(k - 1) on the halves.

    Parameters
    ----------
    fixed : sequence of str, optional
        The axis of every cut, for a named strategy; otherwise each is the best one.
    tied : bool
        See `one_cut`.
    halves : {"operations", "tensors"}
        What the halves are halves of. "operations": a product goes on with what its form gave it, so that a gathered
        tensor is gathered whole by the later cuts as well; then plain strategies cost what they move. "tensors": it
        goes on with the tiles that are held, the shorter reading of the paper, which counts too little wherever a
        tensor is held in another tiling than it is used in.
    """
    done, total, levels = [], 0.0, list(levels)
    for number in range(cuts):
        cut = one_cut(levels, fixed[number : number + 1] or AXES, tied)
        total += 2**number * cut.cost
        done.append(cut)
        levels = [_half(level, place, cut, halves) for place, level in enumerate(levels)]
    return Cuts(total, tuple(done))


def _half(level: Level, place: int, cut: Cut, halves: str) -> Level:
    held = cut.tilings(place)
    products = []
    for number, (names, operands) in enumerate(zip(PRODUCTS, level.products, strict=True)):
        used = FORMS[number][cut.axes[place][number]]
        tilings = used if halves == "operations" else [held[name] for name in names]
        products.append(tuple(o.halved(tiling) for o, tiling in zip(operands, tilings, strict=True)))
    return Level(level.name, tuple(products))
