"""Every layer under the splits that it admits, its ranks simulated: y, dx, dW, db equal the serial layer's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from serial import box_of
from simulate import Simulation

from gridnn import layers as L
from gridnn.errors import UserError
from gridnn.layers.base import Shapes
from gridnn.layers.groups import Grouped
from gridnn.layout.partition import Even
from gridnn.layout.split import Split


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape)


@pytest.mark.parametrize("split", ["n=2", "co=3", "ci=2", "n=2,co=2", "ci=3,co=2", "co=2,n=3,ci=2", "n=2,replicas=2"])
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
    with pytest.raises(UserError, match="groups=3 sums over the 2 input channels of a group only: divide co"):
        L.Conv2d(12, 3, groups=3).check(shapes, Split.of(ci=2))
    with pytest.raises(UserError, match="has no axis d; it can divide n, h, w, co, ci"):
        L.Conv2d(12, 3).check(shapes, Split.of(d=2))


def test_depthwise_channels_stay_where_they_are():
    """No movement where every part has whole groups."""
    assert Grouped.of(Even(12, 3), 6, 6) == Even(6, 3)
    assert Grouped.of(Even(12, 1), 6, 6) == Even(6, 1)
    uneven = Grouped.of(Even(12, 5), 3, 6)
    assert [uneven.interval(i) for i in range(5)] == [(0, 2), (0, 2), (2, 4), (2, 6), (4, 6)]
    assert Grouped.of(Even(12, 4), 2, 6).coarsen(2) == Even(6, 2)


@pytest.mark.parametrize("layer", [L.MaxPool2d(3, 2, 1), L.MaxPool2d(2), L.AvgPool2d(3, 1, 1), L.AvgPool2d((2, 3), 2)])
@pytest.mark.parametrize("split", ["n=2", "co=2", "h=2", "h=2,w=3", "n=3,h=2,co=2"])
def test_pooling(layer, split):
    Simulation(layer, Split.parse(split), normal(3, 9, 10, 4)).check()


@pytest.mark.parametrize("split", ["n=2", "co=2", "h=2", "w=2,h=3", "n=2,h=2,co=2"])
def test_global_avg_pool(split):
    Simulation(L.GlobalAvgPool(), Split.parse(split), normal(2, 3, 5, 4)).check()


SEQUENCES = [L.Conv1d(5, 4, 2, 3), L.Conv1d(4, 3, dilation=3), L.MaxPool1d(3, 2, 1), L.AvgPool1d(3, 1, 1, False)]


@pytest.mark.parametrize("layer", SEQUENCES, ids=str)
@pytest.mark.parametrize("split", ["n=2", "co=2", "w=2", "w=4", "n=2,w=2,co=2", "co=2,w=3"])
def test_sequences(layer, split):
    Simulation(layer, Split.parse(split), normal(3, 17, 4)).check()


VOLUMES = [
    L.Conv3d(5, 3, padding=1),
    L.Conv3d(4, (2, 3, 4), (2, 1, 3), (0, 1, 2)),
    L.Conv3d(4, 2, dilation=(1, 2, 3), groups=2),
    L.Conv3d(4, 3, 2, 1, groups=4),
    L.MaxPool3d(2),
    L.MaxPool3d(3, 2, 1),
    L.AvgPool3d((1, 2, 3), (1, 2, 1), (0, 1, 1), count_padding=False),
]


@pytest.mark.parametrize("layer", VOLUMES, ids=str)
@pytest.mark.parametrize("split", ["d=2,h=2,w=2", "d=3", "h=3,w=2", "w=2,co=2,n=2", "d=4,co=2"])
def test_volumes(layer, split):
    Simulation(layer, Split.parse(split), normal(2, 6, 7, 8, 4)).check()


TRANSPOSED = [
    L.ConvTranspose2d(4, 2, 2),
    L.ConvTranspose2d(4, 3, 2, 1, 1),
    L.ConvTranspose2d(4, (5, 2), (1, 3), ((2, 0), (1, 3)), (0, 1)),
    L.ConvTranspose2d(4, 3, (3, 1), dilation=(2, 3), output_padding=2),
    L.ConvTranspose2d(4, 1, 4, bias=False),
    L.ConvTranspose2d(4, 2, 5, 1, 4),
]


@pytest.mark.parametrize("layer", TRANSPOSED, ids=str)
@pytest.mark.parametrize("split", ["n=3", "co=2", "ci=2", "h=3", "w=2", "h=2,w=2", "n=2,h=2,co=2", "ci=3,w=2", "h=5"])
def test_transposed(layer, split):
    Simulation(layer, Split.parse(split), normal(3, 5, 4, 4)).check()


@pytest.mark.parametrize("split", ["co=2", "h=2,co=2", "w=3", "n=2,replicas=2"])
@pytest.mark.parametrize("groups", [2, 4])
def test_transposed_with_groups(groups, split):
    layer = L.ConvTranspose2d(8, 3, 2, 1, groups=groups)
    Simulation(layer, Split.parse(split), normal(2, 5, 4, 4)).check()
    Simulation(L.ConvTranspose1d(4, 4, 2, groups=4), Split.parse("w=2,co=3"), normal(2, 5, 4)).check()


def test_transposed_refuses_to_cut_groups():
    shapes = Shapes(((2, 5, 6),), (2, 6, 12))
    with pytest.raises(
        UserError, match=r"split co=2: 3 groups of a ConvTranspose1d / 2 = 1.5; divide co into a divisor"
    ):
        L.ConvTranspose1d(12, 2, groups=3).check(shapes, Split.of(co=2))
    with pytest.raises(UserError, match="groups=3 sums over the 2 input channels of a group only: divide co"):
        L.ConvTranspose1d(12, 2, groups=3).check(shapes, Split.of(ci=2))


def test_the_common_transposed_convolution_moves_nothing():
    """Kernel = stride, as in a U-Net: even parts come from even parts."""
    layer, shapes = L.ConvTranspose3d(4, 2, 2), Shapes(((2, 6, 6, 6, 8),), (2, 12, 12, 12, 4))
    cuts = layer.cut_input(0, shapes, Split.of(d=2, h=3))
    assert [cut.partition for cut in cuts] == [Even(2, 1), Even(6, 2), Even(6, 3), Even(6, 1), Even(8, 1)]


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("factor", [1, 2, (3, 2), (1, 4)])
@pytest.mark.parametrize("split", ["n=2", "co=2", "h=2", "h=5", "h=3,w=2", "n=2,w=2,co=2"])
def test_upsample(mode, factor, split):
    Simulation(L.Upsample(factor, mode), Split.parse(split), normal(2, 5, 4, 3)).check()


@pytest.mark.parametrize("size", [1, 3, (7, 2), (5, 4), 9])
@pytest.mark.parametrize("split", ["n=2", "co=2", "h=2", "h=5", "h=3,w=2", "n=2,w=2,co=2"])
def test_adaptive_avg_pool(size, split):
    Simulation(L.AdaptiveAvgPool(size), Split.parse(split), normal(2, 7, 6, 3)).check()
    Simulation(L.AdaptiveAvgPool(2), Split.parse("d=2,w=2"), normal(2, 3, 4, 5, 3)).check()


@pytest.mark.parametrize("options", [(5, 0.5), (4, 1.0, 0.5, 2.0), (1, 1.0), (2, 1.0), (11, 2.0)])
@pytest.mark.parametrize("split", ["n=2", "co=2", "co=3", "co=7", "h=2,co=2", "n=2,h=2,w=2"])
def test_local_response_norm(options, split):
    """Halos over the channels, wider than a neighbour's part too."""
    Simulation(L.LocalResponseNorm(*options), Split.parse(split), normal(2, 3, 4, 7)).check()


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
@pytest.mark.parametrize("split", ["n=2", "co=2", "co=4", "co=5", "h=2,w=2", "n=2,h=2,co=3", "n=2,replicas=2"])
def test_group_norm(groups, split):
    x = normal(3, 5, 4, 6)
    for local in Simulation(L.GroupNorm(groups), Split.parse(split), x).check(1e-10).ranks:
        declared = local.layer.reductions(local.shapes, local.output_box, True)
        assert [(r.axes, r.words) for r in declared] == local.reduced


WITH_EMPTY_PARTS = [
    (L.Conv2d(5, 3, 4), (2, 9, 8, 4)),
    (L.Conv2d(4, 3, 4, groups=4), (2, 9, 8, 4)),
    (L.Conv2d(4, 1, 5, padding=1), (2, 9, 8, 4)),
    (L.Conv3d(4, 5, 3, 2), (2, 5, 3, 4, 4)),
    (L.MaxPool2d(3, 4), (2, 9, 8, 4)),
    (L.AvgPool2d(4, 4, 1, count_padding=False), (2, 9, 8, 4)),
    (L.ConvTranspose2d(4, 2, 2), (2, 1, 3, 4)),
    (L.ConvTranspose2d(4, 1, 3, output_padding=1), (2, 1, 2, 4)),
    (L.AdaptiveAvgPool(2), (2, 9, 8, 4)),
    (L.Upsample(2, "linear"), (2, 1, 2, 4)),
    (L.LocalResponseNorm(5), (2, 3, 3, 2)),
    (L.GroupNorm(2), (2, 3, 3, 2)),
    (L.BatchNorm(), (2, 3, 3, 2)),
    (L.ReLU(), (2, 3, 3, 2)),
]


@pytest.mark.parametrize(("layer", "shape"), WITH_EMPTY_PARTS, ids=str)
@pytest.mark.parametrize("split", ["h=4", "h=7", "co=5", "w=5,n=2", "h=5,co=3", "n=3"])
def test_parts_with_no_output_at_all(layer, shape, split):
    Simulation(layer, Split.parse(split), normal(*shape)).check(1e-10)


@pytest.mark.parametrize("layer", [L.ReLU(), L.LeakyReLU(), L.Tanh(), L.GELU(), L.Dropout(0.4)], ids=str)
def test_elementwise(layer):
    Simulation(layer, Split.parse("n=2,h=2,w=2,co=2"), normal(3, 5, 5, 3)).check()


@pytest.mark.parametrize("split", ["n=2", "co=2", "h=2,w=2", "n=3,co=2,h=2", "n=2,replicas=2"])
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
    with pytest.raises(UserError, match="has no axis co; it can divide n, h"):
        L.Flatten().check(shapes, Split.of(co=2))


def test_flatten_of_vectors():
    Simulation(L.Flatten(), Split.parse("n=2,co=3"), normal(3, 5)).check()


@pytest.mark.parametrize("split", ["n=2", "co=2", "co=4", "h=2,co=3"])
def test_joins(split):
    a, b, c = normal(2, 3, 3, 2), normal(2, 3, 3, 5), normal(2, 3, 3, 1)
    Simulation(L.Concat(), Split.parse(split), a, b, c).check()
    Simulation(L.Add(), Split.parse(split), b, b + 1, 2 * b).check()


@pytest.mark.parametrize("split", ["n=2", "co=2", "co=5", "n=3,co=2", "co=2,replicas=2"])
def test_softmax_cross_entropy(split):
    labels = np.random.default_rng(1).integers(0, 5, size=7)
    split = Split.parse(split)
    simulation = Simulation(L.SoftmaxCrossEntropy(), split, 4 * normal(7, 5), target=labels).check()
    for local in simulation.ranks:
        declared = local.layer.reductions(local.shapes, local.output_box, True)
        assert [(r.axes, r.words) for r in declared] == local.reduced
        assert bool(declared) == (split.parts("co") > 1)


@pytest.mark.parametrize("split", ["n=2", "co=2", "co=5", "co=2,replicas=2"])
def test_several_largest_logits(split):
    """The parts of a divided vocabulary agree on one winner, as the serial layer does."""
    labels = np.random.default_rng(1).integers(0, 5, size=30)
    logits = np.random.default_rng(2).integers(0, 2, size=(30, 5)).astype(float)
    Simulation(L.SoftmaxCrossEntropy(), Split.parse(split), logits, target=labels).check()


@pytest.mark.parametrize("split", ["n=2", "h=2,w=3", "co=2", "n=2,co=3", "h=2,co=2", "n=2,replicas=2"])
def test_softmax_cross_entropy_of_places(split):
    labels = np.random.default_rng(1).integers(0, 5, size=(2, 3, 4))
    simulation = Simulation(L.SoftmaxCrossEntropy(), Split.parse(split), 4 * normal(2, 3, 4, 5), target=labels).check()
    for local in simulation.ranks:
        declared = local.layer.reductions(local.shapes, local.output_box, True)
        assert [(r.axes, r.words) for r in declared] == local.reduced


@pytest.mark.parametrize("split", ["n=2", "co=2", "h=2,w=2", "n=2,replicas=2"])
def test_mean_squared_error(split):
    Simulation(L.MeanSquaredError(), Split.parse(split), normal(3, 4, 2, 5), target=normal(3, 4, 2, 5) ** 2).check()


def test_undivided_layers_ask_for_what_they_have():
    """The identity split cuts nothing, so that it cannot look like a movement."""
    for layer, shape in [
        (L.Conv2d(4, 3, groups=2), (2, 5, 5, 4)),
        (L.ConvTranspose2d(4, 3, groups=2), (2, 5, 5, 4)),
        (L.Upsample(2), (2, 5, 5, 4)),
        (L.LocalResponseNorm(3), (2, 5, 5, 4)),
        (L.Flatten(), (2, 5, 5, 4)),
        (L.Concat(), (2, 3)),
    ]:
        shapes = Shapes((shape,), (shape[0], *layer.infer(shape[1:])))
        for cuts, tensor in (
            (layer.cut_input(0, shapes, Split(())), shape),
            (layer.cut_output(shapes, Split(())), None),
        ):
            assert tuple(cut.partition.interval(0) for cut in cuts) == box_of(tensor or shapes.output)
