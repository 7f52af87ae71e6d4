"""The papers and their experiments by name; none of them is loaded before it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from gridnn.errors import UserError, unknown

# The experiments of every paper by name; "measure" is no paper: predicted and measured seconds of many plans.
PAPERS = {
    "gholami": ("4", "6", "7", "8", "9", "10", "exact"),
    "optcnn": ("table3", "table5", "fig7", "fig8"),
    "soybean": ("example", "conversions", "speedup"),
    "splitbrain": ("memory", "scaling"),
}
ALL, MEASURE = "all", "measure"


def select(paper: str, name: str = ALL) -> list[tuple[str, str]]:
    """The experiments that are meant, as (paper, name); `UserError` if there is no such paper or experiment."""
    if paper == ALL:
        if name != ALL:
            raise UserError(f"reproduce all {name}: all is every paper; name the paper of {name!r}, or leave it out")
        return [(one, experiment) for one, names in PAPERS.items() for experiment in names]
    if paper not in PAPERS:
        raise unknown("paper", paper, [*PAPERS, ALL, MEASURE])
    if name == ALL:
        return [(paper, experiment) for experiment in PAPERS[paper]]
    if name not in PAPERS[paper]:
        raise unknown(f"{paper} experiment", name, PAPERS[paper])
    return [(paper, name)]


def experiments(paper: str) -> Mapping[str, Callable[[], Any]]:
    """The experiments of a paper, each a function that computes it; loaded when asked for."""
    return import_module(f"gridnn.reproduce.{paper}").EXPERIMENTS
