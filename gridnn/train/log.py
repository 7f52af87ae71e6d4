"""The log of a run: one JSON object a line."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from gridnn.errors import writing


class Log:
    """A JSONL file in which every object has an ``event``: ``config``, ``step``, ``epoch`` or ``checkpoint``.

    With ``append`` it goes on after what the file holds: a ``config`` begins what a resumed run adds. Where a job was
    killed, steps after its last checkpoint are there twice; the later ones count.

    Raises
    ------
    UserError
        If the file cannot be written.
    """

    def __init__(self, path: str | Path, append: bool = False) -> None:
        with writing("--log", path):
            self._file = open(path, "a" if append else "w", encoding="utf-8")  # noqa: SIM115 (open for the whole run)

    def write(self, event: str, **values: Any) -> None:
        """Add one object; the line is on disk's way before this returns."""
        self._file.write(json.dumps({"event": event, **valid(values)}, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def valid(value: Any) -> Any:
    """``value`` as JSON can say it: numbers that are not finite become null, NumPy's scalars Python's."""
    if isinstance(value, dict):
        return {str(key): valid(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [valid(item) for item in value]
    if hasattr(value, "item"):
        return valid(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
