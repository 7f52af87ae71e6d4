"""The closed forms of Gholami et al. 2018 for whole networks, beside which any plan's cost is compared."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction

from gridnn.layout.split import Split
from gridnn.reproduce.gholami_cost import Sizes, Term, gather, halos


def model_parallel(layers: Iterable[Sizes], batch: int, ranks: int) -> Term:
    """Eq (3)."""
    return add_up(3 * gather(batch * layer.outputs, ranks) for layer in layers)


def batch_parallel(layers: Iterable[Sizes], ranks: int) -> Term:
    """Eq (4)."""
    return add_up(2 * gather(layer.weights, ranks) for layer in layers)


def domain_parallel(layers: Sequence[Sizes], batch: int, ranks: int) -> Term:
    """Eq (7): images divided by height over all ranks."""
    split = Split.of(h=ranks)
    return add_up(halos(layer, batch, split) for layer in layers) + batch_parallel(layers, ranks)


def grid_parallel(layers: Iterable[Sizes], batch: int, rows: int, cols: int) -> Term:
    """Eq (8), the 1.5D algorithm on ``rows`` x ``cols`` = Pr x Pc ranks."""
    return add_up(
        3 * gather(Fraction(batch, cols) * layer.outputs, rows) + 2 * gather(Fraction(layer.weights, rows), cols)
        for layer in layers
    )


def integrated(model: Sequence[Sizes], domain: Sequence[Sizes], batch: int, rows: int, cols: int) -> Term:
    """Eq (9): the layers ``model`` (L_M) by (8), the layers ``domain`` (L_D) divide their images over the Pr rows."""
    split, samples = Split.of(h=rows), Fraction(batch, cols)
    moved = add_up(halos(layer, samples, split) for layer in domain)
    return grid_parallel(model, batch, rows, cols) + moved + batch_parallel(domain, rows * cols)


def nearest_rows(rows: float, ranks: int) -> int:
    """The power of two nearest to ``rows``, of those up to ``ranks``."""
    return min((2**i for i in range(ranks.bit_length())), key=lambda power: abs(power - rows))


def add_up(terms: Iterable[Term]) -> Term:
    """The sum of some terms."""
    return sum(terms, Term())
