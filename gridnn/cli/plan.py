"""``gridnn plan``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from gridnn.cli.console import console, refusing
from gridnn.cli.options import DEFAULT_MACHINE, Json, MachineName, Memory, Pictures, configured
from gridnn.cli.tables import show_comparison, show_layers, show_totals
from gridnn.errors import UserError, writing
from gridnn.records import OutputFile
from gridnn.train.config import RunConfig

Ranks = Annotated[int, typer.Option("--ranks", metavar="P", min=1, help="the number of ranks to plan for")]
Output = Annotated[str | None, typer.Option("-o", "--output", metavar="FILE", help="write the plan as JSON")]
Sweep = Annotated[bool, typer.Option("--sweep", help="price every strategy on every grid")]
Csv = Annotated[str | None, typer.Option("--csv", metavar="FILE", help="write the sweep as CSV")]
Sensitivity = Annotated[bool, typer.Option("--sensitivity", help="choose again with the machine's constants 2x off")]

Schedule = Annotated[bool, typer.Option("--schedule", help="print every operation of a step, and the critical path")]
Rank = Annotated[int | None, typer.Option("--rank", metavar="R", min=0, help="of --schedule; default: the slowest one")]
Verify = Annotated[bool, typer.Option("--verify", help="try every choice (small networks): optimal, layerwise")]

VERIFIED = ("optimal", "layerwise")


@configured("plan", dataset=None)
def plan(
    config: RunConfig,
    ranks: Ranks,
    machine: MachineName = DEFAULT_MACHINE,
    memory: Memory = None,
    output: Output = None,
    sweep_all: Sweep = False,
    csv: Csv = None,
    sensitivity: Sensitivity = False,
    verify: Verify = False,
    schedule: Schedule = False,
    rank: Rank = None,
    json: Json = None,
    pictures: Pictures = None,
) -> None:
    """Choose and price a plan for P ranks: split, words, seconds and memory of every layer, without MPI.

    Without --dataset samples are as the network was published for, or --shape and --classes.
    """
    from gridnn.cli.schedule import show_schedule
    from gridnn.cli.show import show_sensitivity, show_verified
    from gridnn.train.planning import make_priced_plan

    with refusing():
        if csv and not sweep_all:
            raise UserError(f"--csv {csv} is for a sweep: add --sweep")
        if verify and (config.plan.plan or config.plan.divider not in VERIFIED):
            made_by = f"--plan {config.plan.plan}" if config.plan.plan else config.plan.divider
            raise UserError(f"--verify is for a search: --strategy {' or '.join(VERIFIED)}, not {made_by}")
        if verify and memory:
            raise UserError(f"--verify tries every choice, whatever its memory: leave --memory {memory} out")
        if rank is not None and not schedule:
            raise UserError(f"--rank {rank} is of --schedule: add it")
        if rank is not None and rank >= ranks:
            raise UserError(f"--rank {rank}: {ranks} ranks are numbered from 0 to {ranks - 1}")
        for option, path in (("--output", output), ("--csv", csv), ("--json", json)):
            if path:
                OutputFile(option, path)
        made = make_priced_plan(config, ranks, machine, memory)
        if output:
            with writing("--output", output):
                made.plan.save(output)
        show_layers(made.price, console())
        show_totals(made.price, made.request.machine, console())
        _show_comparison(made, config.model.model, sweep_all, csv, json, pictures)
        if schedule:
            show_schedule(made.price if rank is None else made.request.price(made.plan, rank), console())
        if sensitivity:
            show_sensitivity(made, console())
        if verify:
            show_verified(made, console())


def _show_comparison(
    made: Any, model: str, sweep_all: bool, csv: str | None, json: str | None, pictures: str | None
) -> None:
    """Print the plan beside others, and write what is asked for."""
    from gridnn.cli.show import write_csv, write_json
    from gridnn.planning.search.baselines import compare, sweep
    from gridnn.plots.plans import save_pictures

    rows = sweep(made) if sweep_all else compare(made)
    title = "every strategy on every grid" if sweep_all else "the named strategies, each on its best grid"
    show_comparison(rows, console(), title)
    if csv:
        write_csv(csv, rows)
    if json:
        write_json(json, made.price, rows[1:])
    if pictures:
        save_pictures(pictures, model, made, rows, swept=sweep_all)
