"""``gridnn price`` and ``gridnn compare``."""

from __future__ import annotations

from typing import Annotated

import typer

from gridnn.cli.console import console, table
from gridnn.cli.planning import Batch, Json, PlanFile, Planned, refusing, reopened
from gridnn.cli.show import write_json
from gridnn.cli.tables import Beside, duration, show_beside, show_layers, show_totals

OtherMachine = Annotated[
    str | None, typer.Option("--machine", metavar="NAME|FILE", help="default: the one that the plan was made for")
]


def price(path: PlanFile, batch: Batch = None, machine: OtherMachine = None, json: Json = None) -> None:
    """Price a plan's file, for its own batch and machine or for others; no MPI."""
    with refusing():
        made = reopened(path, batch, machine)
        out = console()
        show_layers(made.price, out)
        show_totals(made.price, made.machine, out)
        _say_otherwise(made, out)
        if json:
            write_json(json, made, [Beside(made.plan.strategy, str(made.plan.grid), made.price)])


def _say_otherwise(made: Planned, out) -> None:
    origin = made.plan.made_for
    if origin.batch != made.batch or origin.machine != made.machine.name:
        out.print(f"note: the plan was made for batch {origin.batch} on {origin.machine}", markup=False)


First = Annotated[str, typer.Argument(metavar="A", help="a plan's file")]
Second = Annotated[str, typer.Argument(metavar="B", help="another one, of the same network")]


def compare(first: First, second: Second, batch: Batch = None, machine: OtherMachine = None) -> None:
    """Compare two plans of a network: the layers that they divide otherwise, and what each costs; no MPI."""
    with refusing():
        one = reopened(first, batch, machine)
        other = reopened(second, batch or one.batch, machine or one.plan.made_for.machine)
        one.plan.made_for.check(other.network)
        out = console()
        rows = table(
            "layers that are divided otherwise", ("layer", "A", "B"), ("A takes", "B takes", "words A", "words B")
        )
        for a, b in zip(one.price.layers, other.price.layers, strict=True):
            if a.split != b.split:
                words = (f"{sum(m.words for m in layer.movements):,}" for layer in (a, b))
                rows.add_row(a.name, str(a.split), str(b.split), duration(a.seconds), duration(b.seconds), *words)
        out.print(rows if rows.row_count else "both divide every layer in the same way")
        plans = [
            Beside(f"{letter}: {made.plan.strategy}", str(made.plan.grid), made.price)
            for letter, made in (("A", one), ("B", other))
        ]
        show_beside(plans, out, f"batch {one.batch} on {one.machine.name}")
