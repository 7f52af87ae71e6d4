"""How few words a layer can move: the lower bounds of Al Daas et al. 2022 for a matrix product on P ranks.

Al Daas, Ballard, Grigori, Kumar, Rouse, "Tight memory-independent parallel matrix multiplication communication lower
bounds", SPAA 2022 (arXiv 2205.13407), theorem 3 and corollary 4.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from gridnn.cost.count import count
from gridnn.cost.work import ARRAYS
from gridnn.errors import UserError
from gridnn.layers.base import Layer, Shapes
from gridnn.program.build import build
from gridnn.program.program import Program

PRODUCTS = 3  # of a training step: Y = X W, dX = dY W^T, dW = X^T dY


class Product(NamedTuple):
    """A product of an m x k by a k x n matrix, ``groups`` of them independent."""

    m: int
    n: int
    k: int
    groups: int = 1


def least_words(m: int, n: int, k: int, ranks: int) -> float:
    """The words that the busiest of ``ranks`` ranks sends or receives at least in an m x n x k product.

    Every rank begins with its even share of the two factors and ends with its even share of the product, and the work
    is even. With the sizes sorted so that m >= n >= k it is D - (mn + mk + nk) / P, where D is

    - (mn + mk) / P + nk for P <= m / n: one dimension is divided,
    - 2 (m n k^2 / P)^(1/2) + mn / P for P <= mn / k^2: two are,
    - 3 (m n k / P)^(2/3) beyond: all three are.

    Raises
    ------
    UserError
        If a size or ``ranks`` is below 1.
    """
    if min(m, n, k, ranks) < 1:
        raise UserError(f"a {m} x {n} x {k} product on {ranks} ranks: sizes and ranks are at least 1")
    m, n, k = sorted((m, n, k), reverse=True)
    if ranks * n <= m:
        reach = (m * n + m * k) / ranks + n * k
    elif ranks * k * k <= m * n:
        reach = 2 * math.sqrt(m * n * k * k / ranks) + m * n / ranks
    else:
        reach = 3 * (m * n * k / ranks) ** (2 / 3)
    return max(0.0, reach - (m * n + m * k + n * k) / ranks)


def product_of(layer: Layer, shapes: Shapes) -> Product | None:
    """The layer as a matrix product X W, or None if it does not multiply by weights.

    A convolution is read as (n h w) x (kh kw ci) by (kh kw ci) x co, the columns of X being the windows: elements that
    windows share count once for each. So for convolutions it is the bound of this product, not of the convolution.
    """
    if layer.bound_by not in ARRAYS:
        return None
    weights = next(p for p in layer.weights(shapes).values() if p.fan_in)
    groups, size, last = getattr(layer, "groups", 1), math.prod(weights.shape), weights.shape[-1]
    return Product(layer.flops(shapes) // (2 * size), last // groups, size // last, groups)


def layer_bound(layer: Layer, shapes: Shapes, ranks: int) -> float | None:
    """The sum of the bounds of the three products of a training step, whose sizes are the same; None as above.

    The step as a whole may move less: what one product gathered another may use (the inputs of Y serve dW).
    """
    product = product_of(layer, shapes)
    if product is None:
        return None
    m, n, k, groups = product
    return PRODUCTS * least_words(m, n, k, max(1, ranks // groups))  # groups: at best each has its own ranks


def average_words(programs: Iterable[Program], ranks: Iterable[int]) -> dict[str, float]:
    """The words of every layer in a step, the mean over ``ranks``."""
    programs, ranks = list(programs), list(ranks)
    words: dict[str, float] = {}
    for index in ranks:
        for key, tally in count(build(program, index) for program in programs).steps():
            words[key.layer] = words.get(key.layer, 0.0) + tally.words / len(ranks)
    return words
