"""``gridnn plan --schedule``: a step of one rank, from top to bottom."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape

from gridnn.cli.console import table
from gridnn.units import duration

MOST = 5  # named of what computes, of what is waited for, and of what is hidden


def show_schedule(price: Any, out: Console) -> None:
    """Print the operations of every pass; passes that are alike once."""
    from gridnn.cost.rows import rows

    order = price.plan.grid.order
    seen: dict[int, int] = {}
    for number, (schedule, made) in enumerate(rows(price), 1):
        name = f"pass {number} of {len(price.passes)}"
        if id(schedule) in seen:
            out.print(f"{name}: as pass {seen[id(schedule)]}", markup=False)
            continue
        seen[id(schedule)] = number
        title = f"{name} on rank {price.rank}, of a grid {price.plan.grid} in {order} order, on {price.machine}"
        numbers = ("starts", "bytes", "words", "messages", "computes", "moves", "waits")
        shown = table(title, ("", "phase", "layer", "operation", "buffers"), numbers)
        for row in made:
            integers = (f"{value:,}" if value else "" for value in (row.bytes, row.words, row.messages))
            times = (duration(value) if value else "" for value in (row.computing, row.moving, row.waiting))
            texts = (str(row.number), row.phase, row.layer, row.operation, row.buffers, duration(row.start))
            shown.add_row(*map(escape, texts), *integers, *times)
        out.print(shown)
    show_critical_path(price.timeline, out)


def show_critical_path(line: Any, out: Console) -> None:
    """Print what the end of the step waits for, and what is hidden behind computation."""
    hidden = line.hidden_movements()
    texts = (
        f"critical path {duration(line.seconds)} = computing {duration(line.compute)} "
        f"+ waiting {duration(line.exposed)}",
        f"computing: {_listed(line.computed())}",
        f"waiting for: {_listed(line.waited_for())}",
        f"hidden behind computing, {duration(sum(hidden.values()))}: {_listed(hidden)}",
    )
    for text in texts:
        out.print(text, markup=False)


def _listed(seconds: Mapping[str, float]) -> str:
    """The longest of them, and how many there are besides."""
    first = [f"{name} {duration(value)}" for name, value in list(seconds.items())[:MOST]]
    rest = list(seconds.values())[MOST:]
    others = [f"{len(rest)} others {duration(sum(rest))}"] if rest else []
    return ", ".join([*first, *others]) or "nothing"
