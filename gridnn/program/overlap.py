"""Movements that run behind computation: their ends are put off as far as reads and writes allow."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gridnn.program.schedule import Begin, End, Operation, Policy, StageMovement

Root = Callable[[str], str]


def overlap(operations: Sequence[Operation], policy: Policy, root: Root) -> list[Operation]:
    """``operations`` with every end that follows its beginning moved down to the first that needs it.

    ``root`` gives the buffer in whose memory another one lies.

    The order of the movements among themselves stays: all ranks begin and end them alike. On a CPU only messages to
    neighbours are put off.
    """
    done: list[Operation] = []
    held: End | None = None
    for operation in operations:
        if held is not None and _needs(operation, held, root):
            done.append(held)
            held = None
        before = done[-1] if done else None
        if isinstance(operation, End) and isinstance(before, Begin) and _may_wait(before, operation, policy):
            held = operation
        else:
            done.append(operation)
    return [*done, held] if held else done


def _needs(operation: Operation, end: End, root: Root) -> bool:
    """Whether an operation must run after ``end``: it is a movement, or uses the same buffers."""
    if isinstance(operation, Begin | End):
        return True
    used = {root(name) for name in (*operation.reads, *operation.writes)}
    return not used.isdisjoint(root(name) for name in (*end.reads, *end.writes))


def _may_wait(begin: Begin, end: End, policy: Policy) -> bool:
    if begin.number != end.number or not isinstance(end.movement, StageMovement):
        return False
    return end.movement.kind == "neighbours" or policy.overlaps_collectives
