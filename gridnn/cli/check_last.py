"""``gridnn check --last``: what the ranks of the last job that stalled or died did."""

from __future__ import annotations

import time

from rich.console import Console

from gridnn.cli.console import table
from gridnn.comm.flight import JobRecord, last_job_record
from gridnn.units import duration


def show_last(operations: int, out: Console) -> None:
    """Print the newest records: a row a rank, and its last ``operations``."""
    job = last_job_record()
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(job.when))
    out.print(f"{when}: {job.reason}", markup=False, soft_wrap=True)
    out.print(f"{job.command}\n{job.folder}", markup=False, soft_wrap=True)
    out.print(_ranks(job))
    for rank, rows in job.operations.items() if operations else ():
        listed = table(f"the last operations of rank {rank}", ("step", "operation"), ("pass begun before",))
        for step, age, text in rows[-operations:]:
            listed.add_row(str(step) if step else "evaluation", text, duration(age))
        out.print(listed)


def _ranks(job: JobRecord) -> object:
    title = f"{job.ranks} rank{'s' * (job.ranks > 1)}"
    rows = table(title, ("rank", "node", "state", "what it did", "where"), ("for",))
    for rank, one in job.seen.items():
        state = one.state or ("waits" if one.waits else "works")
        rows.add_row(str(rank), one.node, state, one.doing, one.where, duration(one.seconds))
    if unknown := job.ranks - len(job.seen):
        rows.add_row("...", f"{unknown} more", "have left no record on this node", "", "", "")
    return rows
