"""The words and messages of a schedule: what the ledger of a run will hold, as integers."""

from __future__ import annotations

from collections.abc import Iterable

from gridnn.comm.ledger import Ledger, Where
from gridnn.program.build import build
from gridnn.program.program import Program
from gridnn.program.schedule import Begin, Schedule


def count(schedules: Schedule | Iterable[Schedule]) -> Ledger:
    """The ledger, without seconds, of a pass or of several one after the other."""
    ledger = Ledger()
    for schedule in (schedules,) if isinstance(schedules, Schedule) else schedules:
        for operation in schedule.operations:
            if isinstance(operation, Begin):
                for layer, one in operation.movement.entries:
                    ledger.add(Where(layer, operation.phase), one)
    return ledger


def predict(program: Program, rank: int) -> Ledger:
    """The words and messages of ``rank`` in a training step of one pass."""
    return count(build(program, rank))
