"""``gridnn price`` and ``gridnn compare``."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console

from gridnn.cli.console import console, refusing, table
from gridnn.cli.options import Batch, Json, OtherMachine, PlanFile
from gridnn.cli.tables import show_comparison, show_layers, show_machine, show_totals
from gridnn.errors import UserError, unknown
from gridnn.units import duration

COSTS = ("exact", "paper")
Cost = Annotated[str, typer.Option("--cost", metavar="NAME", help="exact: what moves; paper: Gholami et al. 2018")]


def price(
    path: PlanFile, batch: Batch = None, machine: OtherMachine = None, cost: Cost = "exact", json: Json = None
) -> None:
    """Price a plan's file, for its own batch and machine or for others; no MPI."""
    from gridnn.cli.show import write_json
    from gridnn.train.baselines import Baseline
    from gridnn.train.planned import reopened

    with refusing():
        if cost not in COSTS:
            raise unknown("cost model", cost, COSTS)
        if cost == "paper" and json:
            raise UserError(f"--json {json} is of the cost model exact: leave out --cost paper")
        made = reopened(path, batch, machine)
        out = console()
        if cost == "paper":
            _show_paper(made, out)
            return
        show_layers(made.price, out)
        show_totals(made.price, made.machine, out)
        _say_otherwise(made, out)
        if json:
            write_json(json, made, [Baseline(made.plan.strategy, str(made.plan.grid), made.price)])


def _show_paper(made: Any, out: Console) -> None:
    """Print the communication by the paper's formulas, beside what is priced exactly."""
    from gridnn.cost.gholami import paper_cost
    from gridnn.train.setup import bytes_of

    sizes = bytes_of(made.config)
    found = paper_cost(made.network, made.plan, made.batch, made.machine, sizes["itemsize"])
    names = ("activations", "halos", "gradients", "redistributed")
    rows = table("communication by eqs (3) to (9) of Gholami et al. 2018", ("layer", "split"), ("words", *names))
    for layer in found.layers:
        terms = [getattr(layer, name) for name in names]
        times = (duration(float(term.seconds(found.alpha, found.beta))) for term in terms)
        rows.add_row(layer.name, str(layer.split), f"{float(sum(term.words for term in terms)):,.0f}", *times)
    rows.add_section()
    rows.add_row("all", "", f"{float(found.total.words):,.0f}", duration(found.seconds))
    out.print(rows)
    out.print(f"exact: {sum(made.price.words().values()):,} words, {duration(made.price.communication)}", markup=False)


def _say_otherwise(made: Any, out) -> None:
    origin = made.plan.made_for
    if origin.batch != made.batch or origin.machine != made.machine.name:
        out.print(f"note: the plan was made for batch {origin.batch} on {origin.machine}", markup=False)


First = Annotated[str, typer.Argument(metavar="A", help="a plan's file")]
Second = Annotated[str, typer.Argument(metavar="B", help="another one, of the same network")]


def compare(first: First, second: Second, batch: Batch = None, machine: OtherMachine = None) -> None:
    """Compare two plans of a network: the layers that they divide otherwise, and what each costs; no MPI."""
    from gridnn.train.baselines import Baseline
    from gridnn.train.planned import reopened

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
            Baseline(f"{letter}: {made.plan.strategy}", str(made.plan.grid), made.price)
            for letter, made in (("A", one), ("B", other))
        ]
        show_comparison(plans, out, f"batch {one.batch} on {one.machine.name}")
        show_machine(one.machine, out)
