"""``gridnn check --last``: what the ranks of the last job that stalled or died did."""

from __future__ import annotations

import time

from rich.console import Console

from gridnn.cli.console import table
from gridnn.comm.flight import Flown, last_flown
from gridnn.units import duration


def show_last(operations: int, out: Console) -> None:
    """Print the newest records: a row a rank, and its last ``operations``."""
    flown = last_flown()
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(flown.when))
    out.print(f"{when}: {flown.reason}", markup=False, soft_wrap=True)
    out.print(f"{flown.command}\n{flown.folder}", markup=False, soft_wrap=True)
    out.print(_ranks(flown))
    for rank, rows in flown.operations.items() if operations else ():
        listed = table(f"the last operations of rank {rank}", ("step", "operation"), ("pass begun before",))
        for step, age, text in rows[-operations:]:
            listed.add_row(str(step) if step else "evaluation", text, duration(age))
        out.print(listed)


def _ranks(flown: Flown) -> object:
    title = f"{flown.ranks} rank{'s' * (flown.ranks > 1)}"
    rows = table(title, ("rank", "node", "state", "what it did", "where"), ("for",))
    for rank, one in flown.seen.items():
        state = one.state or ("waits" if one.waits else "works")
        rows.add_row(str(rank), one.node, state, one.doing, one.where, duration(one.seconds))
    if unknown := flown.ranks - len(flown.seen):
        rows.add_row("...", f"{unknown} more", "have left no record on this node", "", "", "")
    return rows
