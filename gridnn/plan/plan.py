"""A plan: the grid, and a split for every layer of a network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gridnn.comm.gridshape import GridShape
from gridnn.comm.split import COPIES, Split
from gridnn.errors import unknown
from gridnn.layers.base import Shapes
from gridnn.network import INPUT, Network, Node

VERSION = 1
KEYS = ("version", "strategy", "grid", "gather_backward", "splits")
DIVIDED = {"n": "batch", "d": "domain", "h": "domain", "w": "domain", "co": "model", "ci": "model"}
BACKWARD = ("reduce-scatter", "all-reduce")


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
    """

    strategy: str
    grid: GridShape
    splits: Mapping[str, Split]
    gather_backward: str = "reduce-scatter"

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

    def as_dict(self) -> dict:
        """The plan as plain data."""
        return {
            "version": VERSION,
            "strategy": self.strategy,
            "grid": str(self.grid),
            "gather_backward": self.gather_backward,
            "splits": {name: str(split) for name, split in self.splits.items()},
        }


def complete(
    network: Network, chosen: Mapping[str, Split], ranks: int, batch: int, copies: bool = False
) -> dict[str, Split]:
    """A split for every layer: those ``chosen``, and for the others the one in which their input comes out.

    With ``copies`` an axis that is shorter than its parts is divided into the most that fit, a divisor of their number,
    and the ranks left over repeat the work; otherwise such a split is refused.

    Raises
    ------
    ValueError
        If a split does not fit its layer: an axis that it lacks, more parts than elements, a product that does not
        divide P.
    """
    splits: dict[str, Split] = {}
    for node in network.nodes:
        shapes = network.sizes(node, batch)
        try:
            if node.name in chosen:
                split = chosen[node.name].over(ranks)
            else:
                known = [splits[source] for source in node.inputs if source != INPUT]
                split = _following(node, known[0] if known else _next(network, node, chosen, ranks), shapes)
            node.layer.check(shapes, split)
            split = _fitted(node, shapes, split, copies)
        except ValueError as error:
            raise ValueError(f"layer {node.name!r}: {error}") from error
        splits[node.name] = split
    return splits


def _following(node: Node, split: Split, shapes: Shapes) -> Split:
    """``split`` as far as the layer can have it; partial sums of its input (over ``ci``) are divided by channels."""
    axes = node.layer.axes(shapes)
    moved = split.renamed("ci", "co")
    return Split(tuple((axis if axis in axes else COPIES, parts) for axis, parts in moved.factors))


def _next(network: Network, node: Node, chosen: Mapping[str, Split], ranks: int) -> Split:
    """What the first layer with a split after ``node`` asks of its input; every rank reads its part of that."""
    names = [other.name for other in network.nodes]
    after = (chosen[name] for name in names[names.index(node.name) :] if name in chosen)
    return next(after, Split.of(n=ranks)).over(ranks).renamed("co", COPIES)


def _fitted(node: Node, shapes: Shapes, split: Split, copies: bool) -> Split:
    """``split`` with no more parts of an axis than it has elements, or a refusal."""
    layer = node.layer
    sizes = dict(zip(layer.input_axes(0, shapes), shapes.inputs[0], strict=True))
    sizes.update(zip(layer.output_axes(shapes), shapes.output, strict=True))
    factors = []
    for axis, parts in split.factors:
        if axis == COPIES or split.parts(axis) <= sizes[axis]:
            factors.append((axis, parts))
        elif copies:
            most = max(
                k for k in range(1, parts + 1) if parts % k == 0 and split.parts(axis) // parts * k <= sizes[axis]
            )
            factors += [(axis, most), (COPIES, parts // most)]
        else:
            raise ValueError(_too_fine(split, axis, sizes[axis]))
    return Split(tuple(factor for factor in factors if factor[1] != 1))


def _too_fine(split: Split, axis: str, size: int) -> str:
    parts = split.parts(axis)
    what = {"n": "samples in the batch", "co": "out-channels", "ci": "in-channels"}.get(axis, f"places along {axis}")
    remedy = f"--batch {parts} or more (times --accumulate), " if axis == "n" else ""
    return (
        f"split {split} divides {axis} into {parts} parts, but there are {size} {what}: use {remedy}at most {size} "
        f"parts of {axis} (another --grid or --strategy, or --plan), or --copies (fewer parts, ranks that repeat work)"
    )


def load_plan(
    path: str | Path, network: Network, grid: GridShape, batch: int, *, gather_backward: str, copies: bool = False
) -> Plan:
    """Read the plan in the JSON file ``path`` for ``network`` on ``grid``.

    The file holds ``{"version": 1, "splits": {"conv1": "n=2,h=2", ...}}``, perhaps ``grid`` and ``gather_backward``;
    layers that it does not name follow their inputs.

    Raises
    ------
    ValueError
        If the file cannot be read, is of another grid, or names a layer that the network lacks.
    """
    data = _read_json(path)
    for key in data:
        if key not in KEYS:
            raise ValueError(f"plan {path}: {unknown('key', key, KEYS)}")
    if data.get("version") != VERSION or data.get("version") is True:
        raise ValueError(f"plan {path}: version {data.get('version')!r}, but this gridnn reads version {VERSION}")
    if data.get("grid", str(grid)) != str(grid):
        raise ValueError(f"plan {path} is for grid {data['grid']!r}, this run has {grid}: mend one of them")
    texts = data.get("splits")
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise ValueError(f'plan {path}: "splits" must be an object such as {{"conv1": "n=2,co=2"}}')
    names = [node.name for node in network.nodes]
    for name in texts:
        if name not in names:
            raise unknown("layer", name, names)
    gather = data.get("gather_backward", gather_backward)
    if gather not in BACKWARD:
        raise ValueError(f"plan {path}: gather_backward {gather!r} is not one of {', '.join(BACKWARD)}")
    if gather_backward not in (gather, BACKWARD[0]):
        raise ValueError(
            f"plan {path} says gather_backward {gather}, but --gather-backward {gather_backward}: drop one"
        )
    try:
        chosen = {name: Split.parse(text) for name, text in texts.items()}
        splits = complete(network, chosen, grid.size, batch, copies)
    except ValueError as error:
        raise ValueError(f"plan {path}: {error}") from error
    return Plan(str(data.get("strategy", "file")), grid, splits, gather)


def _read_json(path: str | Path) -> dict:
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"plan {path}: {error.strerror}") from error
    except ValueError as error:  # of json, or of text that is not UTF-8
        raise ValueError(f"plan {path} is no JSON: {error}") from error
    if not isinstance(data, dict):
        raise ValueError(f"plan {path}: expected an object at the top, found {type(data).__name__}")
    return data
