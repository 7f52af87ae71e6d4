"""The cases of domain parallelism that are tried: random windows on random sizes, divided at random over P ranks.

``python scripts/domain_table.py`` runs them all and writes the table of docs/domain.md.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from divided import Divided, Shift, serial_results
from splits import ordered_factors

from gridnn import layers as L
from gridnn.errors import UserError
from gridnn.layers.base import SPACE, Layer, Shapes
from gridnn.layout.partition import Window
from gridnn.layout.split import Split
from gridnn.network import Network

COUNTS = {1: 100, 2: 420, 3: 420, 4: 540, 5: 240, 6: 540, 8: 240}  # cases by number of ranks
SIZES = {1: 64, 2: 40, 3: 14}  # the largest extent, by dimensions of space
KERNELS = {1: 11, 2: 11, 3: 5}
LAYERS = {
    1: {"conv": L.Conv1d, "transposed": L.ConvTranspose1d, "max pool": L.MaxPool1d, "average pool": L.AvgPool1d},
    2: {"conv": L.Conv2d, "transposed": L.ConvTranspose2d, "max pool": L.MaxPool2d, "average pool": L.AvgPool2d},
    3: {"conv": L.Conv3d, "transposed": L.ConvTranspose3d, "max pool": L.MaxPool3d, "average pool": L.AvgPool3d},
}
KINDS = (
    ("conv",) * 11 + ("grouped",) * 2 + ("depthwise",) * 2 + ("transposed",) * 2 + ("max pool",) * 2 + ("average pool",)
)
TOLERANCE = 1e-10  # of the largest value of the serial result


@dataclass(frozen=True)
class Case:
    """One layer on one sample shape, divided in one way; the layer before it is divided alike or otherwise."""

    kind: str
    layer: Layer
    shape: tuple[int, ...]
    split: Split
    before: Split

    @property
    def row(self) -> dict[str, str]:
        """The case as a row of the table."""
        layer = self.layer
        return {
            "layer": self.kind,
            "ranks": str(self.split.ranks),
            "split": str(self.split),
            "split before": str(self.before),
            "input": "x".join(map(str, self.shape)),
            "kernel": _text(layer.kernel),
            "stride": _text(layer.stride),
            "dilation": _text(getattr(layer, "dilation", (1,) * len(layer.kernel))),
            "padding": " ".join(f"{low}+{high}" for low, high in layer.padding),
            "groups": str(getattr(layer, "groups", 1)),
        }


def _text(values: tuple[int, ...]) -> str:
    return "x".join(map(str, values))


def cases(ranks: int) -> list[Case]:
    """The cases for ``ranks`` ranks: always the same."""
    rng, found = random.Random(1000 + ranks), []
    while len(found) < COUNTS[ranks]:
        case = _draw(rng, ranks)
        if case is not None:
            found.append(case)
    return found


def _draw(rng: random.Random, ranks: int) -> Case | None:
    dims = rng.choices((1, 2, 3), (30, 45, 25) if ranks < 8 else (10, 20, 70))[0]
    kind = rng.choice(KINDS)
    layer = _layer(rng, kind, dims)
    channels = rng.choice((2, 4, 6)) if kind != "conv" else rng.randint(1, 6)
    shape = (rng.randint(1, 4), *(rng.randint(5, SIZES[dims]) for _ in range(dims)), channels)
    try:
        layer = layer(channels)
        output = layer.infer(shape[1:])
    except UserError:
        return None
    shapes = Shapes((shape,), (shape[0], *output))
    if min(output) < 1 or max(output) > 3 * SIZES[dims]:
        return None
    split = _split(rng, ranks, layer, shapes)
    try:
        layer.check(shapes, split)
    except UserError:
        return None
    alike = split.renamed("ci", "co")
    other = _split(rng, ranks, Shift(), Shapes((shape,), shape))
    return Case(kind, layer, shape, split, alike if rng.random() < 0.7 else other)


def _layer(rng: random.Random, kind: str, dims: int):
    """A layer that still wants to know its channels."""

    def draw(low: int, high: int) -> tuple[int, ...]:
        same = rng.random() < 0.3
        first = rng.randint(low, high)
        return tuple(first if same else rng.randint(low, high) for _ in range(dims))

    kernel, stride = draw(1, KERNELS[dims]), draw(1, 4)
    padding = tuple((rng.randint(0, 5), rng.randint(0, 5)) for _ in range(dims))
    if "pool" in kind:
        padding = tuple((min(low, k // 2), min(high, k // 2)) for (low, high), k in zip(padding, kernel, strict=True))
        return lambda channels: LAYERS[dims][kind](kernel, stride, padding)
    dilation = draw(1, 3)
    groups = {"grouped": lambda c: 2, "depthwise": lambda c: c}.get(kind, lambda c: 1)
    number = 2 * rng.randint(1, 3)
    outputs = {"depthwise": lambda c: c}.get(kind, lambda c: number)
    made = LAYERS[dims]["transposed" if kind == "transposed" else "conv"]
    return lambda channels: made(
        outputs(channels), kernel, stride=stride, padding=padding, dilation=dilation, groups=groups(channels)
    )


def _split(rng: random.Random, ranks: int, layer: Layer, shapes: Shapes) -> Split:
    """Mostly space, in one to three dimensions; sometimes samples, channels and replicas too."""
    axes = layer.axes(shapes)
    space = [axis for axis in SPACE[len(shapes.output)] if axis in axes]
    others = [axis for axis in (*axes, "replicas") if axis not in space]
    factors = max(ordered_factors(ranks), key=len) if rng.random() < 0.5 else rng.choice(list(ordered_factors(ranks)))
    rng.shuffle(space)
    # one dimension after the other, so that several are divided where there are several factors
    picked = [space[i % len(space)] if rng.random() < 0.8 else rng.choice(others) for i in range(len(factors))]
    return Split(tuple(zip(picked, factors, strict=True)))


def run(case: Case, comm, grid) -> float:
    """The largest difference from the serial layer in y, dx, dW, db, relative to the largest value of each.

    Words and messages are compared with the prediction on the way.
    """
    network = Network(case.shape[1:])
    network.add("shift", Shift())
    network.add("layer", case.layer)
    shapes = network.sizes(network.nodes[1], case.shape[0])
    rng = np.random.default_rng(2)
    x, dy = rng.normal(size=case.shape), rng.normal(size=shapes.output)
    divided = Divided(comm, grid, network, {"shift": case.before, "layer": case.split}, case.shape[0])
    y, gradients = divided.step(x, dy)
    results = {"y": y, **gradients}
    divided.check_ledger()
    expected = serial_results(divided, case.layer, shapes, x, dy)
    return max(
        float(np.abs(value - expected[name]).max() / max(1.0, np.abs(expected[name]).max()))
        for name, value in results.items()
    )


def traits(case: Case) -> set[str]:
    """What makes a case hard, for the summary of the table."""
    found = set()
    shapes = Shapes((case.shape,), (case.shape[0], *case.layer.infer(case.shape[1:])))
    axes = case.layer.input_axes(0, shapes)
    cuts = case.layer.cut_input(0, shapes, case.split)
    outputs = {cut.axis: cut.partition for cut in case.layer.cut_output(shapes, case.split)}
    divided = [axis for axis in SPACE[len(case.shape)] if case.split.parts(axis) > 1]
    if len(divided) > 1:
        found.add(f"divided in {len(divided)} dimensions (corners)")
    for axis, cut, size in zip(axes, cuts, case.shape, strict=True):
        if axis not in divided:
            continue
        parts = cut.partition.parts
        held = [(i * size // parts, (i + 1) * size // parts) for i in range(parts)]
        needed = [cut.partition.interval(i) for i in range(parts)]
        if size % parts:
            found.add("uneven parts")
        if any(outputs[axis].extent(i) == 0 for i in range(parts)):
            found.add("a part with no output at all")
        if any(n[0] < held[i - 1][0] for i, n in enumerate(needed) if i > 0 and n[0] < n[1]):
            found.add("halo wider than the neighbour's part")
    windows: dict[str, Window] = case.layer.windows(shapes)
    if any(window.kernel % 2 == 0 for window in windows.values()):
        found.add("even kernel")
    if any(window.before != window.after for window in windows.values()):
        found.add("asymmetric padding")
    if any(window.stride > window.reach for window in windows.values()):
        found.add("stride beyond the kernel")
    if any(window.dilation > 1 for window in windows.values()):
        found.add("dilation")
    if {axis for axis, _ in case.split.factors} - set(divided) - {"replicas"}:
        found.add("with n, co or ci divided too")
    return found
