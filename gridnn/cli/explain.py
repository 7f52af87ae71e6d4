"""``gridnn explain``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.console import Console

from gridnn.cli.console import console, refusing, table
from gridnn.cli.options import Batch, OtherMachine, PlanFile
from gridnn.cli.tables import show_machine
from gridnn.units import duration, shown

Layer = Annotated[str, typer.Argument(metavar="LAYER", help="the layer to explain")]
Most = Annotated[int, typer.Option("--most", metavar="N", min=1, help="how many alternatives are shown")]


def explain(path: PlanFile, layer: Layer, batch: Batch = None, machine: OtherMachine = None, most: Most = 12) -> None:
    """Show every alternative for one layer of a plan with its cost, what binds, and where the choice turns; no MPI."""
    from gridnn.planning.search.explain import alternatives, turns, verdict
    from gridnn.train.planning import open_priced_plan

    with refusing():
        made = open_priced_plan(path, batch, machine)
        found, chosen = alternatives(made, layer), made.plan.splits[layer]
        out = console()
        _show(layer, found, chosen, most, out)
        out.print(verdict(found, chosen), markup=False)
        _show_turns(layer, *turns(made, layer), out)
        show_machine(made.request.machine, out)


def _show(layer: str, found: Sequence[Any], chosen: Any, most: int, out: Console) -> None:
    place = next(number for number, one in enumerate(found) if one.split == chosen)
    title = (
        f"{layer}: {len(found)} alternatives, all other layers as in the plan (in the search's model, without overlap)"
    )
    rows = table(title, ("", "split", "binds"), ("time", "/ best", *found[0].terms, "memory"))
    for number in (*range(min(most, len(found))), *([place] if place >= most else [])):
        one = found[number]
        mark = "this" if one.split == chosen else ""
        terms = (duration(one.terms[term]) for term in one.terms)
        ratio = f"{one.seconds / found[0].seconds:.3f}" if found[0].seconds else ""
        rows.add_row(mark, str(one.split), one.binds, duration(one.seconds), ratio, *terms, shown(one.memory))
    out.print(rows)


def _show_turns(layer: str, at_batch: Sequence[Any], at_ranks: Sequence[Any], out: Console) -> None:
    rows = table(f"{layer} at other batches and numbers of ranks, all layers chosen anew", ("batch", "P", "split"), ())
    for group in (at_batch, at_ranks):
        for turn in group:
            rows.add_row(f"{turn.batch:,}", f"{turn.ranks:,}", str(turn.split) if turn.split else "cannot be had")
        rows.add_section()
    out.print(rows)
