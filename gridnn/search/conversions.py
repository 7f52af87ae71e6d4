"""SoyBean's tilings of tensors: what goes from one to another, and the products that need no communication.

Wang, Huang, Li 2018 ("Unifying data, model and hybrid parallelism in deep learning via tensor tiling", arXiv
1805.04170). A cut halves the devices. Every tensor is a matrix that is halved by rows or columns or held whole on both
sides; a product is computed in one of three forms, and what turns its operands into those of the form, and its result
into what is held, moves.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from gridnn.errors import UserError
from gridnn.network import Network, Node

Tiling = int | str
ROWS, COLUMNS = 0, 1  # R and C: halved along dimension 0 or 1
REPLICA, SUMS = "r", "red"  # whole on both sides; partial sums, which only a product gives

# The three products of a layer, the tensors of each (two factors and the result), and by the axis that is halved the
# tilings that need no communication. Rows and columns: x [n, ci], w [ci, co], y [n, co].
PRODUCTS = (("x", "w", "y"), ("dy", "w", "dx"), ("x", "dy", "w"))
FORMS = (
    {"n": (ROWS, REPLICA, ROWS), "co": (REPLICA, COLUMNS, COLUMNS), "ci": (COLUMNS, ROWS, SUMS)},
    {"n": (ROWS, REPLICA, ROWS), "co": (COLUMNS, COLUMNS, SUMS), "ci": (REPLICA, ROWS, COLUMNS)},
    {"n": (ROWS, ROWS, SUMS), "co": (REPLICA, COLUMNS, COLUMNS), "ci": (COLUMNS, REPLICA, ROWS)},
)


def conversion(source: Tiling, target: Tiling, size: float, factor: int = 2, wanted: float | None = None) -> float:
    """Elements that all devices together receive where a tensor goes from one tiling to another.

    The paper's table is ``factor`` 2: the same 0, r to anything 0, cut to another cut A/2, cut to r A, red to cut A,
    red to r 2A.

    Parameters
    ----------
    source, target : int or {"r", "red"}
        The dimension that is divided, a replica, or partial sums. As a target only the adjoint of a movement has "red":
        whoever has a part adds zeros to it, and nothing moves.
    size : float
        A, the elements that a side has before the cut.
    factor : int
        Into how many parts the devices are cut.
    wanted : float, optional
        The elements that the target's side has before this cut, where earlier cuts divide the two sides differently:
        sums are taken at ``size``, replicas made at ``wanted``, and parts exchanged at the smaller of the two.
    """
    wanted = size if wanted is None else wanted
    if target in (source, SUMS) or source == REPLICA:
        return 0.0
    summed = (factor - 1) * size if source == SUMS else 0.0
    gathered = (factor - 1) * wanted if target == REPLICA else 0.0
    return summed + gathered or min(size, wanted) * (factor - 1) / factor


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

    @property
    def odd(self) -> bool:
        """Whether some halving did not come out even."""
        return self.rows % 1 != 0 or self.columns % 1 != 0


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

    Raises
    ------
    UserError
        If the network branches: the paper's dynamic program is for a chain.
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
