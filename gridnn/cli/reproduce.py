"""``gridnn reproduce``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Annotated, Any

import typer
from rich.console import Console

from gridnn.cli.console import console, refusing, table
from gridnn.cli.options import DEFAULT_MACHINE
from gridnn.comm.job import Job, run
from gridnn.errors import UserError, unknown

# The experiments of every paper by name; "measure" is no paper: predicted beside measured seconds of many plans.
PAPERS = {
    "gholami": ("4", "6", "7", "8", "9", "10", "exact"),
    "optcnn": ("table3", "table5", "fig7", "fig8"),
    "soybean": ("example", "conversions", "speedup"),
    "splitbrain": ("memory", "scaling"),
}
ALL, MEASURE = "all", "measure"
ROUNDS = 5  # of --measure
MEASURED = (("gholami", "7"),)  # what --measure can run on the ranks at hand

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


def select(paper: str, name: str = ALL) -> list[tuple[str, str]]:
    """The experiments that are meant, as (paper, name).

    Raises
    ------
    UserError
        If there is no such paper, or it has no such experiment.
    """
    if paper == ALL:
        if name != ALL:
            raise UserError(f"reproduce all {name}: all is every paper; name the paper of {name!r}, or leave it out")
        return [(one, experiment) for one, names in PAPERS.items() for experiment in names]
    if paper not in PAPERS:
        raise unknown("paper", paper, [*PAPERS, ALL, MEASURE])
    if name == ALL:
        return [(paper, experiment) for experiment in PAPERS[paper]]
    if name not in PAPERS[paper]:
        raise unknown(f"{paper} experiment", name, PAPERS[paper])
    return [(paper, name)]


def experiments(paper: str) -> Mapping[str, Callable[[], Any]]:
    """The experiments of a paper, each a function that computes it; loaded when asked for."""
    return import_module(f"gridnn.reproduce.{paper}").EXPERIMENTS


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
    from gridnn.reproduce.measured import measure_grids, measure_many

    if job.size == 1:
        raise UserError(
            "one rank has no grids to compare, and moves nothing: mpirun -n 4 gridnn reproduce ... --measure"
        )
    if paper == MEASURE:
        if name != ALL:
            raise UserError(f"reproduce {MEASURE} {name}: it runs all its plans; leave {name!r} out")
        experiment = measure_many(job, machine, rounds)
    else:
        chosen = select(paper, name)
        if tuple(chosen) != MEASURED:
            known = ", ".join(f"{one} {experiment}" for one, experiment in MEASURED)
            raise UserError(f"--measure runs {known}, not {paper} {name}: gridnn reproduce {known} --measure")
        experiment = measure_grids(job, machine, rounds)
    job.on_root(lambda: _publish(experiment, output, path, console()))
    return 0
