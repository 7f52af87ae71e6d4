"""The tables of the planning commands: a plan layer by layer, plans beside each other, grids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from gridnn.cli.console import table
from gridnn.layout.counts import DIMENSIONS
from gridnn.units import duration, shown


def show_layers(price: Any, out: Console) -> None:
    """Print the split, the movements, words, seconds and memory of every layer, and the totals."""
    passes = f" in {len(price.passes)} passes" if len(price.passes) > 1 else ""
    title = f"grid {price.plan.grid}, batch {price.batch}{passes}: words a step of the slowest rank"
    names = ("layer", "split", "movement of its input")
    rows = table(title, names, (*DIMENSIONS, "time", "share", "/ bound", "memory"))
    for layer in price.layers:
        kinds = dict.fromkeys(m.kind for m in layer.movements if m.phase == "forward")
        words = {dimension: layer.words(dimension) for dimension in DIMENSIONS}
        seconds = layer.seconds
        rows.add_row(
            layer.name,
            str(layer.split),
            ", ".join(kinds),
            *(f"{words[dimension]:,}" if words[dimension] else "" for dimension in DIMENSIONS),
            duration(seconds),
            f"{seconds / price.serial:.1%}" if price.serial else "",
            "" if layer.ratio is None else f"{layer.ratio:.2f}",
            shown(layer.memory),
        )
    rows.add_section()
    whole = price.words()
    totals = (f"{whole[dimension]:,}" for dimension in DIMENSIONS)
    rows.add_row("all", "", "", *totals, duration(price.serial), "", "", shown(price.memory.total))
    out.print(rows)


def show_totals(price: Any, machine: Any, out: Console) -> None:
    """Print what a step takes, of what, on which machine; and what of the machine is estimated."""
    out.print(
        f"step {duration(price.seconds)}: computing {duration(price.compute)}, communication "
        f"{duration(price.communication)}, of which {duration(price.timeline.hidden)} behind computing; "
        f"{price.batch / price.seconds:,.4g} samples/s",
        markup=False,
    )
    if price.plan.certificate:
        out.print(f"certificate: {price.plan.certificate}, of what the search's model without overlap holds")
    memory = price.memory
    parts = ", ".join(f"{term} {shown(count)}" for term, count in memory.terms.items() if count)
    out.print(
        f"memory of a rank {shown(memory.total)}: {parts}; the peak is in {memory.at[0]!r}, {memory.at[1]}",
        markup=False,
    )
    if machine.memory is not None and memory.total > machine.memory:
        out.print(
            f"warning: more than the {shown(machine.memory)} of a rank of {machine.name}; --memory limits the search",
            markup=False,
        )
    show_machine(machine, out)


def show_machine(machine: Any, out: Console) -> None:
    """Print on which machine, and what of it is estimated."""
    out.print(machine.note(), markup=False)


def show_comparison(rows: Sequence[Any], out: Console, title: str) -> None:
    """Print plans beside each other, the fastest first; the ones that cannot be had last, with the reason."""
    possible = sorted((row for row in rows if row.price), key=lambda row: row.price.seconds)
    made = table(title, ("plan", "grid"), ("step", "/ best", "computing", "communication", "words", "memory"))
    for row in possible:
        price = row.price
        made.add_row(
            row.name,
            row.grid,
            duration(price.seconds),
            f"{price.seconds / possible[0].price.seconds:.3f}",
            duration(price.compute),
            duration(price.communication),
            f"{sum(price.words().values()):,}",
            shown(price.memory.total),
        )
    out.print(made)
    for row in rows:
        if row.price is None:
            out.print(f"{row.name}: {row.why}", markup=False)
