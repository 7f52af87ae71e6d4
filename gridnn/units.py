"""Bytes and seconds as people write and read them."""

from __future__ import annotations

from gridnn.errors import UserError

TIMES = (("s", 1.0), ("ms", 1e3), ("us", 1e6))  # units, and how many of them are a second
UNITS = {"kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


ITEMSIZES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}  # bytes of an element of the activations
SINGLE = 4  # bytes of a float32


def wide(itemsize: int) -> int:
    """Bytes of what is kept, summed and updated where activations have ``itemsize``: 16-bit ones are summed in float32.

    Those are weights, gradients, the arrays of the optimizer, running statistics, and what a reduction moves.
    """
    return max(itemsize, SINGLE)


def rounded(itemsize: int) -> int:
    """Bytes of a weight as products take it, where that is not how it is kept: see `wide`."""
    return itemsize if itemsize < wide(itemsize) else 0


def parse_memory(text: str) -> float:
    """The bytes of ``16GB``, ``900MiB``, ``2e9``.

    Raises
    ------
    UserError
        If it is none of these.
    """
    number, factor = text.strip(), 1.0
    for unit, size in UNITS.items():
        if number.lower().endswith(unit.lower()):
            number, factor = number[: -len(unit)], size
            break
    try:
        value = float(number) * factor
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise UserError(f"--memory {text!r}: write bytes a rank as 16GB, 900MiB or 2e9 ({', '.join(UNITS)})")
    return value


def shown(size: float) -> str:
    """``size`` bytes for people."""
    for unit in ("TB", "GB", "MB", "kB"):
        if size >= UNITS[unit]:
            return f"{size / UNITS[unit]:.3g} {unit}"
    return f"{size:.0f} bytes"


def time_unit(seconds: float) -> tuple[float, str]:
    """How many of it are a second, and the name of the unit in which ``seconds`` are at least 1."""
    return next(((scale, unit) for unit, scale in TIMES if seconds * scale >= 1), (1e6, "us"))


def duration(seconds: float) -> str:
    """``seconds`` for people."""
    scale, unit = time_unit(seconds)
    return f"{seconds * scale:.3g} {unit}" if seconds else "0"
