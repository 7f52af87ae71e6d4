"""``gridnn explain``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.console import Console

from gridnn.cli.console import console, refusing, table
from gridnn.cli.options import Batch, OtherMachine, PlanFile
from gridnn.cli.tables import show_machine
from gridnn.search.sensitivity import CLOSE
from gridnn.units import duration, shown

Layer = Annotated[str, typer.Argument(metavar="LAYER", help="the layer to explain")]
Most = Annotated[int, typer.Option("--most", metavar="N", min=1, help="how many alternatives are shown")]


def explain(path: PlanFile, layer: Layer, batch: Batch = None, machine: OtherMachine = None, most: Most = 12) -> None:
    """Show every alternative for one layer of a plan with its cost, what binds, and where the choice turns; no MPI."""
    from gridnn.search.explain import alternatives, turns
    from gridnn.train.planned import reopened

    with refusing():
        made = reopened(path, batch, machine)
        options = {**made.setting, "at_most": made.at_most}
        found = alternatives(made.network, made.plan.splits, made.smallest, made.machine, layer, **options)
        out = console()
        _show(made, layer, found, most, out)
        at_batch, at_ranks = turns(made.network, made.ranks, made.smallest, made.machine, layer, **options)
        _show_turns(layer, at_batch, at_ranks, out)
        show_machine(made.machine, out)


def _show(made: Any, layer: str, found: Sequence[Any], most: int, out: Console) -> None:
    chosen = made.plan.splits[layer]
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
    out.print(_verdict(found, place), markup=False)


def _verdict(found: Sequence[Any], place: int) -> str:
    """One line on what decides between the plan's split and the next best."""
    own = found[place]
    if len(found) == 1:
        return f"{own.split} is the only split that this layer can have"
    other = found[0] if place else found[1]
    differences = {term: other.terms[term] - own.terms[term] for term in own.terms}
    term = max(differences, key=lambda name: abs(differences[name]))
    gap = other.seconds / own.seconds - 1
    if abs(gap) < CLOSE:
        return f"too close to call: {other.split} is within {abs(gap):.1%} of {own.split}"
    more = "more" if differences[term] > 0 else "less"
    note = "" if gap > 0 else "; it is here for the layers around it, or for what overlaps"
    return f"{other.split} takes {gap:+.1%}, most of it for {abs(differences[term]) * 1e3:.3g} ms {more} {term}{note}"


def _show_turns(layer: str, at_batch: Sequence[Any], at_ranks: Sequence[Any], out: Console) -> None:
    rows = table(f"{layer} at other batches and numbers of ranks, all layers chosen anew", ("batch", "P", "split"), ())
    for group in (at_batch, at_ranks):
        for turn in group:
            rows.add_row(f"{turn.batch:,}", f"{turn.ranks:,}", str(turn.split) if turn.split else "cannot be had")
        rows.add_section()
    out.print(rows)
