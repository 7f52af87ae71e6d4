"""What the experiments of a paper are made of, and how they are kept: a CSV with a row a bar, a PNG, and the claims."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from gridnn.errors import writing
from gridnn.plots.style import save
from gridnn.records import write_rows


class Claim(NamedTuple):
    """What a paper says beside what comes out here."""

    text: str  # what is claimed, in one line
    # paper, ours: both values, with their unit
    paper: str
    ours: str
    holds: bool  # whether ours is the paper's, within what ``text`` or ``why`` says
    why: str = ""  # which reading it needs; where it does not hold, the reason


@dataclass(frozen=True)
class Experiment:
    """A figure or table of a paper, computed here."""

    name: str  # the name of its files: ``gholami-7``
    title: str  # what it shows, in one line
    # tidy: one row a bar, point or cell, with the same keys in all
    rows: Sequence[Mapping[str, Any]]
    claims: Sequence[Claim]  # what the paper says of it
    # draws it into a matplotlib figure, a `SubFigure` (with helpers of `gridnn.plots.style`)
    draw: Callable[[Any], None]
    size: tuple[float, float] = (10.0, 6.0)  # width and height of the picture in inches
    note: str = ""  # stands under the picture and the claims: the machine, and what of it is estimated


def agrees(text: str, paper: float, ours: float, within: float, unit: str = "", why: str = "") -> Claim:
    """The claim that a number of ours is the paper's, up to the relative difference ``within``.

    Examples
    --------
    >>> agrees("speed-up at P=512", 2.5, 2.53, 0.02).holds
    True
    """
    difference = ours / paper - 1 if paper else float(ours != paper)
    note = f"{difference:+.1%}, within {within:.0%} asked"
    texts = (f"{value:.4g} {unit}".strip() for value in (paper, ours))
    return Claim(text, *texts, abs(difference) <= within, f"{why}; {note}" if why else note)


def publish(experiment: Experiment, folder: str | os.PathLike, table: str | os.PathLike | None = None) -> list[str]:
    """Write ``NAME.csv`` (or ``table``), ``NAME-claims.csv`` and ``NAME.png`` into ``folder``; their paths.

    `UserError` if they cannot be written, or matplotlib is not installed.
    """
    with writing("--output", folder):
        os.makedirs(folder, exist_ok=True)
    stem = os.path.join(folder, experiment.name)
    rows = os.fspath(table) if table else f"{stem}.csv"
    claims = f"{stem}-claims.csv"
    with writing("--csv" if table else "--output", rows):
        write_rows(rows, experiment.rows)
    with writing("--output", claims):
        write_rows(claims, [claim._asdict() for claim in experiment.claims])
        save(experiment.draw, f"{stem}.png", experiment.title, experiment.size, experiment.note)
    return [rows, claims, f"{stem}.png"]
