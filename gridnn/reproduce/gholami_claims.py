"""What Gholami et al. 2018 print over their panels, and the claims made of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from gridnn.reproduce.gholami_bars import Bar
from gridnn.reproduce.gholami_cost import Sizes, best_rows
from gridnn.reproduce.report import Claim

Panel = Sequence[Bar]


class Printed(NamedTuple):
    """The best grid of a panel, its speed-up over the leftmost bar, and that of the communication alone."""

    grid: str | None
    total: float
    communication: float | None = None


# By (B, P); None: not said.
PRINTED = {
    "6": {(2048, 512): Printed("16x32", 2.1, 5.0)},
    "7": {
        (2048, 8): Printed("4x2", 1.1, 2.5),
        (2048, 32): Printed("8x4", 1.3, 3.9),
        (2048, 128): Printed("16x8", 1.9, 6.4),
        (2048, 512): Printed("32x16", 2.5, 9.7),
    },
    "8": {(2048, 512): Printed("4x128", 2.0)},
    "9": {
        (512, 128): Printed("32x4", 2.5),
        (2048, 512): Printed("32x16", 2.5),
        (8192, 2048): Printed("32x64", 2.5),
        (32768, 8192): Printed("32x256", 2.5),
    },
    "10": {
        (512, 512): Printed("64x8", 3.0),
        (512, 1024): Printed(None, 2.8),
        (512, 2048): Printed("128x16", 2.4),
        (512, 4096): Printed("128x32", 2.0),
    },
}


def best(panel: Panel) -> Bar:
    """The lowest bar."""
    return min(panel, key=lambda one: one.total)


def speedups(panel: Panel) -> tuple[float, float]:
    """Of the best bar over the leftmost one: of the whole, and of the communication."""
    first, winner = panel[0], best(panel)
    if not winner.communication:
        return first.total / winner.total, math.inf if first.communication else 1.0
    return first.total / winner.total, first.communication / winner.communication


def winners(figure: str, panels: Sequence[Panel], drawn: Mapping, why: str = "") -> Iterator[Claim]:
    """The best grid and the speed-ups of every panel: as printed over it, else as the ``drawn`` bars say."""
    for panel in panels:
        shown = [drawn[one.figure, one.grid] for one in panel if (one.figure, one.grid) in drawn]
        said = PRINTED[figure].get((panel[0].batch, panel[0].ranks))
        where = f"Fig {figure}, B={panel[0].batch} P={panel[0].ranks}"
        grid = said.grid if said else best(shown).grid if shown else None
        if grid:
            yield Claim(f"{where}: best grid", grid, best(panel).grid, grid == best(panel).grid, why)
        if said:
            total, communication = speedups(panel)
            yield _rounded(f"{where}: speed-up over {panel[0].grid}", said.total, total, why)
            if said.communication:
                yield _rounded(f"{where}: speed-up of communication", said.communication, communication, why)


def _rounded(text: str, paper: float, ours: float, why: str) -> Claim:
    return Claim(text, f"{paper:.1f}", f"{ours:.2f}", abs(ours - paper) < 0.05 + 1e-9, why)


def oracle(figure: str, layers: Sequence[Sizes], panels: Sequence[Panel]) -> Iterator[Claim]:
    """Whether the power of two nearest to Pr* is the best Pr of every panel: in the paper, and here."""
    on_grid = [layer for layer in layers if not layer.kernel]
    for panel in panels:
        first = panel[0]
        rows = best_rows(on_grid, first.batch, first.ranks)
        nearest = min((one.rows for one in panel), key=lambda size: abs(size - rows))
        said = PRINTED[figure].get((first.batch, first.ranks))
        grids = {best(panel).grid, said.grid or best(panel).grid if said else best(panel).grid}
        predicted = f"{nearest}x{first.ranks // nearest}"
        text = f"Fig {figure}, B={first.batch} P={first.ranks}: Pr* picks the best grid"
        yield Claim(text, " or ".join(sorted(grids)), predicted, grids == {predicted}, f"Pr* = {rows:.1f}")


def heights(text: str, panels: Sequence[Panel], drawn: Mapping, within: float, why: str) -> Claim:
    """Whether the totals of all bars that were read off the paper are met, up to ``within``."""
    pairs = [(one, drawn[one.figure, one.grid]) for panel in panels for one in panel if (one.figure, one.grid) in drawn]
    errors = {one: one.total / shown.total - 1 for one, shown in pairs}
    worst = max(errors, key=lambda one: abs(errors[one]))
    shown = drawn[worst.figure, worst.grid]
    note = f"{why}; of {len(pairs)} bars the worst: {errors[worst]:+.1%} ({worst.figure} {worst.grid})"
    holds = abs(errors[worst]) <= within
    return Claim(f"{text}, within {within:.0%}", f"{shown.total:.1f} s", f"{worst.total:.1f} s", holds, note)
