"""Where the commands print, and how their tables look."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from gridnn.comm.job import MISUSED
from gridnn.comm.launcher import at_terminal
from gridnn.errors import UserError, within_memory

WIDE = 160  # columns where nobody watches: files and pipes have no width


@contextmanager
def refusing() -> Iterator[None]:
    """Tell a user's mistake in one line, and exit with status 2."""
    try:
        with within_memory():
            yield
    except UserError as error:
        print(f"gridnn: {error}", file=sys.stderr)
        raise typer.Exit(MISUSED) from None


class StandardOutput:
    """Standard output, whose end (a full disk, a reader that has gone) is told in one line of standard error.

    It ends the command, or with ``goes_on`` only what is shown of it.
    """

    def __init__(self, goes_on: bool) -> None:
        self.goes_on = goes_on

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stdout, name)

    def write(self, text: str) -> int:
        """Write ``text``."""
        return self._try(lambda: sys.stdout.write(text)) or 0

    def flush(self) -> None:
        """Give what is written to the system."""
        self._try(sys.stdout.flush)

    def _try(self, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except OSError as error:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, sys.stdout.fileno())  # for what Python still has to write when it ends
            os.close(null)
            text = f"standard output cannot be written: {error.strerror}"
            if not self.goes_on:
                raise UserError(text) from error
            print(f"gridnn: {text}; the run goes on", file=sys.stderr, flush=True)
            return None


def console(quiet: bool = False, goes_on: bool = False) -> Console:
    """Colours and a progress bar where somebody watches; elsewhere plain lines of any length."""
    watched = at_terminal(os.environ)
    width = None if watched else WIDE
    how = {"force_terminal": watched, "soft_wrap": not watched, "width": width}
    return Console(file=StandardOutput(goes_on), quiet=quiet, highlight=False, **how)


def table(title: str, names: Iterable[str], numbers: Iterable[str]) -> Table:
    """A table of columns of text and columns of numbers; on a narrow terminal cells are folded, never cut."""
    made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    for name in names:
        made.add_column(name, overflow="fold")
    for name in numbers:
        made.add_column(name, justify="right", overflow="fold")
    return made
