"""``gridnn plan``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import Console

from gridnn.cli.console import console, table
from gridnn.cli.options import NETWORK, configured
from gridnn.comm.counts import DIMENSIONS
from gridnn.comm.job import MISUSED
from gridnn.errors import UserError, user_mistakes, writing
from gridnn.program import Program, pass_sizes, predict_step
from gridnn.train.config import RunConfig

Ranks = Annotated[int, typer.Option("--ranks", metavar="P", min=1, help="the number of ranks to plan for")]
Output = Annotated[str | None, typer.Option("-o", "--output", metavar="FILE", help="write the plan as JSON")]


@configured(NETWORK)
def plan(config: RunConfig, ranks: Ranks, output: Output = None) -> None:
    """Show the split of every layer and the words that a rank will move in a step, without MPI."""
    from gridnn.train.setup import set_up

    try:
        config.validate()
        with user_mistakes():
            made = set_up(config, ranks)
        if output:
            with writing("--output", output):
                made.plan.save(output)
    except UserError as error:
        print(f"gridnn: {error}", file=sys.stderr)
        raise typer.Exit(MISUSED) from None
    passes = pass_sizes(made.batch, config.accumulate)
    programs = {size: made.compiled(size) for size in set(passes)}
    show([programs[size] for size in passes], console())


def show(programs: Sequence[Program], out: Console) -> None:
    """Print the split, the movements and the words of every layer in a step, on the rank that moves most."""
    first = programs[0]
    ledgers = [predict_step(programs, index) for index in sample(first)]
    ledger = max(ledgers, key=lambda one: sum(one.words_by_dimension().values()))
    passes = f" in {len(programs)} passes" if len(programs) > 1 else ""
    batch = sum(program.batch for program in programs)
    title = f"grid {first.plan.grid}, batch {batch}{passes}: words a step of the rank that moves most"
    rows = table(title, ("layer", "split", "movement of its input"), DIMENSIONS)
    for step in first.steps:
        kinds = [stage.kind for edge in step.edges if edge.transfer for stage in edge.transfer.stages]
        words = [ledger.words_of(step.name, dimension) for dimension in DIMENSIONS]
        rows.add_row(step.name, str(step.split), ", ".join(kinds), *(f"{count:,}" if count else "" for count in words))
    rows.add_section()
    rows.add_row("all", "", "", *(f"{count:,}" for count in ledger.words_by_dimension().values()))
    out.print(rows)


def sample(program: Program) -> list[int]:
    """The ranks to look at: all of a small grid; corners and middle of a large one, whose inner ranks are alike."""
    rows, ranks = program.rows, program.ranks
    if ranks <= 64:
        return list(range(ranks))
    return sorted({0, rows - 1, rows // 2, ranks - rows, ranks - 1, ranks // 2, ranks // 2 + rows // 2})
