"""The options of the commands: those of a run as their sections declare them, and those that several commands share."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from itertools import zip_longest
from typing import Annotated, Any, get_type_hints

import typer
from typer.core import TyperCommand

from gridnn.train.config import RUN_OPTIONS, SECTIONS, RunConfig
from gridnn.train.option import COMMANDS, Option, flag

# Of the commands that plan: what a plan is priced on belongs to all of them, whatever is compared.
DEFAULT_MACHINE = RUN_OPTIONS["machine"].default

ALONE = {flag(name): RUN_OPTIONS[name].choices[0] for name in ("survive",)}

MachineName = Annotated[str, typer.Option("--machine", metavar="NAME|FILE", help="what the plan is priced on")]
Memory = Annotated[str | None, typer.Option("--memory", metavar="16GB", help="bytes that a rank may use at the most")]
Json = Annotated[str | None, typer.Option("--json", metavar="FILE", help="write the prices as JSON")]
PredictOn = Annotated[
    str | None, typer.Option("--predict-on", metavar="NAME|FILE", help="machine of the predicted seconds")
]
Pictures = Annotated[str | None, typer.Option("--pictures", metavar="DIR", help="draw them as PNG in this directory")]
PlanFile = Annotated[str, typer.Argument(metavar="PLAN", help="what gridnn plan -o wrote")]
Batch = Annotated[int | None, typer.Option("--batch", metavar="B", min=1, help="default: that of the plan")]
OtherMachine = Annotated[
    str | None, typer.Option("--machine", metavar="NAME|FILE", help="default: the one that the plan was made for")
]


class Command(TyperCommand):
    """A command whose texts are read alike, whichever option they belong to: none is empty, and ``~`` is the home.

    An option that stands alone though it could have one of several values has the first of them (`ALONE`).
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        rest = super().parse_args(ctx, _completed(args))
        for one in self.params:
            value = ctx.params.get(one.name)
            if not isinstance(value, str) or value == one.default:
                continue
            if not value.strip():
                raise typer.BadParameter("it is empty (an unset variable?); leave it out, or say what it is", ctx, one)
            ctx.params[one.name] = os.path.expanduser(value)
        return rest


def _completed(args: list[str]) -> list[str]:
    """The arguments, with the values of those options that may stand alone."""
    made: list[str] = []
    for one, following in zip_longest(args, args[1:]):
        made.append(one)
        if one in ALONE and (following is None or following.startswith("-")):
            made.append(ALONE[one])
    return made


def configured(kind: str, **defaults: Any) -> Callable:
    """Turns ``command(config, ...)`` into a command whose ``config`` is made from the options declared in its sections.

    The parameters of ``command`` after the first are options of its own, instead of one of the same name.

    Parameters
    ----------
    kind : str
        One of `gridnn.train.option.COMMANDS`, whose options it has.
    defaults
        Where this command's default is another one.
    """
    has = COMMANDS[: COMMANDS.index(kind) + 1]
    types = {name: hint for section in SECTIONS.values() for name, hint in get_type_hints(section).items()}

    def decorate(command: Callable) -> Callable:
        own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
        own = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
        names = {parameter.name for parameter in own}
        shared = {name: one for name, one in RUN_OPTIONS.items() if one.command in has and name not in names}

        def configure(**values: Any) -> Any:
            config = RunConfig.of(**{name: values.pop(name) for name in shared})
            return command(config, **values)

        parameters = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=defaults.get(name, one.default),
                annotation=Annotated[types[name], _typer(name, one)],
            )
            for name, one in shared.items()
        ]
        configure.__signature__ = inspect.Signature([*parameters, *own])
        configure.__name__, configure.__doc__ = command.__name__, command.__doc__
        return configure

    return decorate


def _typer(name: str, one: Option) -> Any:
    """The option as typer wants it."""
    names = f"{flag(name)}/--no-{flag(name)[2:]}" if one.negative else flag(name)
    known = f": {', '.join(one.choices)}" if one.choices else ""
    return typer.Option(names, help=one.help + known, metavar=one.metavar, rich_help_panel=one.panel)
