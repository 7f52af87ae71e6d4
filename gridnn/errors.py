"""The user's mistakes, and the names that they nearly got right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class UserError(Exception):
    """A mistake of the user's: values and remedy in one text, which is all that is shown of it.

    What is refused of what somebody gave is one; a `ValueError` is a mistake of ours, shown with its traceback. The
    text is one line, whatever it says of a file of somebody else's: what cannot be printed is escaped.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


def printable(text: str) -> str:
    r"""``text`` in one line, with escapes for what is no printable character.

    Examples
    --------
    >>> print(printable("a\n\x1b[2J\udcff"))
    a\n\x1b[2J\udcff
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def cause_of(error: BaseException) -> str:
    """The first line of what went wrong; of an error that says nothing, its name."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that is none of ``known``; it names the nearest one.

    Examples
    --------
    >>> str(unknown("model", "lenett", ["mlp", "lenet"]))
    "unknown model 'lenett': did you mean lenet? The models are mlp, lenet"
    """
    known = list(known)
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]}? The" if nearest else "the"
    if kind.endswith("y") and kind[-2] not in "aeiou":
        plural = kind[:-1] + "ies"
    elif kind.endswith(("ss", "x")):
        plural = kind + "es"
    else:
        plural = kind if kind.endswith("s") else kind + "s"
    return UserError(f"unknown {kind} {name!r}: {hint} {plural} are {', '.join(known)}")


@contextmanager
def within_memory() -> Iterator[None]:
    """Inside, where everything is set up from what the user gave, a lack of memory is the user's mistake."""
    try:
        yield
    except MemoryError as error:
        raise UserError(
            f"this rank's part of the network or the data does not fit into its memory ({error}): divide it over more "
            "ranks (--grid with more rows, --strategy domain), or use a smaller --batch, or --accumulate"
        ) from error


@contextmanager
def writing(option: str, path: object) -> Iterator[None]:
    """Inside, where the file ``path`` of ``option`` is opened or written, an `OSError` is the user's mistake."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{option} {path} cannot be written: {error.strerror}") from error
