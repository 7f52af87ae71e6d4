"""A plan: the grid, and a split for every layer of a network."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gridnn.errors import UserError, unknown
from gridnn.layout.gridshape import GridShape
from gridnn.layout.halo import HALOS
from gridnn.layout.split import Split
from gridnn.network import Network
from gridnn.planning.propagate import propagate
from gridnn.planning.provenance import KEY, OLDER_KEY, Provenance
from gridnn.records import read_json, shortened, texts, whole

VERSION = 1
MOST_MICROBATCHES = 4096  # each is built: a larger plan is never priced
MOST_RANKS = 10_000_000
LONGEST = 200  # letters of a split
KEYS = (
    "version",
    "strategy",
    "grid",
    "gather_backward",
    "halo",
    "recompute",
    "microbatches",
    "splits",
    "certificate",
    KEY,
    OLDER_KEY,
)
FORMER = {"rounds": "microbatches"}  # keys as older plans have them
DIVIDED = {"n": "batch", "d": "domain", "h": "domain", "w": "domain", "co": "model", "ci": "model"}
BACKWARD = ("reduce-scatter", "all-reduce")
# Options of how a divided network is run, beside its splits: the values of each, the default first.
OPTIONS = {"gather_backward": BACKWARD, "halo": HALOS, "recompute": (False, True)}


@dataclass(frozen=True)
class Plan:
    """How a network is divided.

    Attributes
    ----------
    strategy : str
        The rule that made it, or ``file``.
    grid : GridShape
        Pr x Pc.
    splits : mapping of str to Split
        One for every layer, each over all P ranks.
    gather_backward : {"reduce-scatter", "all-reduce"}
        How the gradient of a gathered activation is summed: each rank its part, or the whole as in Gholami et al. 2018.
    halo : {"auto", "direct", "stepwise"}
        How halos over several dimensions are exchanged; see `comm.halo.halo_stages`.
    recompute : bool
        Whether most activations are computed a second time before their backward pass, instead of being kept.
    microbatches : int
        In how many microbatches the fully connected layers run, each on a part of every rank's samples; see
        `gridnn.program.microbatches`.
    certificate : str or None
        What a search proved of its best choice: ``optimal``, or ``within x %``; not read from a file, which may have
        been edited.
    provenance : Provenance or None
        The network, the batch and the machine that it was made for; None if it was written by hand.
    """

    strategy: str
    grid: GridShape
    splits: Mapping[str, Split]
    gather_backward: str = "reduce-scatter"
    halo: str = "auto"
    recompute: bool = False
    microbatches: int = 1
    certificate: str | None = None
    provenance: Provenance | None = None

    @property
    def full_sum(self) -> bool:
        """Whether gathered activations are summed whole backwards."""
        return self.gather_backward == "all-reduce"

    def divided(self) -> tuple[str, str]:
        """What the ranks of a column (along the rows of the grid) and of a row divide, in words, for a picture."""
        fast: dict[str, None] = {}
        slow: dict[str, None] = {}
        for split in self.splits.values():
            position = 1
            for axis, parts in reversed(split.factors):
                words = DIVIDED.get(axis)
                if words and position < self.grid.rows:
                    fast[words] = None
                if words and position * parts > self.grid.rows:
                    slow[words] = None
                position *= parts
        return " and ".join(fast) or "nothing", " and ".join(slow) or "nothing"

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON."""
        Path(path).write_text(json.dumps(self.as_dict(), indent=2) + "\n")

    def as_dict(self) -> dict[str, Any]:
        """The plan as plain data."""
        return {
            "version": VERSION,
            "strategy": self.strategy,
            "grid": str(self.grid),
            "gather_backward": self.gather_backward,
            "halo": self.halo,
            "recompute": self.recompute,
            "microbatches": self.microbatches,
            "splits": {name: str(split) for name, split in self.splits.items()},
            **({"certificate": self.certificate} if self.certificate else {}),
            **({KEY: self.provenance.as_dict()} if self.provenance else {}),
        }


def load_plan(
    path: str | Path, network: Network, grid: GridShape, batch: int, *, replicas: bool = False, **options: Any
) -> Plan:
    """Read the plan in the JSON file ``path`` for ``network`` on ``grid``.

    The file holds ``{"version": 1, "splits": {"conv1": "n=2,h=2", ...}}``, perhaps ``grid``, ``gather_backward``,
    ``halo``, ``recompute`` and ``microbatches``; layers that it does not name follow their inputs. ``options`` holds
    what the user asked for of `OPTIONS`.

    Raises
    ------
    UserError
        If the file cannot be read, is of another grid, names a layer that the network lacks, or says otherwise than
        ``options``.
    """
    data = read_plan(path)
    if data.get("grid", str(grid)) != str(grid):
        raise UserError(f"plan {path} is for grid {data['grid']!r}, this run has {grid}: mend one of them")
    with _about(path):
        provenance = Provenance.from_file(data)
        if provenance:
            provenance.check(network)
        names = [node.name for node in network.nodes]
        for name in data["splits"]:
            if name not in names:
                raise unknown("layer", name, names)
        chosen = {name: Split.parse(text) for name, text in data["splits"].items()}
        splits = propagate(network, chosen, grid.size, batch, replicas)
        count = data.get("microbatches", 1)
        if count > batch:
            raise UserError(f'"microbatches" is {count}, but a pass has only {batch} samples: use fewer')
    agreed = {name: _agreed(path, data, name, options.get(name, values[0])) for name, values in OPTIONS.items()}
    return Plan(data.get("strategy", "file"), grid, splits, **agreed, microbatches=count, provenance=provenance)


def read_provenance(path: str | Path, data: Mapping[str, Any]) -> Provenance | None:
    """What the plan in a file was made for, if it says so; `UserError` if it says so incompletely."""
    with _about(path):
        return Provenance.from_file(data)


@contextmanager
def _about(path: str | Path) -> Iterator[None]:
    """Inside, mistakes are told of the plan in the file ``path``."""
    try:
        yield
    except UserError as error:
        raise UserError(f"plan {path}: {error}") from error


def _agreed(path: str | Path, data: Mapping[str, Any], name: str, asked: Any) -> Any:
    """What file and command line say of ``name``: the file, where the command line has the default."""
    values, said = OPTIONS[name], data.get(name, asked)
    if asked not in (said, values[0]):
        raise UserError(f"plan {path} says {name} {said}, but --{name.replace('_', '-')} {asked}: drop one")
    return said


def read_plan(path: str | Path) -> dict[str, Any]:
    """The plan in a JSON file as plain data, its keys as plans have them today.

    Raises
    ------
    UserError
        If the file cannot be read (see `records.read_json`), is of another version, or has a key or a value that a
        plan cannot have.
    """
    data = read_json("plan", path)
    with _about(path):
        if not isinstance(data, dict):
            raise UserError(f"expected an object at the top, found {type(data).__name__}")
        for former, now in (*FORMER.items(), (OLDER_KEY, KEY)):
            if former in data and now in data:
                raise UserError(f'"{former}" is an older name of "{now}", which it has, too: leave one out')
        data = {FORMER.get(key, key): value for key, value in data.items()}
        _check(data)
    return data


def _check(data: Mapping[str, Any]) -> None:
    """Refuse keys and values that no plan has; what ``provenance`` says is for `Provenance.from_file`."""
    for key in data:
        if key not in KEYS:
            raise unknown("key", key, KEYS)
    if data.get("version") != VERSION or data.get("version") is True:
        raise UserError(f"version {shortened(data.get('version'))}, but this gridnn reads version {VERSION}")
    for key in ("strategy", "certificate"):
        if not isinstance(data.get(key, ""), str):
            raise UserError(f'"{key}" is {shortened(data[key])}, but must be a text')
    _check_grid(data.get("grid", "1x1"))
    if not isinstance(data.get("splits"), dict):
        raise UserError('"splits" must be an object such as {"conv1": "n=2,co=2"}')
    texts("splits", data["splits"], LONGEST)
    whole("microbatches", data.get("microbatches", 1), 1, MOST_MICROBATCHES)
    for name, values in OPTIONS.items():
        said = data.get(name, values[0])
        if type(said) is not type(values[0]) or said not in values:
            raise UserError(f"{name} {shortened(said)} is not one of {', '.join(map(str, values))}")


def _check_grid(grid: Any) -> None:
    match = re.fullmatch(r"([1-9][0-9]{0,7})x([1-9][0-9]{0,7})", grid) if isinstance(grid, str) else None
    if not match:
        raise UserError(f'"grid" is {shortened(grid)}: write the rows x columns of its ranks, as 4x2')
    if int(match[1]) * int(match[2]) > MOST_RANKS:
        raise UserError(f'"grid" is {grid}: that is more than {MOST_RANKS:,} ranks')
