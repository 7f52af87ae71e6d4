"""``gridnn reproduce``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.console import Console

from gridnn.cli.console import console, refusing, table
from gridnn.cli.options import DEFAULT_MACHINE
from gridnn.comm.job import Job, run
from gridnn.errors import UserError
from gridnn.reproduce.catalogue import ALL, MEASURE, PAPERS, experiments, select

ROUNDS = 5  # of --measure
Paper = Annotated[str, typer.Argument(metavar="PAPER", help=f"{', '.join(PAPERS)}, {ALL}, or {MEASURE}: needs mpirun")]
Name = Annotated[str, typer.Argument(metavar="[NAME]", help="a figure or table, as 7 or table5; default: all of them")]
Csv = Annotated[str | None, typer.Option("--csv", metavar="FILE", help="where the rows of one experiment go")]
Output = Annotated[str, typer.Option("--output", metavar="DIR", help="where CSV and PNG go")]
Measure = Annotated[bool, typer.Option("--measure", help="gholami 7 in small, really run on the ranks of this job")]
Machine = Annotated[str, typer.Option("--machine", metavar="NAME|FILE", help="with --measure: what predicts")]
Rounds = Annotated[int, typer.Option("--rounds", metavar="N", min=1, help="with --measure: times every plan is run")]


def runs_alone(arguments: Sequence[str]) -> bool:
    """Whether the command line is a ``reproduce`` that needs no MPI, so that one rank's answer is enough."""
    return arguments[:1] == ["reproduce"] and not {MEASURE, f"--{MEASURE}"} & set(arguments)


def reproduce(
    paper: Paper,
    name: Name = ALL,
    path: Csv = None,
    output: Output = "results/reproduce",
    measure: Measure = False,
    machine: Machine = DEFAULT_MACHINE,
    rounds: Rounds = ROUNDS,
) -> None:
    """Repeat the experiments of a paper: a CSV and a PNG each, and what the paper claims beside what comes out."""
    if measure or paper == MEASURE:
        run(lambda job: _measure(job, paper, name, path, output, machine, rounds))
    with refusing():
        chosen = select(paper, name)
        if path and len(chosen) > 1:
            raise UserError(
                f"--csv {path} takes the rows of one experiment, but these are {len(chosen)}: name one, "
                f"as in gridnn reproduce {chosen[0][0]} {chosen[0][1]} --csv {path}; or use --output DIR for all"
            )
        _refuse_idle(machine, rounds)
        out = console()
        for one, experiment in chosen:
            _publish(experiments(one)[experiment](), output, path, out)


def _refuse_idle(machine: str, rounds: int) -> None:
    for option, value, default in (("--machine", machine, DEFAULT_MACHINE), ("--rounds", rounds, ROUNDS)):
        if value != default:
            raise UserError(f"{option} {value} has no effect without --measure: leave it out, or add --measure")


def _publish(experiment: Any, output: str, path: str | None, out: Console) -> None:
    from gridnn.reproduce.report import publish

    files = publish(experiment, output, path)
    show(experiment, out)
    out.print(f"wrote {', '.join(files)}\n")


def show(experiment: Any, out: Console) -> None:
    """Print a line per claim: paper, ours, whether it holds, and why."""
    rows = table(experiment.title, ("claim", "paper", "ours", "holds", "why"), ())
    for claim in experiment.claims:
        verdict = "yes" if claim.holds else "NO"
        rows.add_row(claim.text, claim.paper, claim.ours, verdict, claim.why, style=None if claim.holds else "yellow")
    out.print(rows)
    if experiment.note:
        out.print(experiment.note, markup=False)


def _measure(job: Job, paper: str, name: str, path: str | None, output: str, machine: str, rounds: int) -> int:
    from gridnn.reproduce.measured import measure

    experiment = measure(job, paper, name, machine, rounds)
    job.on_root(lambda: _publish(experiment, output, path, console()))
    return 0
