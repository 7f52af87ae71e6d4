"""What commands write: files that options name, rows of CSV, and the fingerprint by which equal data is known again."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any

from gridnn.errors import writing


class OutputFile:
    """A file that an option names: tried when it is named, and neither made nor emptied before its first write.

    A command that is refused for another reason leaves what an earlier one has written.

    Raises
    ------
    UserError
        If the file cannot be written.
    """

    def __init__(self, option: str, path: str | os.PathLike) -> None:
        self.option, self.path = option, os.fspath(path)
        missing = not os.path.lexists(self.path)
        with writing(option, path):
            if missing or os.path.isfile(self.path) or os.path.isdir(self.path):  # a pipe would wait for its reader
                open(self.path, "a").close()
            if missing:
                os.remove(self.path)

    @property
    def size(self) -> int:
        """Its bytes; 0 where there is none, or no regular file."""
        return os.path.getsize(self.path) if os.path.isfile(self.path) else 0

    @contextmanager
    def opened(self, mode: str = "w") -> Iterator[IO[str]]:
        """The open file; whatever fails in writing it is a `UserError`."""
        with writing(self.option, self.path), open(self.path, mode, encoding="utf-8") as file:
            yield file

    def write_json(self, data: Any) -> None:
        """Write plain data as JSON; numbers must be finite."""
        with self.opened() as file:
            json.dump(data, file, indent=2, allow_nan=False)


def fingerprint(data: Any) -> str:
    """Sixteen hexadecimal digits of SHA-256: equal for equal plain data, whatever made it."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


def write_rows(path: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as CSV, fractions with six digits; the columns are the keys in the order of their first use."""
    rows = list(rows)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else value
