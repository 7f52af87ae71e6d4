"""What is declared of an option of a run, beside its default: its words on the command line, and what it may be."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

from gridnn.errors import UserError, unknown

COMMANDS = ("plan", "audit", "train")  # each of them has the options of those before it

# What becomes of an option that is not as it was when a checkpoint was written.
FIXED = "fixed"  # refused: it decides what the network, the data or their order are
ADJUSTABLE = "adjustable"  # told: it changes the rest of the run, on purpose
FREE = "free"  # nothing: how the same numbers are computed, where from, and how long


@dataclass(frozen=True)
class Range:
    """The numbers that an option may be, in words too, and what stands for them on the command line."""

    low: float
    high: float
    meaning: str
    metavar: str


@dataclass(frozen=True)
class Option:
    """An option of a run, or what several have in common (then without a default and words).

    Attributes
    ----------
    panel, command, resume : str
        Its heading in the help, the first of `COMMANDS` that has it, and whether a run may go on with another value
        (`FIXED`, `ADJUSTABLE`, `FREE`).
    needs : (str, tuple of str), optional
        It has an effect only where this other option has one of these values.
    default : object
        None: nothing, or as the help says.
    help : str
        Its words on the command line.
    values : str or Range or tuple of str, optional
        What it may be: any text, and what stands for it on the command line; numbers; one of several names.
    negative : bool
        Whether there is a ``--no-`` form.
    """

    panel: str
    command: str = "plan"
    resume: str = FIXED
    needs: tuple[str, tuple[str, ...]] | None = None
    default: Any = None
    help: str = ""
    values: str | Range | tuple[str, ...] | None = None
    negative: bool = False

    def field(self, default: Any, text: str, values: Any = None, **more: Any) -> Any:
        """The field of a section for an option with these words and values, the rest as in this one."""
        made = replace(self, default=default, help=text, values=values, **more)
        return field(default=default, metadata={"option": made})

    @property
    def choices(self) -> tuple[str, ...]:
        """The values that it may have; () if it is not one of several."""
        return self.values if isinstance(self.values, tuple) else ()

    @property
    def metavar(self) -> str | None:
        """What stands for the value on the command line."""
        return self.values.metavar if isinstance(self.values, Range) else "NAME" if self.choices else self.values

    def check(self, name: str, value: Any) -> None:
        """Refuse a value that is none of the choices, or not within the numbers; None is the default."""
        if value is None and self.default is None:
            return
        if self.choices and value not in self.choices:
            raise unknown(name.replace("_", "-"), value, self.choices)
        one = self.values
        if isinstance(one, Range) and not (one.low <= value <= one.high and math.isfinite(value)):
            raise UserError(f"{flag(name)} {value}: must be {one.meaning}")


def flag(name: str) -> str:
    """The option's name on the command line."""
    return "--" + name.replace("_", "-")


def integers(name: str, text: str, separator: str, example: str) -> tuple[int, ...]:
    """The whole numbers in the text of an option, refused where it holds anything else."""
    terms = text.split(separator)
    if not all(term.strip().isdecimal() and int(term) > 0 for term in terms):
        raise UserError(f"{flag(name)} {text!r}: write whole numbers above 0 as {example}")
    return tuple(int(term) for term in terms)
