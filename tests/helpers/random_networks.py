"""Small random networks, and random plans for them: every rank that starts from the same seed makes the same."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import NamedTuple

from splits import admitted_splits

from gridnn import layers as L
from gridnn.errors import UserError
from gridnn.layers.base import Layer
from gridnn.layout.gridshape import ORDERS, GridShape
from gridnn.layout.halo import HALOS
from gridnn.network import INPUT, Network
from gridnn.planning.plan import BACKWARD, Plan
from gridnn.program.program import Program

WIDEST, LONGEST = 8, 14  # channels, places along an axis
CONVS = {1: L.Conv1d, 2: L.Conv2d, 3: L.Conv3d}
TRANSPOSED = {1: L.ConvTranspose1d, 2: L.ConvTranspose2d, 3: L.ConvTranspose3d}
MAX_POOLS = {1: L.MaxPool1d, 2: L.MaxPool2d, 3: L.MaxPool3d}
AVG_POOLS = {1: L.AvgPool1d, 2: L.AvgPool2d, 3: L.AvgPool3d}


class Case(NamedTuple):
    """A network with its loss, the samples of a batch, and a plan."""

    network: Network
    batch: int
    plan: Plan

    @property
    def program(self) -> Program:
        return Program(self.network, self.plan, self.batch)

    def __str__(self) -> str:
        splits = self.plan.splits
        layers = (f"{n.name} = {n.layer}({', '.join(n.inputs)}): {splits[n.name]}" for n in self.network.nodes)
        running = f"{self.plan.grid} {self.plan.gather_backward} {self.plan.halo} recompute={self.plan.recompute}"
        return "\n".join([f"batch {self.batch} of {self.network.shapes[INPUT]}, {running}", *layers])


def random_case(rng: random.Random, ranks: int) -> Case:
    """A random network for a random plan on ``ranks`` ranks."""
    network, batch = random_network(rng), rng.randint(2, 7)
    return Case(network, batch, random_plan(rng, network, batch, ranks))


def random_plan(rng: random.Random, network: Network, batch: int, ranks: int) -> Plan:
    """Any split of every layer that it admits, replicas included, on any grid, run in any way.

    Half of the layers follow the one before where they can, so that transfers without movement and halos occur as well
    as complete changes of the division.
    """
    splits = {}
    before = None
    for node in network.nodes:
        admitted = list(admitted_splits(node.layer, network.sizes(node, batch), ranks))
        if before not in admitted or rng.random() < 0.5:
            before = rng.choice(admitted)
        splits[node.name] = before
    rows = rng.choice([rows for rows in range(1, ranks + 1) if ranks % rows == 0])
    running = {"gather_backward": rng.choice(BACKWARD), "halo": rng.choice(HALOS), "recompute": rng.random() < 0.4}
    return Plan("random", GridShape(rows, ranks // rows, rng.choice(ORDERS)), splits, **running)


def random_network(rng: random.Random) -> Network:
    """A chain of single layers and branches over one to three axes of space or none, a head, and a loss."""
    space = rng.choice((0, 1, 2, 2, 2, 3))
    longest = {0: 0, 1: 13, 2: 11, 3: 6}[space]
    net = Network((*(rng.randint(3, longest) for _ in range(space)), rng.randint(1, 5)))
    for number in range(rng.randint(2, 6)):
        grow = _branch if rng.random() < 0.35 else _single
        grow(rng, net, f"{number}")
    _head(rng, net)
    net.add("loss", L.MeanSquaredError() if rng.random() < 0.3 else L.SoftmaxCrossEntropy())
    return net


def _single(rng: random.Random, net: Network, name: str, source: str | None = None) -> str:
    """Add a layer that fits; the name of what is the end now."""
    source = source or net.output
    for layer in _layers(rng, net.shapes[source]):
        try:
            shape = layer.infer(net.shapes[source])
        except UserError:
            continue
        if shape[-1] <= 3 * WIDEST and all(size <= LONGEST for size in shape[:-1]):
            return net.add(name, layer, source)
    raise AssertionError(f"no layer fits {net.shapes[source]}")


def _branch(rng: random.Random, net: Network, name: str) -> str:
    """Two or three ways from one tensor, some of them with a layer or two, and an end of them all."""
    source = net.output
    ways = [_way(rng, net, f"{name}.{number}", source) for number in range(rng.choice((2, 2, 3)))]
    adds = len({net.shapes[way] for way in ways}) == 1 and rng.random() < 0.6
    if all(way == source for way in ways):
        ways = [source, source]
    return net.add(f"{name}.end", L.Add() if adds else L.Concat(), *ways)


def _way(rng: random.Random, net: Network, name: str, source: str) -> str:
    """Zero to two layers that keep space as it is."""
    end, channels = source, net.shapes[source][-1]
    for number in range(rng.randint(0, 2)):
        space = len(net.shapes[source]) - 1
        layer = _keeping(rng, space, channels) if rng.random() < 0.6 else _pointwise(rng, net.shapes[end])
        end = net.add(f"{name}.{number}", layer, end)
    return end


def _keeping(rng: random.Random, space: int, channels: int) -> Layer:
    """A layer with weights whose output has the places of its input, and mostly its channels."""
    channels = channels if rng.random() < 0.7 else rng.randint(1, WIDEST)
    if not space:
        return L.Linear(channels, bias=rng.random() < 0.5)
    kernel = tuple(rng.randint(1, 4) for _ in range(space))
    padding = tuple(((taps - 1) // 2, taps // 2) for taps in kernel)
    return CONVS[space](channels, kernel, padding=padding, bias=rng.random() < 0.5)


def _pointwise(rng: random.Random, shape: tuple[int, ...]) -> Layer:
    """A layer that keeps the shape."""
    activations = L.ReLU(), L.LeakyReLU(0.2), L.Tanh(), L.GELU()
    layers = [*activations, L.Dropout(0.2), L.BatchNorm(), L.LocalResponseNorm(3, 0.3)]
    groups = [g for g in range(1, shape[-1] + 1) if shape[-1] % g == 0 and math.prod(shape) > 2 * g]
    return rng.choice([*layers, *(L.GroupNorm(g) for g in groups[-1:])])


def _layers(rng: random.Random, shape: tuple[int, ...]) -> Iterator[Layer]:
    """Layers for inputs of ``shape``, which may be too large for it; the last one never is."""
    *space, channels = shape
    makers = [_sliding, _pooling, _resampling] if space else []
    for _ in range(8):
        maker = rng.choice([*makers, *makers, None])
        yield maker(rng, len(space), channels) if maker else _pointwise(rng, shape)
    yield _keeping(rng, len(space), min(channels, WIDEST))


def _sliding(rng: random.Random, space: int, channels: int) -> Layer:
    """A convolution, perhaps in groups, perhaps transposed."""
    groups = rng.choice([g for g in range(1, channels + 1) if channels % g == 0]) if rng.random() < 0.4 else 1
    outputs = groups * rng.randint(1, max(1, WIDEST // groups))
    kernel, stride, dilation = (tuple(rng.randint(1, most) for _ in range(space)) for most in (4, 2, 2))
    bias = rng.random() < 0.7
    if rng.random() < 0.2:
        padding = tuple((rng.randint(0, taps // 2), rng.randint(0, taps // 2)) for taps in kernel)
        return TRANSPOSED[space](outputs, kernel, stride, padding, 0, dilation, groups, bias)
    padding = tuple((rng.randint(0, taps), rng.randint(0, taps)) for taps in kernel)
    return CONVS[space](outputs, kernel, stride, padding, dilation, groups, bias)


def _pooling(rng: random.Random, space: int, channels: int) -> Layer:
    kernel, stride = (tuple(rng.randint(1, most) for _ in range(space)) for most in (4, 3))
    padding = tuple((rng.randint(0, taps // 2), rng.randint(0, taps // 2)) for taps in kernel)
    if rng.random() < 0.5:
        return MAX_POOLS[space](kernel, stride, padding)
    return AVG_POOLS[space](kernel, stride, padding, count_padding=rng.random() < 0.5)


def _resampling(rng: random.Random, space: int, channels: int) -> Layer:
    if rng.random() < 0.5:
        return L.AdaptiveAvgPool(tuple(rng.randint(1, 7) for _ in range(space)))
    return L.Upsample(tuple(rng.randint(1, 3) for _ in range(space)), rng.choice(("nearest", "linear")))


def _head(rng: random.Random, net: Network) -> None:
    """From places to vectors, unless the loss is over places; then one to two fully connected layers."""
    if len(net.shapes[net.output]) > 1:
        if rng.random() < 0.2:
            _way(rng, net, "head", net.output)
            net.add("classes", CONVS[len(net.shapes[net.output]) - 1](rng.randint(2, 7), 1))
            return
        net.add("flat", L.Flatten() if rng.random() < 0.5 else L.GlobalAvgPool())
    if rng.random() < 0.4:
        net.add("hidden", L.Linear(rng.randint(2, 9)))
        net.add("between", _pointwise(rng, net.shapes["hidden"]))
    net.add("classes", L.Linear(rng.randint(2, 7)))
