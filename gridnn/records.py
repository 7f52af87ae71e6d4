"""What commands write and read: files that options name, rows of CSV, strict JSON, fingerprints of equal data."""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import math
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any, BinaryIO

from gridnn.errors import UserError, writing

KINDS = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
MOST_BYTES = 2**24  # of a JSON file
DEEPEST = 64  # levels of JSON
MOST = 2**63 - 1  # the largest whole number


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


class NoFile(OSError):
    """What is called as a file is none, and might never end, or wait for its other end."""


def open_regular(path: str | os.PathLike) -> BinaryIO:
    """A file that somebody else may have made, open for reading; `NoFile` for anything but a regular file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe is not waited for
    kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
    if kind == stat.S_IFREG:
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    raise NoFile(errno.EINVAL, f"it is {KINDS.get(kind, 'a device')}, not a file", os.fspath(path))


def read_json(what: str, path: str | os.PathLike, most_bytes: int = MOST_BYTES) -> Any:
    """The JSON in a file that somebody else may have written.

    Parameters
    ----------
    what : str
        What the file should be, the first word of a refusal.
    most_bytes : int
        A larger file is not read.

    Raises
    ------
    UserError
        ``WHAT PATH: reason``, if it is no regular file, cannot be read, is too large, or see `parse_json`.
    """
    about = f"{what} {os.fspath(path)}"
    try:
        with open_regular(path) as file:
            size, text = os.fstat(file.fileno()).st_size, file.read(most_bytes + 1)
    except OSError as error:
        raise UserError(f"{about}: {error.strerror}") from error
    except ValueError as error:  # a path with a NUL
        raise UserError(f"{about}: {error}") from error
    if max(size, len(text)) > most_bytes:
        raise UserError(f"{about}: it has {size:,} bytes, but at most {most_bytes:,} are read")
    return parse_json(about, text)


def parse_json(what: str, text: str | bytes) -> Any:
    """The value of a JSON text, in which all numbers are finite, and no object has a key twice.

    Raises
    ------
    UserError
        ``WHAT: reason``, if it is none, is not UTF-8, or is nested more than `DEEPEST` levels deep.
    """
    try:
        text = text.decode("utf-8") if isinstance(text, bytes) else text
        data = json.loads(
            text, object_pairs_hook=_object, parse_constant=_constant, parse_float=_real, parse_int=_integer
        )
        _check_depth(data)
        if "\\ud" in text.lower():
            json.dumps(data, ensure_ascii=False).encode("utf-8")  # half of a pair of surrogates is no text
    except RecursionError:
        raise UserError(f"{what}: it is nested more than {DEEPEST} levels deep") from None
    except ValueError as error:
        raise UserError(f"{what}: no JSON ({error})") from error
    return data


def whole(name: str, value: Any, low: int = 0, high: int = MOST) -> int:
    """``value`` of what was read under ``name``, if it is a whole number from ``low`` to ``high``; else `UserError`."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        bounds = f"of at least {low}" if high == MOST else f"from {low:,} to {high:,}"
        raise UserError(f'"{name}" is {shortened(value)}, but must be a whole number {bounds}')
    return value


def real(name: str, value: Any, low: float = -math.inf) -> float:
    """``value`` of what was read under ``name``, if it is a finite number of at least ``low``; else a `UserError`."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not (math.isfinite(value) and value >= low):
        bound = "" if low == -math.inf else f" of at least {low:g}"
        raise UserError(f'"{name}" is {shortened(value)}, but must be a finite number{bound}')
    return float(value)


def texts(name: str, value: Any, longest: int) -> dict[str, str]:
    """``value`` of what was read under ``name``, if it is an object of texts of at most so many characters."""
    if not isinstance(value, dict):
        raise UserError(f'"{name}" is {shortened(value)}, but must be an object')
    for key, one in value.items():
        if not isinstance(one, str) or len(one) > longest:
            raise UserError(
                f'"{name}" has {shortened(one)} for {shortened(key)}: not a text of up to {longest} letters'
            )
    return value


def shortened(value: Any, longest: int = 60) -> str:
    """A value that was read, for a message: not too long."""
    text = repr(value)
    return text if len(text) <= longest else f"{text[:longest]} ..."


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in made if keys.count(key) > 1)
        raise ValueError(f"the key {shortened(twice)} is there twice")
    return made


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _real(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"the number {text[:20]}... is too large")
    return number


def _integer(text: str) -> int:
    _real(text)
    return int(text)


def _check_depth(data: Any) -> None:
    level = [data]
    for _ in range(DEEPEST + 1):
        inner = [one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list)]
        if not inner:
            return
        level = [one for some in inner for one in some]
    raise RecursionError
