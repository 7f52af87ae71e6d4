"""The log of a run: one JSON object a line."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from gridnn.errors import UserError, writing
from gridnn.records import OutputFile


class Log:
    """A JSONL file in which every object has an ``event``: ``config``, ``step``, ``epoch`` or ``checkpoint``.

    With ``append`` it goes on after what the file holds: a ``config`` begins what a resumed run adds. Where a job was
    killed, steps after its last checkpoint are there twice, and the last line may be torn; the later ones count.

    Raises
    ------
    UserError
        If the file cannot be written, or holds something that is not to be gone on with.
    """

    def __init__(self, path: str | Path, append: bool = False) -> None:
        self._output, self._file = OutputFile("--log", path), None
        if self._output.size and not append:
            raise UserError(
                f"--log {path} holds {self._output.size:,} bytes already: name another file, remove it, or go on with "
                "--resume"
            )

    def write(self, event: str, **values: Any) -> None:
        """Add one object; the line is on disk's way before this returns.

        Raises
        ------
        UserError
            If it cannot be written.
        """
        line = json.dumps({"event": event, **valid(values)}, allow_nan=False) + "\n"
        with writing("--log", self._output.path):
            if self._file is None:
                line = "\n" * _is_torn(self._output) + line
                self._file = open(self._output.path, "ab", buffering=0)  # noqa: SIM115 (for the whole run)
            rest = line.encode()
            while rest:
                rest = rest[self._file.write(rest) :]

    def close(self) -> None:
        """Close the file; may be called twice."""
        if self._file:
            self._file.close()


def _is_torn(output: OutputFile) -> bool:
    """Whether the last line has no end, as after a kill or on a full disk."""
    if not output.size:
        return False
    with open(output.path, "rb") as file:
        file.seek(-1, 2)
        return file.read() != b"\n"


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
