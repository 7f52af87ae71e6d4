"""What the planning commands print and write beside their tables: what a choice rests on, JSON and CSV."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from gridnn.cli.console import table
from gridnn.cost.price import Price
from gridnn.errors import writing
from gridnn.planning.search.baselines import Baseline
from gridnn.planning.search.request import PricedPlan
from gridnn.planning.search.sensitivity import sensitivity, verdict
from gridnn.planning.search.verify import verify_plan
from gridnn.records import OutputFile, write_rows

PATIENCE = 60  # seconds in which every choice may be tried


def show_sensitivity(made: PricedPlan, out: Console) -> None:
    """Print how the choice moves when alpha, beta or the compute rate is off by 2x."""
    shifts = sensitivity(made)
    rows = table(
        "if the machine were otherwise", ("constant", "times", "best plan then"), ("layers otherwise", "we lose")
    )
    for shift in shifts:
        best = f"{shift.best.strategy} on {shift.best.grid}" if shift.changed else "this one"
        rows.add_row(shift.constant, f"{shift.factor:g}", best, f"{len(shift.changed)}", f"{shift.loss:.1%}")
    out.print(rows)
    out.print(verdict(shifts), markup=False)


def show_verified(made: PricedPlan, out: Console) -> None:
    """Print whether elimination and a depth-first search over all choices find the same optimum."""
    found = verify_plan(made, PATIENCE)
    first, second = found.eliminated.value, found.searched.value
    if found.is_equal is None:
        out.print(f"verify: not every choice was tried in {PATIENCE} s; the best so far takes {second:.6g} s")
        return
    told = "the same optimum" if found.is_equal else "ANOTHER OPTIMUM"
    out.print(f"verify: {told}: elimination {first:.6g} s, trying every choice {second:.6g} s", markup=False)


def write_csv(path: str, rows: Sequence[Baseline]) -> None:
    """One line a plan: strategy, grid, seconds, words, bytes; empty where it cannot be had."""
    with writing("--csv", path):
        write_rows(path, [row.as_row() for row in rows])


def write_json(path: str, price: Price, baselines: Sequence[Baseline] = ()) -> None:
    """The price layer by layer, and those of the other plans."""
    rows = [{**row.as_row(), **({"why": row.why} if row.why else {})} for row in baselines]
    OutputFile("--json", path).write_json({**price.as_dict(), "baselines": rows})
