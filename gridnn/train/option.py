"""What is declared of an option of a run, beside its default: its words on the command line, and what it may be."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, NamedTuple

from gridnn.errors import UserError, unknown

COMMANDS = ("plan", "audit", "train")  # each of them has the options of those before it

# What becomes of an option that is not as it was when a checkpoint was written.
FIXED = "fixed"  # refused: it decides what the network, the data or their order are
ADJUSTABLE = "adjustable"  # told: it changes the rest of the run, on purpose
FREE = "free"  # nothing: how the same numbers are computed, where from, and how long


class Range(NamedTuple):
    """The numbers that an option may be, in words too, and what stands for them on the command line."""

    low: float
    high: float
    meaning: str
    metavar: str


BELOW_1, SMALLEST = math.nextafter(1, 0), math.ulp(0)
COUNT = Range(1, math.inf, "a whole number of at least 1", "N")
EPOCHS = Range(0, math.inf, "a number of epochs, 0 or more", "N")
SEEDS = Range(0, 2**63 - 1, "a whole number from 0 to 2^63 - 1", "N")
PROBABILITY = Range(0, BELOW_1, "a probability, 0 <= p < 1", "P")
MOMENTUM = Range(0, BELOW_1, "a factor, 0 <= m < 1", "X")
NOT_NEGATIVE = Range(0, math.inf, "a finite number, 0 or more", "X")
POSITIVE = Range(SMALLEST, math.inf, "a finite number above 0", "X")


@dataclass(frozen=True)
class Option:
    """An option of a run.

    Attributes
    ----------
    default : object
        None: nothing, or as the help says.
    help, metavar : str, str or None
        The words of the command line, and what stands for the value there; None: as its choices or numbers say.
    choices : tuple of str
        The values that it may have; () if it is not one of several.
    within : Range, optional
        The numbers that it may be.
    needs : (str, tuple of str), optional
        It has an effect only where this other option has one of these values.
    command, panel, resume : str
        The first of `COMMANDS` that has it, its heading in the help, and whether a run may go on with another value
        (`FIXED`, `ADJUSTABLE`, `FREE`); "": as its section says.
    negative : bool
        Whether there is a ``--no-`` form.
    """

    default: Any
    help: str
    metavar: str | None = None
    choices: tuple[str, ...] = ()
    within: Range | None = None
    needs: tuple[str, tuple[str, ...]] | None = None
    command: str = ""
    panel: str = ""
    resume: str = ""
    negative: bool = False

    @property
    def placeholder(self) -> str | None:
        """What stands for the value on the command line."""
        return self.metavar or (self.within.metavar if self.within else "NAME" if self.choices else None)

    def check(self, name: str, value: Any) -> None:
        """Refuse a value that is none of the choices, or not within the numbers; None is the default."""
        if self.choices and value not in self.choices and not (value is None and self.default is None):
            raise unknown(name.replace("_", "-"), value, self.choices)
        if self.within and value is not None:
            low, high, meaning, _ = self.within
            if not (low <= value <= high and math.isfinite(value)):
                raise UserError(f"{flag(name)} {value}: must be {meaning}")


class Section:
    """Options that belong together, and what most of them have in common."""

    PANEL: ClassVar[str] = ""
    COMMAND: ClassVar[str] = "plan"
    RESUME: ClassVar[str] = FIXED

    @classmethod
    def options(cls) -> dict[str, Option]:
        """The options of this section, by name."""
        found = {one.name: one.metadata["option"] for one in fields(cls)}
        common = {"command": cls.COMMAND, "panel": cls.PANEL, "resume": cls.RESUME}
        return {
            name: replace(one, **{what: getattr(one, what) or said for what, said in common.items()})
            for name, one in found.items()
        }

    def check(self) -> None:
        """Refuse what cannot be read, or does not fit together."""


def option(default: Any, text: str, metavar: str | None = None, **more: Any) -> Any:
    """A field of a section: the arguments are those of `Option`."""
    return field(default=default, metadata={"option": Option(default, text, metavar, **more)})


def flag(name: str) -> str:
    """The option's name on the command line."""
    return "--" + name.replace("_", "-")


def integers(name: str, text: str, separator: str, example: str) -> tuple[int, ...]:
    """The whole numbers in the text of an option, refused where it holds anything else."""
    terms = text.split(separator)
    if not all(term.strip().isdecimal() and int(term) > 0 for term in terms):
        raise UserError(f"{flag(name)} {text!r}: write whole numbers above 0 as {example}")
    return tuple(int(term) for term in terms)
