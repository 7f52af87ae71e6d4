"""Where the commands print, and how their tables look."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

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


def console(quiet: bool = False) -> Console:
    """Colours and a progress bar where somebody watches; elsewhere plain lines of any length."""
    watched = at_terminal(os.environ)
    width = None if watched else WIDE
    return Console(quiet=quiet, force_terminal=watched, highlight=False, soft_wrap=not watched, width=width)


def table(title: str, names: Iterable[str], numbers: Iterable[str]) -> Table:
    """A table of columns of text and columns of numbers; on a narrow terminal cells are folded, never cut."""
    made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    for name in names:
        made.add_column(name, overflow="fold")
    for name in numbers:
        made.add_column(name, justify="right", overflow="fold")
    return made
