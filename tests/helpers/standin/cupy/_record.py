"""What was asked of which stream, in order, while somebody listens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple


class Entry(NamedTuple):
    """One thing asked of a stream: the stream's handle, the operation, and the event it records or waits for."""

    stream: int
    operation: str
    event: Any = None


_LISTENERS: list[list[Entry]] = []


@contextmanager
def record() -> Iterator[list[Entry]]:
    """The list of everything asked of any stream inside the ``with`` block; host waits have the stream -1."""
    entries: list[Entry] = []
    _LISTENERS.append(entries)
    try:
        yield entries
    finally:
        _LISTENERS.remove(entries)


def note(stream: int, operation: str, event: Any = None) -> None:
    """Tell the listeners."""
    for entries in _LISTENERS:
        entries.append(Entry(stream, operation, event))
