"""Where the commands print."""

from __future__ import annotations

import os

from rich.console import Console

from gridnn.comm.launcher import at_terminal


def console(quiet: bool = False) -> Console:
    """Colours and a progress bar where somebody watches; elsewhere plain lines of any length."""
    watched = at_terminal(os.environ)
    return Console(quiet=quiet, force_terminal=watched, highlight=False, soft_wrap=not watched)
