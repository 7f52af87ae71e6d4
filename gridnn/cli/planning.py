"""What the planning commands share: from options or a plan's file to network, machine, plan and price; no MPI."""

from __future__ import annotations

import re
from dataclasses import asdict, fields, replace
from typing import Any, NamedTuple

from gridnn.cli.options import DEFAULT_MACHINE, NETWORK
from gridnn.cost.machine import Machine
from gridnn.cost.machines import fingerprint, load_machine, shipped
from gridnn.cost.price import Price, price
from gridnn.errors import UserError
from gridnn.network import Network
from gridnn.plan.plan import OPTIONS, Plan, read_plan, read_provenance
from gridnn.plan.provenance import Provenance
from gridnn.plan.search.space import FEW
from gridnn.program.program import pass_programs, pass_sizes
from gridnn.train.config import CHOOSING, RunConfig
from gridnn.train.setup import bytes_of, set_up
from gridnn.units import parse_memory, shown

# What a plan keeps of the options that it was made with: those of the network and of how it is run.
DIVIDING = (*CHOOSING, "grid", "strategy", "domain", "group", "plan", "copies")
KEPT = tuple(name for name in NETWORK if name not in DIVIDING)


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
        return min(pass_sizes(self.batch, self.config.accumulate))

    @property
    def running(self) -> dict[str, Any]:
        """How the plan is run beside its splits: see `gridnn.plan.plan.OPTIONS`."""
        return {name: getattr(self.plan, name) for name in OPTIONS}

    @property
    def setting(self) -> dict[str, Any]:
        """What the search's model knows of how a plan is run: see `gridnn.plan.search.edge_costs.Setting`."""
        running = {"full_sum": self.plan.full_sum, "recompute": self.plan.recompute}
        return {**bytes_of(self.config), "passes": len(pass_sizes(self.batch, self.config.accumulate)), **running}

    @property
    def at_most(self) -> int | None:
        """How many factors of a split the search compares: see `gridnn.plan.search.space.configurations`."""
        return FEW if self.config.axes == "few" else None


def planned(config: RunConfig, ranks: int, machine: str, memory: str | None) -> Planned:
    """Make the plan that the options ask for, and price it.

    Raises
    ------
    ValueError
        If options, network, ranks, machine and memory do not fit each other.
    """
    config = replace(config, **({"machine": machine, "memory": memory} if config.chooses else {}))
    config.validate()
    loaded = load_machine(machine)
    made = set_up(config, ranks)
    options = {name: value for name, value in asdict(config).items() if name in KEPT and value != _default(name)}
    provenance = Provenance.of(
        made.network, made.batch, machine=loaded.name, machine_fingerprint=fingerprint(loaded), options=options
    )
    plan = replace(made.plan, provenance=provenance)
    found = priced(config, made.network, plan, made.batch, loaded)
    if memory is not None and not config.chooses:
        _check_memory(found, parse_memory(memory))
    return Planned(config, made.network, plan, made.batch, loaded, found)


def reopened(path: str, batch: int | None, machine: str | None) -> Planned:
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
    known = {field.name for field in fields(RunConfig)}
    options = {name: value for name, value in provenance.options.items() if name in known}
    try:
        config = RunConfig(**{"dataset": None, **options, "batch": batch or provenance.batch, "plan": path})
        config.validate()
    except (TypeError, AttributeError) as error:
        raise UserError(f"plan {path}: its provenance has an option of the wrong type ({error}): plan again") from None
    made = set_up(config, _ranks(path, data.get("grid")))
    loaded = load_machine(machine or _known_machine(path, provenance))
    found = priced(config, made.network, made.plan, made.batch, loaded)
    return Planned(config, made.network, made.plan, made.batch, loaded, found)


def _ranks(path: str, grid: Any) -> int:
    """P, of the grid in a plan's file."""
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", str(grid))
    if not match:
        raise UserError(f'plan {path}: "grid" is {grid!r}: write the rows x columns of its ranks, as 4x2')
    return int(match[1]) * int(match[2])


def _known_machine(path: str, provenance: Provenance) -> str:
    """The machine that a plan was made for, if it is one that comes with gridnn and is still what it was."""
    name = provenance.machine or DEFAULT_MACHINE
    if name not in shipped():
        raise UserError(f"plan {path} was made for machine {name!r}, which was a file: name it by --machine FILE")
    if provenance.machine_fingerprint not in (None, fingerprint(load_machine(name))):
        raise UserError(
            f"plan {path} was made for machine {name!r} with other constants ({provenance.machine_fingerprint}, now "
            f"{fingerprint(load_machine(name))}): say --machine {name} to price it with those of now"
        )
    return name


def priced(config: RunConfig, network: Network, plan: Plan, batch: int, machine: Machine) -> Price:
    """The price of a step of ``batch`` samples."""
    programs = pass_programs(network, plan, pass_sizes(batch, config.accumulate))
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


def _default(name: str) -> Any:
    return getattr(RunConfig(dataset=None), name)
