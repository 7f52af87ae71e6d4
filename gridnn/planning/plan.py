"""A plan: the grid, and a split for every layer of a network."""

from __future__ import annotations

import json
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

VERSION = 1
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
    with _about(path):
        for key in data:
            if key not in KEYS:
                raise unknown("key", key, KEYS)
        if data.get("version") != VERSION or data.get("version") is True:
            raise UserError(f"version {data.get('version')!r}, but this gridnn reads version {VERSION}")
    if data.get("grid", str(grid)) != str(grid):
        raise UserError(f"plan {path} is for grid {data['grid']!r}, this run has {grid}: mend one of them")
    with _about(path):
        texts = data.get("splits")
        if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
            raise UserError('"splits" must be an object such as {"conv1": "n=2,co=2"}')
        provenance = Provenance.from_file(data)
        if provenance:
            provenance.check(network)
        names = [node.name for node in network.nodes]
        for name in texts:
            if name not in names:
                raise unknown("layer", name, names)
        chosen = {name: Split.parse(text) for name, text in texts.items()}
        splits = propagate(network, chosen, grid.size, batch, replicas)
        count = _microbatches(data)
    agreed = {name: _agreed(path, data, name, options.get(name, values[0])) for name, values in OPTIONS.items()}
    return Plan(str(data.get("strategy", "file")), grid, splits, **agreed, microbatches=count, provenance=provenance)


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


def _microbatches(data: Mapping[str, Any]) -> int:
    count = data.get("microbatches", 1)
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise UserError(f'"microbatches" is {count!r}, but must be a whole number of at least 1')
    return count


def _agreed(path: str | Path, data: Mapping[str, Any], name: str, asked: Any) -> Any:
    """What file and command line say of ``name``: the file, where the command line has the default."""
    values, said = OPTIONS[name], data.get(name, asked)
    if said not in values:
        raise UserError(f"plan {path}: {name} {said!r} is not one of {', '.join(map(str, values))}")
    if asked not in (said, values[0]):
        raise UserError(f"plan {path} says {name} {said}, but --{name.replace('_', '-')} {asked}: drop one")
    return said


def read_plan(path: str | Path) -> dict[str, Any]:
    """The plan in a JSON file as plain data; `UserError` if the file cannot be read, or holds no object."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"plan {path}: {error.strerror}") from error
    except ValueError as error:  # of json, or of text that is not UTF-8
        raise UserError(f"plan {path} is no JSON: {error}") from error
    if not isinstance(data, dict):
        raise UserError(f"plan {path}: expected an object at the top, found {type(data).__name__}")
    for former in FORMER.keys() & data:
        data[FORMER[former]] = data.pop(former)
    return data
