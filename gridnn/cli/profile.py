"""``gridnn profile``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console

from gridnn.cli.console import console, table
from gridnn.cli.options import PredictOn, configured
from gridnn.cli.train import before_mpi, prepare
from gridnn.comm.job import Job, run
from gridnn.records import OutputFile
from gridnn.train.config import RunConfig
from gridnn.units import duration

Json = Annotated[str | None, typer.Option("--json", metavar="FILE", help="write the tables as JSON")]


@configured("audit", steps=5)
def profile(config: RunConfig, predict_on: PredictOn = None, path: Json = None) -> None:
    """Run a few steps and print predicted beside measured seconds, by kind of operation and by layer."""
    before_mpi(config)
    run(lambda job: _profile(job, config, predict_on, path))


def _profile(job: Job, config: RunConfig, predict_on: str | None, path: str | None) -> None:
    from gridnn.train.profile import profile as measure

    prepare(job, config)
    file = job.on_root(lambda: OutputFile("--json", path)) if path else None
    result = measure(config, job, predict_on)
    if job.rank == 0:
        show(result, console())
        if file:
            file.write_json(asdict(result))


def show(result: Any, out: Console) -> None:
    """Print seconds by kind of operation and by layer, and the share of waiting for others."""
    measured = f"measured on {result.ranks} ranks (the mean of {result.steps} steps)"
    title = f"seconds of a step: predicted on {result.machine}, {measured}"
    for name, seconds in (("kind of operation", result.kinds), ("layer", result.layers)):
        rows = table(title, (name,), ("predicted", "measured", "/ predicted", "share", "waiting for others"))
        for row in (*seconds, result.step):
            if row is result.step:
                rows.add_section()
            ratio = f"{row.measured / row.predicted:.2f}" if row.predicted else ""
            share = f"{row.measured / result.step.measured:.1%}"
            times = (duration(row.predicted), duration(row.measured))
            rows.add_row(row.name, *times, ratio, share, duration(row.waiting) if row.waiting else "")
        out.print(rows)
    step = result.step
    out.print(
        f"{step.waiting / step.measured:.1%} of a step is waiting for others: ranks that begin a movement later",
        markup=False,
    )
