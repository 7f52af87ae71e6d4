"""Plain data as files have it: rows of CSV, and the fingerprint by which equal data is known again."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any


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
