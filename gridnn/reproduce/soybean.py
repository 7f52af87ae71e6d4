"""The experiments of Wang, Huang, Li 2018 (SoyBean, arXiv 1805.04170): five layers, the table, the speed-up.

What agrees and what does not is told in docs/soybean.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from gridnn.layers import Linear
from gridnn.layout.gridshape import GridShape
from gridnn.layout.layout import Dim, Layout
from gridnn.layout.partition import Even
from gridnn.layout.transfer import plan_transfer
from gridnn.network import Network
from gridnn.planning.rules import make_plan
from gridnn.planning.search.cuts import COLUMNS, REPLICA, ROWS, SUMS, Tiling, conversion
from gridnn.planning.search.tiling import plan_tiling
from gridnn.plots.style import grouped, legend
from gridnn.reproduce.report import Claim, Experiment, agrees
from gridnn.reproduce.soybean_cuts import Level, k_cuts, levels_of
from gridnn.reproduce.soybean_speedup import MATRICES, speedup, words_of

LAYERS, WIDTH, BATCH, DEVICES, ITEM = 5, 300, 400, 16, 4
GROUPS = 4  # of the example's hybrid, of 4 devices each


class Case(NamedTuple):
    """A way to divide the example: ``groups`` groups of ``members`` divide the batch; the members the model."""

    name: str
    paper: float  # MB
    strategy: str
    groups: int
    members: int


CASES = (
    Case("data", 57.6, "batch", DEVICES, 1),
    Case("model", 76.8, "model", 1, DEVICES),
    Case("hybrid", 33.6, "grid", GROUPS, DEVICES // GROUPS),
)


def five_layers() -> Network:
    """The paper's example: five fully connected layers of 300, without biases."""
    network = Network((WIDTH,))
    for number in range(1, LAYERS + 1):
        network.add(f"fc{number}", Linear(WIDTH, bias=False))
    return network


def as_the_paper_counts(case: Case) -> float:
    """Megabytes by 2 A n: each of n devices sends and receives every tensor A that its group exchanges once, whole.

    Inside a group of ``members`` that is every layer's output for the group's share of the batch, across the groups
    every member's share of the weights.
    """
    outputs, weights = LAYERS * BATCH * WIDTH / case.groups, LAYERS * WIDTH * WIDTH / case.members
    inside = 2 * outputs * case.members * case.groups if case.members > 1 else 0
    across = 2 * weights * case.groups * case.members if case.groups > 1 else 0
    return _megabytes(inside + across)


def example() -> Experiment:
    """Five fully connected layers on 16 devices: three named plans and what the cuts find, in four counts."""
    network = five_layers()
    levels = levels_of(network, BATCH)
    rows = [one for case in CASES for one in _named(case, network, levels)] + list(_found(network, levels))
    counted = {(one["plan"], one["count"]): one["megabytes"] for one in rows}
    claims = [claim for case in CASES for claim in _beside(case, counted)]
    found, hybrid = counted["tiling", _MOVED], counted["hybrid", _MOVED]
    text, ours = "what the cuts find moves no more than the hybrid", f"{found:.4g} MB against {hybrid:.4g} MB"
    claims.append(Claim(text, "at most as much", ours, found <= hybrid, _MOVED))

    def draw(figure: Any) -> None:
        axes, names = figure.subplots(), list(dict.fromkeys(one["plan"] for one in rows))
        series = {"paper": [next((case.paper for case in CASES if case.name == name), None) for name in names]}
        for count in (_PAPER, _CUTS, _TILES, _MOVED):
            series[count] = [counted.get((name, count)) for name in names]
        grouped(axes, names, series)
        axes.set_ylabel("MB in one step, all devices")
        legend(figure, axes, 3)

    title = f"SoyBean: {LAYERS} layers of {WIDTH}, batch {BATCH}, {DEVICES} devices, fp32"
    return Experiment("soybean-example", title, rows, claims, draw, (9, 5.5))


def _named(case: Case, network: Network, levels: list[Level]) -> Iterator[dict[str, Any]]:
    plan = make_plan(case.strategy, network, GridShape(case.members, case.groups), BATCH)
    fixed = ("n",) * round(math.log2(case.groups)) + ("co",) * round(math.log2(case.members))
    yield {**_counted(case.name, _PAPER, as_the_paper_counts(case)), "paper_megabytes": case.paper}
    yield _counted(case.name, _CUTS, _megabytes(k_cuts(levels, len(fixed), fixed=fixed).cost))
    yield _counted(case.name, _TILES, _megabytes(k_cuts(levels, len(fixed), fixed=fixed, halves="tensors").cost))
    yield _counted(case.name, _MOVED, _megabytes(words_of(network, plan, BATCH)))


def _found(network: Network, levels: list[Level]) -> Iterator[dict[str, Any]]:
    cuts, plan = round(math.log2(DEVICES)), plan_tiling(network, DEVICES, BATCH, axes=MATRICES)
    yield _counted("tiling", _CUTS, _megabytes(k_cuts(levels, cuts, tied=True).cost))
    yield _counted("tiling", _TILES, _megabytes(k_cuts(levels, cuts, tied=True, halves="tensors").cost))
    yield _counted("tiling", _MOVED, _megabytes(words_of(network, plan, BATCH)))
    yield _counted("tiling, untied", _CUTS, _megabytes(k_cuts(levels, cuts).cost))
    yield _counted("tiling, untied", _TILES, _megabytes(k_cuts(levels, cuts, halves="tensors").cost))


def _counted(plan: str, count: str, megabytes: float) -> dict[str, Any]:
    return {"plan": plan, "count": count, "megabytes": megabytes, "paper_megabytes": None}


def _megabytes(elements: float) -> float:
    return ITEM * elements / 1e6


def _beside(case: Case, counted: dict[tuple[str, str], float]) -> Iterator[Claim]:
    what = f"{case.name} parallelism"
    paper, cuts, moved = (counted[case.name, count] for count in (_PAPER, _CUTS, _MOVED))
    yield agrees(f"{what}: {_PAPER}", case.paper, paper, 1e-6, "MB", _COUNTED)
    yield agrees(f"{what}: {_MOVED}", case.paper, moved, 0.05, "MB", _LESS)
    yield agrees(f"{what}: the paper's recursion, evaluated here, is {_MOVED}", cuts, moved, 1e-6, "MB", _CUTS)


_PAPER = "2 A n for every tensor"
_CUTS = "cuts, halves of operations"
_TILES = "cuts, halves of tensors"
_MOVED = "gridnn's words"
_COUNTED = "A the tensor, n the devices that share it: outputs forward and backward, gradients of weights"
_LESS = (
    "collectives move 2 A (n - 1); the input's gradient is not asked for, and the last output is not gathered; the "
    "hybrid's two kinds of groups each save one of 4"
)


def conversions() -> Experiment:
    """The table of conversions at one cut, beside what gridnn's transfers between the two layouts move."""
    rows, claims = [], []
    for source, target, share in TABLE:
        moved, size = _transferred(source, target)
        name = f"{_name(source)} to {_name(target)}"
        counted = conversion(source, target, size)
        rows.append({"conversion": name, "paper": share, "cuts": counted / size, "gridnn": moved / size})
        claims.append(agrees(f"elements moved, {name}", share, moved / size, 1e-9, "A", "two ranks, a 30 x 20 tensor"))

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        series = {"paper": [r["paper"] for r in rows], "gridnn's transfer": [r["gridnn"] for r in rows]}
        grouped(axes, [r["conversion"] for r in rows], series)
        axes.set_ylabel("elements moved, in sizes A of the tensor")
        legend(figure, axes)

    return Experiment("soybean-conversions", "SoyBean: conversions of a tensor at one cut", rows, claims, draw, (10, 5))


TABLE: tuple[tuple[Tiling, Tiling, float], ...] = (
    (ROWS, ROWS, 0),
    (COLUMNS, COLUMNS, 0),
    (REPLICA, REPLICA, 0),
    (REPLICA, ROWS, 0),
    (REPLICA, COLUMNS, 0),
    (ROWS, COLUMNS, 0.5),
    (COLUMNS, ROWS, 0.5),
    (ROWS, REPLICA, 1),
    (COLUMNS, REPLICA, 1),
    (SUMS, ROWS, 1),
    (SUMS, COLUMNS, 1),
    (SUMS, REPLICA, 2),
)


def _transferred(source: Tiling, target: Tiling, shape: tuple[int, int] = (30, 20)) -> tuple[int, int]:
    """The words that two ranks move from one layout to another, and the tensor's size."""
    before, after = (_layout(tiling, shape) for tiling in (source, target))
    transfer = plan_transfer(before, after, 2)
    return sum(count.words for index in range(2) for count in transfer.counts(index, 2)), math.prod(shape)


def _layout(tiling: Tiling, shape: tuple[int, ...]) -> Layout:
    dims = (Dim(Even(size, 2), (0,)) if tiling == place else Dim(Even(size, 1)) for place, size in enumerate(shape))
    return Layout((2,), tuple(dims), (0,) if tiling == SUMS else ())


def _name(tiling: Tiling) -> str:
    return {ROWS: "R", COLUMNS: "C"}.get(tiling, str(tiling))


EXPERIMENTS: dict[str, Callable[[], Experiment]] = {"example": example, "conversions": conversions, "speedup": speedup}
