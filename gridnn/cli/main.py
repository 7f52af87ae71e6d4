"""The command ``gridnn``: its subcommands, and what happens to a misspelt one."""

from __future__ import annotations

import os
import sys
from typing import Annotated, NoReturn

import typer

from gridnn.cli.audit import audit
from gridnn.cli.calibrate import calibrate
from gridnn.cli.check import check
from gridnn.cli.explain import explain
from gridnn.cli.models import models
from gridnn.cli.options import Command
from gridnn.cli.plan import plan
from gridnn.cli.price import compare, price
from gridnn.cli.profile import profile
from gridnn.cli.reproduce import reproduce, runs_alone
from gridnn.cli.train import train
from gridnn.comm.job import MISUSED, Job, run
from gridnn.comm.launcher import launch
from gridnn.errors import UserError

ALONE = ("plan", "price", "explain", "compare", "models")

app = typer.Typer(name="gridnn", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
for command in (train, audit, profile, plan, price, explain, compare, models, check, calibrate, reproduce):
    app.command(cls=Command)(command)


def _version(asked: bool) -> None:
    if asked:
        from gridnn import __version__

        print(f"gridnn {__version__}")
        raise typer.Exit


Version = Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="show the version and exit")]


@app.callback()
def gridnn(version: Version = False) -> None:
    """Train neural networks on a Pr x Pc grid of MPI processes, and say what the grid costs in communication."""


def main() -> NoReturn:
    """The entry point: a usage error is told once, by the first rank, and every rank exits with status 2."""
    first = not launch(os.environ).rank
    try:
        if not first and _asks_for_text():
            sys.exit(0)
        sys.exit(app(standalone_mode=False))
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if not hasattr(error, "format_message"):  # what typer's usage errors have in common, whatever its version
            raise
        _misused(error.format_message())


def _misused(text: str) -> NoReturn:
    """Tell a usage error; of several ranks the first does, when all are there: launchers end jobs at the first exit."""
    if not text:  # a command without arguments has shown its help instead
        sys.exit(MISUSED)
    text += " (gridnn --help lists the commands, gridnn COMMAND --help the options)"
    if (launch(os.environ).size or 1) == 1:
        print(f"gridnn: {text}", file=sys.stderr)
        sys.exit(MISUSED)

    def refuse(job: Job) -> None:
        raise UserError(text)

    run(refuse)


def _asks_for_text() -> bool:
    """Whether one rank's answer is enough: help, and the commands that need no MPI."""
    texts = {"--help", "--version"} & set(sys.argv[1:])
    return len(sys.argv) < 2 or bool(texts) or sys.argv[1] in ALONE or runs_alone(sys.argv[1:])
