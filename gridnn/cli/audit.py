"""``gridnn audit``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console

from gridnn.cli.console import console, table
from gridnn.cli.options import configured
from gridnn.cli.train import before_mpi, prepare
from gridnn.comm.job import FAILED, Job, run
from gridnn.records import OutputFile
from gridnn.train.config import RunConfig
from gridnn.train.log import valid

Json = Annotated[str | None, typer.Option("--json", metavar="FILE", help="write the table as JSON")]


@configured("audit", steps=2)
def audit(config: RunConfig, path: Json = None) -> None:
    """Run a few steps and compare words and messages with the prediction; exit 1 if an integer differs."""
    before_mpi(config)
    run(lambda job: _audit(job, config, path))


def _audit(job: Job, config: RunConfig, path: str | None) -> int:
    from gridnn.train.audit import audit as measure

    prepare(job, config)
    file = job.on_root(lambda: OutputFile("--json", path)) if path else None
    result = measure(config, job)
    if job.rank == 0:
        show(result, console())
        if file:
            file.write_json(valid({"equal": result.equal, **asdict(result)}))
    return 0 if result.equal else FAILED


def show(result: Any, out: Console) -> None:
    """Print the rows of an audit, predicted beside measured, and the verdict."""
    rows = table(
        "predicted beside measured (words moved, messages sent): all ranks and steps",
        ("layer", "phase", "along", "kind"),
        ("words", "moved", "messages", "sent", "seconds"),
    )
    for row in result.rows:
        integers = (row.predicted_words, row.measured_words, row.predicted_messages, row.measured_messages)
        texts = (row.layer, row.phase, row.dimension, row.kind, *(f"{value:,}" for value in integers))
        rows.add_row(*texts, f"{row.seconds:.4f}", style=None if row.equal else "red")
    out.print(rows)
    wrong = [f"{row.layer} {row.phase} {row.dimension} {row.kind}" for row in result.rows if not row.equal]
    out.print(f"not as predicted: {'; '.join(wrong)}" if wrong else "measured as predicted, on every rank")
