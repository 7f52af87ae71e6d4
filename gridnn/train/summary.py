"""What is told of a run before its first step and after its last one."""

from __future__ import annotations

from typing import Any

from gridnn.comm.ledger import PHASES
from gridnn.comm.threads import libraries
from gridnn.layout.counts import DIMENSIONS
from gridnn.train.report import Moved, Summary
from gridnn.train.sections import HALVES
from gridnn.train.session import Session

LISTED = 10  # classes whose names are shown


def summary(session: Session, job: Any, total: int) -> Summary:
    """The header of a run of ``total`` updates."""
    rows, columns = session.plan.divided()
    facts = {
        "ranks": job.size,
        "nodes": job.nodes,
        "threads": job.threads,
        "mpi": job.library,
        **session.grid.backend.facts(),
        **({"transport": str(session.transports)} if session.transports else {}),
        "kernels": session.grid.backend.kernels.described(session.config.device.dtype),
        "blas": "; ".join(map(str, libraries())) or "unknown",
        **_precision(session),
        "parameters": session.network.parameter_count,
        **_classes(session),
        "train-samples": len(session.data.train),
        "test-samples": len(session.data.test),
        "steps-per-epoch": session.steps_per_epoch,
    }
    return Summary(session.plan.grid, rows, columns, total, session.config.train.epochs, facts)


def warnings(session: Session) -> list[str]:
    """What is to be told of the options before the first step."""
    notes, dtype, asked = [], session.config.device.dtype, session.config.train.batch
    if session.batch < asked:
        count = len(session.data.train)
        notes.append(f"--batch {asked}: the data set has {count} samples to train with, so a batch has as many")
    if session.config.device.backend == "numpy" and dtype in HALVES:
        notes.append(
            f"--dtype {dtype} with --backend numpy computes in float32 and rounds: for tests, it saves no time"
        )
    return notes


def moved(session: Session) -> list[Moved]:
    """The ledgers of all ranks in one table; they call it together."""
    mine = [(key.dimension, key.phase, t.words, t.messages, t.seconds) for key, t in session.ledger.steps()]
    everyone = [row for rank in session.grid.all.gather_values(mine) for row in rank]
    rows = []
    for dimension in DIMENSIONS:
        for phase in PHASES:
            found = [row[2:] for row in everyone if row[:2] == (dimension, phase) and row[2]]
            if found:
                words, messages, seconds = (sum(values) for values in zip(*found, strict=True))
                rows.append(Moved(dimension, phase, words, messages, seconds / session.grid.all.size))
    return rows


def _precision(session: Session) -> dict[str, str]:
    """What the header says of numbers that are not kept, or not multiplied, as the activations are."""
    facts, device = {}, session.config.device
    if device.dtype in HALVES:
        facts["weights"] = f"float32, {device.dtype} in products"
    if session.loss_scale:
        facts["loss-scale"] = f"dynamic, now {session.loss_scale.value:g}"
    if device.tf32:
        facts["products"] = "TF32"
    return facts


def _classes(session: Session) -> dict[str, str]:
    """How many classes there are, and their names."""
    count, names = session.data.train.classes, session.data.class_names
    shown = ", ".join(names[:LISTED]) + ", ..." * (len(names) > LISTED)
    return {"classes": f"{count:,} ({shown})" if names else f"{count:,}"} if count else {}
