"""From options or a plan's file to network, machine, plan and price; no MPI."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, NamedTuple

from gridnn.cost.machine import Machine
from gridnn.cost.machines import digest, load_machine, shipped
from gridnn.cost.price import Price, price
from gridnn.errors import UserError
from gridnn.network import Network
from gridnn.plan.origin import Origin
from gridnn.plan.plan import RUNNING, Plan, made_for, read_plan
from gridnn.program.program import pass_programs, pass_sizes
from gridnn.search.space import FEW
from gridnn.train.config import OPTIONS, RunConfig
from gridnn.train.sections import CHOOSING
from gridnn.train.setup import bytes_of, set_up
from gridnn.units import parse_memory, shown

# What a plan keeps of the options that it was made with: those of the network and of how it is run.
DIVIDING = (*CHOOSING, "grid", "strategy", "domain", "group", "plan", "copies")
KEPT = tuple(name for name, one in OPTIONS.items() if one.command == "plan" and name not in DIVIDING)


class Planned(NamedTuple):
    """A network with a plan, priced on a machine."""

    config: RunConfig
    network: Network
    plan: Plan
    batch: int
    machine: Machine
    price: Price

    @property
    def ranks(self) -> int:
        """P."""
        return self.plan.grid.size

    @property
    def smallest(self) -> int:
        """The samples of the smallest pass, which the splits fit."""
        return min(pass_sizes(self.batch, self.config.train.accumulate))

    @property
    def running(self) -> dict[str, Any]:
        """How the plan is run beside its splits: see `gridnn.plan.plan.RUNNING`."""
        return {name: getattr(self.plan, name) for name in RUNNING}

    @property
    def setting(self) -> dict[str, Any]:
        """What the search's model knows of how a plan is run: see `gridnn.search.pairs.Setting`."""
        running = {"full_sum": self.plan.full_sum, "recompute": self.plan.recompute}
        return {**bytes_of(self.config), "passes": len(pass_sizes(self.batch, self.config.train.accumulate)), **running}

    @property
    def at_most(self) -> int | None:
        """How many factors of a split the search compares: see `gridnn.search.space.configurations`."""
        return FEW if self.config.plan.axes == "few" else None


def planned(config: RunConfig, ranks: int, machine: str, memory: str | None) -> Planned:
    """Make the plan that the options ask for, and price it.

    Raises
    ------
    UserError
        If options, network, ranks, machine and memory do not fit each other.
    """
    config = config.replaced(machine=machine, memory=memory) if config.plan.chooses else config
    config.validate()
    loaded = load_machine(machine)
    made = set_up(config, ranks)
    options = {name: value for name, value in config.changed(RunConfig.of(dataset=None)).items() if name in KEPT}
    origin = Origin.of(made.network, made.batch, machine=loaded.name, digest=digest(loaded), options=options)
    plan = replace(made.plan, made_for=origin)
    found = priced(config, made.network, plan, made.batch, loaded)
    if memory is not None and not config.plan.chooses:
        _check_memory(found, parse_memory(memory))
    return Planned(config, made.network, plan, made.batch, loaded, found)


def reopened(path: str, batch: int | None, machine: str | None) -> Planned:
    """The plan in a file, priced now: for its own batch and machine, or for others.

    Raises
    ------
    UserError
        If the file does not say what it was made for, or that cannot be made any more.
    """
    data = read_plan(path)
    origin = made_for(path, data)
    if origin is None:
        raise UserError(
            f"plan {path} does not say for which network it was made: price it by gridnn plan --plan {path} --ranks P "
            "--model NAME --batch B, and -o writes one that does"
        )
    options = {name: value for name, value in origin.options.items() if name in OPTIONS}
    try:
        config = RunConfig.of(**{"dataset": None, **options, "batch": batch or origin.batch, "plan": path})
        config.validate()
    except (TypeError, AttributeError) as error:
        raise UserError(f'plan {path}: "made_for" has an option of the wrong type ({error}): plan again') from None
    made = set_up(config, _ranks(path, data.get("grid")))
    loaded = load_machine(machine or _known_machine(path, origin))
    found = priced(config, made.network, made.plan, made.batch, loaded)
    return Planned(config, made.network, made.plan, made.batch, loaded, found)


def _ranks(path: str, grid: Any) -> int:
    """P, of the grid in a plan's file."""
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", str(grid))
    if not match:
        raise UserError(f'plan {path}: "grid" is {grid!r}: write the rows x columns of its ranks, as 4x2')
    return int(match[1]) * int(match[2])


def _known_machine(path: str, origin: Origin) -> str:
    """The machine that a plan was made for, if it is one that comes with gridnn and is still what it was."""
    name = origin.machine or OPTIONS["machine"].default
    if name not in shipped():
        raise UserError(f"plan {path} was made for machine {name!r}, which was a file: name it by --machine FILE")
    if origin.digest not in (None, digest(load_machine(name))):
        raise UserError(
            f"plan {path} was made for machine {name!r} with other constants ({origin.digest}, now "
            f"{digest(load_machine(name))}): say --machine {name} to price it with those of now"
        )
    return name


def priced(config: RunConfig, network: Network, plan: Plan, batch: int, machine: Machine) -> Price:
    """The price of a step of ``batch`` samples."""
    programs = pass_programs(network, plan, pass_sizes(batch, config.train.accumulate))
    return price(programs, machine, **bytes_of(config))


def _check_memory(found: Price, limit: float) -> None:
    peak = found.memory
    if peak.total > limit:
        most = max(peak.terms, key=peak.terms.__getitem__)
        raise UserError(
            f"--memory {shown(limit)}: this plan needs {shown(peak.total)} a rank, most of it {most} "
            f"({shown(peak.terms[most])}), at its peak in {peak.at[0]!r}, {peak.at[1]}: use --strategy optimal, "
            "more ranks or a smaller --batch"
        )
