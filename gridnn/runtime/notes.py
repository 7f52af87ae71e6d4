"""The operations of a schedule in words, for whoever looks at a rank that stands still."""

from __future__ import annotations

from gridnn.comm.recorder import Note
from gridnn.program.schedule import Begin, Compute, End, GroupSum, Movement, Operation, Schedule

WORDS = {"started all-reduce": "all-reduce", "neighbours": "messages to neighbours"}  # kinds of movements
SUMMED = {"gradients": " of gradients", "loss": " of the loss"}


def notes(schedule: Schedule) -> list[Note]:
    """A note of every operation, in the order in which they run."""
    return [_note(operation) for operation in schedule.operations]


def _note(operation: Operation) -> Note:
    if isinstance(operation, (Begin, End)):
        return Note(operation.layer, _moves(operation.movement), True)
    if isinstance(operation, Compute):
        method = operation.task.method
        text = method if method.startswith(operation.phase) else f"{method}, {operation.phase}"
        return Note(operation.layer, text, False)
    return Note(operation.layer, type(operation).__name__.lower(), False)


def _moves(movement: Movement) -> str:
    kind = WORDS.get(movement.kind, movement.kind)
    what = SUMMED.get(movement.purpose, "") if isinstance(movement, GroupSum) else ""
    dimensions = sorted({count.dimension for _, count in movement.entries})
    return f"{kind}{what}{' on the ' * bool(dimensions)}{' and the '.join(dimensions)}"
