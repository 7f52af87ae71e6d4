"""Every layer under the splits that it admits, its ranks simulated: y, dx, dW, db equal the serial layer's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from serial import box_of
from simulate import Simulation

from gridnn import layers as L
from gridnn.comm.partition import Even
from gridnn.comm.split import Split
from gridnn.layers.base import Shapes
from gridnn.layers.conv import Grouped


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape)


@pytest.mark.parametrize("split", ["n=2", "co=3", "ci=2", "n=2,co=2", "ci=3,co=2", "co=2,n=3,ci=2", "n=2,copies=2"])
def test_linear(split):
    Simulation(L.Linear(5), Split.parse(split), normal(7, 6)).check()


CONVOLUTIONS = [
    L.Conv2d(5, 3, padding=1),
    L.Conv2d(5, 3, stride=2, padding=1),
    L.Conv2d(5, (4, 2), stride=(3, 1), padding=((1, 2), (0, 1))),
    L.Conv2d(5, 3, padding=2, dilation=2),
    L.Conv2d(5, 1, stride=2),
]


@pytest.mark.parametrize("layer", CONVOLUTIONS, ids=str)
@pytest.mark.parametrize("split", ["n=3", "co=2", "ci=2", "h=3", "w=2", "h=2,w=2", "n=2,h=2,co=2", "ci=3,w=2", "h=4"])
def test_convolution(layer, split):
    Simulation(layer, Split.parse(split), normal(3, 11, 10, 4)).check()


@pytest.mark.parametrize("groups", [2, 3, 6])
@pytest.mark.parametrize("split", ["co=2", "co=3", "co=4", "co=5", "h=2,co=2", "n=2"])
def test_grouped_convolution(groups, split):
    Simulation(L.Conv2d(12, 3, padding=1, groups=groups), Split.parse(split), normal(2, 6, 5, 6)).check()


def test_grouped_convolution_refuses_a_divided_input():
    shapes = Shapes(((2, 6, 5, 6),), (2, 4, 3, 12))
    with pytest.raises(ValueError, match="groups=3 sums over the 2 input channels of a group only: divide co"):
        L.Conv2d(12, 3, groups=3).check(shapes, Split.of(ci=2))
    with pytest.raises(ValueError, match="has no axis d; it can divide n, h, w, co, ci"):
        L.Conv2d(12, 3).check(shapes, Split.of(d=2))


def test_depthwise_channels_stay_where_they_are():
    """No movement where every part has whole groups."""
    assert Grouped.of(Even(12, 3), 6, 6) == Even(6, 3)
    assert Grouped.of(Even(12, 1), 6, 6) == Even(6, 1)
    uneven = Grouped.of(Even(12, 5), 3, 6)
    assert [uneven.interval(i) for i in range(5)] == [(0, 2), (0, 2), (2, 4), (2, 6), (4, 6)]
    assert Grouped.of(Even(12, 4), 2, 6) == Even(6, 4) or Grouped.of(Even(12, 4), 2, 6).coarsen(2) == Even(6, 2)


@pytest.mark.parametrize("layer", [L.MaxPool2d(3, 2, 1), L.MaxPool2d(2), L.AvgPool2d(3, 1, 1), L.AvgPool2d((2, 3), 2)])
@pytest.mark.parametrize("split", ["n=2", "co=2", "h=2", "h=2,w=3", "n=3,h=2,co=2"])
def test_pooling(layer, split):
    Simulation(layer, Split.parse(split), normal(3, 9, 10, 4)).check()


@pytest.mark.parametrize("split", ["n=2", "co=2", "h=2", "w=2,h=3", "n=2,h=2,co=2"])
def test_global_avg_pool(split):
    Simulation(L.GlobalAvgPool(), Split.parse(split), normal(2, 3, 5, 4)).check()


@pytest.mark.parametrize("layer", [L.ReLU(), L.Tanh(), L.GELU(), L.Dropout(0.4)], ids=str)
def test_elementwise(layer):
    Simulation(layer, Split.parse("n=2,h=2,w=2,co=2"), normal(3, 5, 5, 3)).check()


@pytest.mark.parametrize("split", ["n=2", "co=2", "h=2,w=2", "n=3,co=2,h=2", "n=2,copies=2"])
def test_batch_norm(split):
    x = normal(3, 5, 4, 3)
    ranks = Simulation(L.BatchNorm(), Split.parse(split), x).check().ranks
    mean, size = x.mean(axis=(0, 1, 2)), math.prod(x.shape[:3])
    for local in ranks:
        c = slice(*local.output_box[-1])
        np.testing.assert_allclose(local.state["running_mean"], 0.1 * mean[c])
        wanted = 0.9 + 0.1 * x.var(axis=(0, 1, 2))[c] * size / (size - 1)
        np.testing.assert_allclose(local.state["running_var"], wanted)


@pytest.mark.parametrize("split", ["n=2", "h=2", "h=3", "n=2,h=2"])
def test_flatten(split):
    Simulation(L.Flatten(), Split.parse(split), normal(3, 5, 4, 2)).check()
    shapes = Shapes(((3, 5, 4, 2),), (3, 40))
    with pytest.raises(ValueError, match="has no axis co; it can divide n, h"):
        L.Flatten().check(shapes, Split.of(co=2))


def test_flatten_of_vectors():
    Simulation(L.Flatten(), Split.parse("n=2,co=3"), normal(3, 5)).check()


@pytest.mark.parametrize("split", ["n=2", "co=2", "co=4", "h=2,co=3"])
def test_joins(split):
    a, b, c = normal(2, 3, 3, 2), normal(2, 3, 3, 5), normal(2, 3, 3, 1)
    Simulation(L.Concat(), Split.parse(split), a, b, c).check()
    Simulation(L.Add(), Split.parse(split), b, b + 1, 2 * b).check()


@pytest.mark.parametrize("split", ["n=2", "co=2", "co=5", "n=3,co=2", "co=2,copies=2"])
def test_softmax_cross_entropy(split):
    labels = np.random.default_rng(1).integers(0, 5, size=7)
    split = Split.parse(split)
    simulation = Simulation(L.SoftmaxCrossEntropy(), split, 4 * normal(7, 5), target=labels).check()
    for local in simulation.ranks:
        declared = local.layer.reductions(local.shapes, local.output_box, True)
        assert [(r.axes, r.words) for r in declared] == local.reduced
        assert bool(declared) == (split.parts("co") > 1)


@pytest.mark.parametrize("split", ["n=2", "co=2", "h=2,w=2", "n=2,copies=2"])
def test_mean_squared_error(split):
    Simulation(L.MeanSquaredError(), Split.parse(split), normal(3, 4, 2, 5), target=normal(3, 4, 2, 5) ** 2).check()


def test_undivided_layers_ask_for_what_they_have():
    """The identity split cuts nothing, so that it cannot look like a movement."""
    for layer, shape in [(L.Conv2d(4, 3, groups=2), (2, 5, 5, 4)), (L.Flatten(), (2, 5, 5, 4)), (L.Concat(), (2, 3))]:
        shapes = Shapes((shape,), (shape[0], *layer.infer(shape[1:])))
        for cuts, tensor in (
            (layer.cut_input(0, shapes, Split(())), shape),
            (layer.cut_output(shapes, Split(())), None),
        ):
            assert tuple(cut.partition.interval(0) for cut in cuts) == box_of(tensor or shapes.output)
