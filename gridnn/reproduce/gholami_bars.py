"""The bars of Gholami et al. 2018 (arXiv 1712.04432), Figs 6-10, from the paper's closed forms and AlexNet's sizes.

What the figures need beyond the text was found out by comparison: see docs/gholami.md.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from importlib import resources
from typing import NamedTuple

from gridnn.layers import SoftmaxCrossEntropy
from gridnn.layout.split import Split
from gridnn.models import get_model
from gridnn.network import Network
from gridnn.reproduce.gholami_cost import Sizes, Term, gather, halos, redistribution

IMAGES = 1_200_000  # N, of an epoch
BATCH = 2048
ALPHA, BETA = 2e-6, 4 / (6 * 2**30)  # seconds a message, and a 4-byte word: 2 us, 6 GiB/s
FLATTENED = 4096  # d of the redistribution (6) between convolutions and fully connected layers, as drawn

# One-epoch seconds on one KNL by local batch: as Fig 4 prints them, and as the compute bars of Figs 6-10 imply them.
ONE_KNL = (30747.0, 17295.0, 9609.0, 5925.0, 3923.0, 2843.0, 2322.0, 2032.0, 1777.0, 1827.0, 1922.0, 2434.0)
FIGURE_4 = {2**power: seconds for power, seconds in enumerate(ONE_KNL)}
IMPLIED = {1: 35000.0, 4: 11450.0, 16: 4590.0, 64: 2780.0, 256: 2240.0}


class Bar(NamedTuple):
    """A bar of a figure: a grid, and the seconds of an epoch in three parts."""

    figure: str
    batch: int
    ranks: int
    rows: int
    compute: float
    model: float
    summed: float
    exposed: float | None = None

    @property
    def grid(self) -> str:
        """Pr x Pc."""
        return f"{self.rows}x{self.ranks // self.rows}"

    @property
    def communication(self) -> float:
        """The seconds of communication that are seen: under overlap fewer than all."""
        return self.model + (self.summed if self.exposed is None else self.exposed)

    @property
    def total(self) -> float:
        """The seconds of an epoch."""
        return self.compute + self.communication

    def as_row(self) -> dict:
        """The columns of the CSV files."""
        return {
            "figure": self.figure,
            "B": self.batch,
            "P": self.ranks,
            "grid": self.grid,
            "compute_s": self.compute,
            "model_comm_s": self.model,
            "batch_comm_s": self.communication - self.model,
            "total_s": self.total,
        }


def alexnet_with_loss() -> Network:
    """The network of the figures."""
    network = get_model("alexnet", (227, 227, 3), 1000, dropout=0.0)
    network.add("loss", SoftmaxCrossEntropy())
    return network


def halo_printed(layer: Sizes, samples: Fraction) -> Term:
    """The halos of a convolution divided by height, as (7) and (9) print them."""
    return halos(layer, samples, Split.of(h=2))


def halo_drawn(layer: Sizes, samples: Fraction) -> Term:
    """The halos of a convolution as Figs 6 and 10 draw them: k/2 is not rounded, and the second sum counts twice."""
    edges = (shape[1] * shape[2] for shape in (layer.inside, layer.outside))
    forward, backward = (samples * edge * taps / 2 for edge, taps in zip(edges, layer.kernel, strict=True))
    return Term(2, forward + 2 * backward)


class Reading(NamedTuple):
    """How a figure treats the convolutions.

    ``convolutions`` is ``batch`` (4), ``model`` (8), ``domain`` (9) or ``beyond``: the domain in P/B parts where P > B.
    """

    convolutions: str
    halo: Callable[[Sizes, Fraction], Term] = halo_drawn
    redistribution: bool = True


def step(layers: Sequence[Sizes], grid: tuple[int, int, int], reading: Reading) -> tuple[Term, Term]:
    """What a step on the grid (B, P, Pr) moves: activations and halos, and sums of gradients.

    Fully connected layers follow (8), convolutions (4), (8) or (9) as ``reading`` says.
    """
    batch, ranks, rows = grid
    samples = Fraction(batch * rows, ranks)
    parts = {"domain": rows, "beyond": max(1, ranks // batch)}.get(reading.convolutions, 1)
    model = gradients = Term()
    for layer in layers:
        divided = rows if reading.convolutions == "model" or not layer.kernel else 1  # the model, into so many
        model += 3 * gather(samples * layer.outputs, divided)
        gradients += 2 * gather(Fraction(layer.weights, divided), ranks // divided)
        if layer.kernel and parts > 1:
            model += reading.halo(layer, Fraction(batch * parts, ranks))
    if reading.redistribution and rows > 1:
        model += redistribution(FLATTENED, samples, rows)
    return model, gradients


def powers(start: int, stop: int) -> list[int]:
    """``start``, twice that, ... up to ``stop``."""
    return list(itertools.takewhile(lambda rows: rows <= stop, (start * 2**i for i in range(64))))


# -- the figures ------------------------------------------------------------------------------------------------

GRID = Reading("model", redistribution=False)
DOMAIN_PRINTED = Reading("domain", halo_printed)
DOMAIN_DRAWN = Reading("domain", halo_drawn)
PURE_BATCH = Reading("batch")
BEYOND_BATCH = Reading("beyond")


def panels(figure: str, layers: Sequence[Sizes], reading: Reading, cases: Sequence[tuple[int, int]]) -> Iterator[list]:
    """The bars of every panel, (B, P), of a figure, from the leftmost on, the one with the fewest rows."""
    for letter, (batch, ranks) in zip("abcd", cases, strict=False):
        least = max(1, ranks // batch)
        compute = IMPLIED[max(1, batch // ranks)]
        name, most = f"{figure}{letter}", min(ranks, 1024)
        moved = ((rows, step(layers, (batch, ranks, rows), reading)) for rows in powers(least, most))
        yield [Bar(name, batch, ranks, rows, compute / ranks, *_seconds(terms, batch)) for rows, terms in moved]


def _seconds(moved: Sequence[Term], batch: int) -> list[float]:
    """The seconds of an epoch whose steps move so much."""
    return [float(term.seconds(ALPHA, BETA)) * IMAGES / batch for term in moved]


STRONG = [(BATCH, ranks) for ranks in (8, 32, 128, 512)]
WEAK = [(ranks * 4, ranks) for ranks in (128, 512, 2048, 8192)]
LARGE = [(512, ranks) for ranks in (512, 1024, 2048, 4096)]


def overlapped(one: Bar, share: float) -> Bar:
    """The bar with the sums of gradients behind ``share`` of the computation, as far as they fit."""
    return one._replace(exposed=max(0.0, one.summed - share * one.compute))


def drawn() -> list[Bar]:
    """The bars of Figs 6 and 7 as the paper draws them."""
    text = (resources.files("gridnn.reproduce") / "data" / "gholami_fig6_fig7.csv").read_text(encoding="utf-8")
    found = []
    for row in csv.DictReader(text.splitlines()):
        seconds = (float(row[key]) for key in ("compute_s", "model_or_domain_comm_s", "batch_comm_s"))
        rows = int(row["PrxPc"].split("x")[0])
        found.append(Bar(row["figure"], int(row["B"]), int(row["P"]), rows, *seconds))
    return found
