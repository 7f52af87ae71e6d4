"""From options, or from a plan's file, to a priced plan: network, machine, request, plan and price; no MPI."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from typing import Any, get_args, get_type_hints

from gridnn.cost.machine import Machine
from gridnn.cost.machines import fingerprint, load_machine, shipped
from gridnn.cost.price import Price
from gridnn.errors import UserError
from gridnn.layout.split import FORMER
from gridnn.models.own import is_own
from gridnn.planning.plan import OPTIONS, Plan, read_plan, read_provenance
from gridnn.planning.provenance import Provenance
from gridnn.planning.search.request import PricedPlan
from gridnn.records import MOST, shortened
from gridnn.train.config import RUN_OPTIONS, SECTIONS, RunConfig
from gridnn.train.sections import CHOOSING
from gridnn.train.setup import PreparedRun, prepare_run, request_of
from gridnn.units import parse_memory, shown

# What a plan keeps of the options that it was made with: those of the network and of how it is run.
DIVIDING = (*CHOOSING, "grid", "strategy", "domain", "group", "plan", "replicas")
KEPT = tuple(name for name, one in RUN_OPTIONS.items() if one.command == "plan" and name not in DIVIDING)

OWN_FILES = ("model", "loss")  # options that may name a file of Python
LONGEST = 4096  # letters of an option in a plan
MOST_OF = {"accumulate": 10_000}  # each of them is priced
SIZES, LONG_NUMBER = ("shape", "widths"), re.compile(r"\d{16}")


def make_priced_plan(config: RunConfig, ranks: int, machine: str, memory: str | None) -> PricedPlan:
    """Make the plan that the options ask for, and price it.

    Parameters
    ----------
    machine, memory : str
        What the plan is priced on, and the bytes that it may take.

    Raises
    ------
    ValueError
        If options, network, ranks, machine and memory do not fit each other.
    """
    config = config.replaced(machine=machine, memory=memory) if config.plan.chooses else config
    config.validate()
    loaded = load_machine(machine)
    made = prepare_run(config, ranks)
    given, defaults = config.flat, RunConfig.of(dataset=None).flat
    options = {name: given[name] for name in KEPT if given[name] != defaults[name]}
    known = {"machine": loaded.name, "machine_fingerprint": fingerprint(loaded), "options": options}
    plan = replace(made.plan, provenance=Provenance.of(made.network, made.batch, **known))
    found = _priced(config, made, plan, loaded)
    if memory is not None and not config.plan.chooses:
        _check_memory(found.price, parse_memory(memory))
    return found


def open_priced_plan(path: str, batch: int | None, machine: str | None) -> PricedPlan:
    """The plan in a file, priced now: for its own batch and machine, or for others.

    Raises
    ------
    ValueError
        If the file does not say what it was made for, or that cannot be made any more.
    """
    data = read_plan(path)
    provenance = read_provenance(path, data)
    if provenance is None:
        raise UserError(
            f"plan {path} does not say for which network it was made: price it by gridnn plan --plan {path} --ranks P "
            "--model NAME --batch B, and -o writes one that does"
        )
    ranks = _ranks(path, data.get("grid"))
    options = _options(path, provenance, ranks)
    config = RunConfig.of(**{"dataset": None, **options, "batch": batch or provenance.batch, "plan": path})
    config.validate()
    made = prepare_run(config, ranks)
    loaded = load_machine(machine or _known_machine(path, provenance))
    return _priced(config, made, made.plan, loaded)


def _priced(config: RunConfig, made: PreparedRun, plan: Plan, machine: Machine) -> PricedPlan:
    options = {name: getattr(plan, name) for name in OPTIONS}
    request = request_of(config, made.network, plan.grid.size, made.batch, machine=machine, options=options)
    return PricedPlan(request, plan, request.price(plan))


def _options(path: str, provenance: Provenance, ranks: int) -> dict[str, Any]:
    """The options of a run that a plan was made with, each of its type; those that would run a file are refused."""
    types = {name: kind for section in SECTIONS.values() for name, kind in get_type_hints(section).items()}
    given = {FORMER.get(name, name): value for name, value in provenance.options.items()}
    options = {name: value for name, value in given.items() if name in RUN_OPTIONS}
    for name, value in options.items():
        if not _is_of(value, types[name]):
            wrong = "which is of the wrong type"
        elif type(value) is int and value > MOST_OF.get(name, MOST):
            wrong = f"but at most {MOST_OF.get(name, MOST):,} is priced"
        elif isinstance(value, str) and ("\0" in value or len(value) > LONGEST):
            wrong = f"which is no text of up to {LONGEST:,} letters without NUL"
        elif name in SIZES and value and LONG_NUMBER.search(value):
            wrong = "which has a number that is too large"
        else:
            continue
        raise UserError(f"plan {path}: the option {name} of its provenance is {shortened(value)}, {wrong}: plan again")
    for name in OWN_FILES:
        if is_own(own := options.get(name, "")):
            command = f"gridnn plan --plan {path} --ranks {ranks} --{name} {shlex.quote(own)}"
            raise UserError(
                f"plan {path} names the file {own.rpartition(':')[0] or own} as its {name}, but no file is run because "
                f"a plan names it: {command} and the other options of the plan price it"
            )
    return options


def _is_of(value: Any, kind: Any) -> bool:
    """Whether a value of JSON is of the type of an option, such as ``int | None``; whole numbers are floats, too."""
    kinds = get_args(kind) or (kind,)
    return type(value) in kinds or (type(value) is int and float in kinds)


def _ranks(path: str, grid: Any) -> int:
    """P, of the grid in a plan's file."""
    if grid is None:
        raise UserError(f'plan {path}: it has no "grid": write the rows x columns of its ranks, as 4x2')
    rows, columns = map(int, grid.split("x"))
    return rows * columns


def _known_machine(path: str, provenance: Provenance) -> str:
    """The machine that a plan was made for, if it is one that comes with gridnn and is still what it was."""
    name = provenance.machine or RUN_OPTIONS["machine"].default
    if name not in shipped():
        raise UserError(f"plan {path} was made for machine {name!r}, which was a file: name it by --machine FILE")
    known, now = provenance.machine_fingerprint, fingerprint(load_machine(name))
    if known not in (None, now):
        raise UserError(
            f"plan {path} was made for machine {name!r} with other constants ({known}, now {now}): say --machine "
            f"{name} to price it with those of now"
        )
    return name


def _check_memory(found: Price, limit: float) -> None:
    peak = found.memory
    if peak.total > limit:
        most = max(peak.terms, key=peak.terms.__getitem__)
        raise UserError(
            f"--memory {shown(limit)}: this plan needs {shown(peak.total)} a rank, most of it {most} "
            f"({shown(peak.terms[most])}), at its peak in {peak.at[0]!r}, {peak.at[1]}: use --strategy optimal, "
            "more ranks or a smaller --batch"
        )
