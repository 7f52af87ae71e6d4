"""Strict reading of constants: every refusal names the file, the constant by its path, its value and the remedy."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from gridnn.errors import UserError, unknown

# The smallest number above 0, and the largest one, of a constant: what is predicted from them is finite.
SMALLEST, LARGEST = 1e-30, 1e30
MOST_RANKS = 10**9


class Reader:
    """Checks of values that were read from the machine file ``source``.

    Every check takes the value and its path in the file, and returns the value as it is used.

    Raises
    ------
    UserError
        If the value is not what it can be.
    """

    def __init__(self, source: str) -> None:
        self.source = source

    def wrong(self, path: str, value: Any, remedy: str) -> UserError:
        """The refusal of a value."""
        return UserError(f"machine file {self.source}: {path} = {_shown(value)}: {remedy}")

    def fields(self, content: Any, path: str, needed: Sequence[str], optional: Sequence[str]) -> None:
        """Refuse what is no object, or lacks a field, or has one that is not known."""
        where = f"{path}." if path else ""
        if not isinstance(content, dict):
            raise self.wrong(path or "the file", content, f"an object with {', '.join(needed or optional)}")
        for name in needed:
            if name not in content:
                raise UserError(f"machine file {self.source}: {where}{name} is missing: every machine has one")
        for name in content:
            if name not in (*needed, *optional):
                why = unknown("constant", name, (*needed, *optional))
                raise UserError(f"machine file {self.source}: {where}{name}: {why}")

    def items(self, content: Any, path: str) -> list[Any]:
        """A list that is not empty."""
        if not isinstance(content, list) or not content:
            raise self.wrong(path, content, "a list of at least one entry")
        return content

    def text(self, content: Any, path: str) -> str:
        """A text that is not empty."""
        if not isinstance(content, str) or not content:
            raise self.wrong(path, content, "a name in quotation marks")
        return content

    def texts(self, content: Any, path: str) -> tuple[str, ...]:
        """A list of texts."""
        if not isinstance(content, list) or not all(isinstance(one, str) for one in content):
            raise self.wrong(path, content, "a list of texts")
        return tuple(content)

    def number(self, content: Any, path: str, above: float | None = None) -> float:
        """A finite number, at least 0, or larger than ``above``, from `SMALLEST` to `LARGEST` where it is not 0."""
        bound = "of at least 0" if above is None else f"larger than {above:g}"
        sound = isinstance(content, int | float) and not isinstance(content, bool) and math.isfinite(content)
        if not sound or content < 0 or (above is not None and content <= above):
            raise self.wrong(path, content, f"a finite number {bound}")
        if content and not SMALLEST <= content <= LARGEST:
            raise self.wrong(path, content, f"a number from {SMALLEST:g} to {LARGEST:g}, so that times are finite")
        return float(content)

    def whole(self, content: Any, path: str) -> int:
        """A whole number, from 1 to `MOST_RANKS`."""
        if not isinstance(content, int) or isinstance(content, bool) or content < 1:
            raise self.wrong(path, content, "a whole number of at least 1")
        if content > MOST_RANKS:
            raise self.wrong(path, content, f"at most {MOST_RANKS:,} ranks")
        return content

    def row(self, content: Any, path: str, length: int, above: float | None = None) -> list[float]:
        """A list of ``length`` numbers, checked like `number`."""
        if not isinstance(content, list) or len(content) != length:
            raise self.wrong(path, content, f"a list of {length} numbers")
        return [self.number(one, f"{path}.{i}", above) for i, one in enumerate(content)]


def _shown(value: Any, longest: int = 60) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= longest else f"{text[:longest]} ..."
