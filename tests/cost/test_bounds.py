"""The lower bounds of Al Daas et al. 2022, and how far plans are from them."""

from __future__ import annotations

import itertools

import pytest
from closed_forms import grid_parallel
from hypothesis import given
from hypothesis import strategies as st

from gridnn import layers as L
from gridnn.cost.bounds import average_words, layer_bound, least_words, product_of
from gridnn.cost.count import predict
from gridnn.errors import UserError
from gridnn.layers.base import Shapes
from gridnn.layout.gridshape import GridShape
from gridnn.models import get_model
from gridnn.network import Network
from gridnn.planning.rules import make_plan
from gridnn.program.program import Program
from gridnn.reproduce.gholami_cost import sizes


def of_grid(m: int, n: int, k: int, p: tuple[int, int, int]) -> float:
    """The words of the 3D algorithm on p1 x p2 x p3 ranks: gather both factors, reduce-scatter the product."""
    p1, p2, p3 = p
    first = m * k / (p1 * p3) * (1 - 1 / p2)
    second = k * n / (p3 * p2) * (1 - 1 / p1)
    return first + second + m * n / (p1 * p2) * (1 - 1 / p3)


def factorizations(ranks: int):
    numbers = [p for p in range(1, ranks + 1) if ranks % p == 0]
    return [p for p in itertools.product(numbers, repeat=3) if p[0] * p[1] * p[2] == ranks]


def test_each_regime_is_attained_by_its_grid():
    assert least_words(1024, 16, 8, 32) == of_grid(1024, 16, 8, (32, 1, 1)) == 16 * 8 * 31 / 32
    assert least_words(64, 64, 16, 16) == pytest.approx(of_grid(64, 64, 16, (4, 4, 1)))
    assert least_words(64, 64, 64, 64) == pytest.approx(of_grid(64, 64, 64, (4, 4, 4)))


@given(*[st.integers(1, 300)] * 3, st.sampled_from([1, 2, 6, 8, 12, 36, 64, 128]))
def test_no_grid_moves_less(m, n, k, ranks):
    best = min(of_grid(m, n, k, p) for p in factorizations(ranks))
    assert least_words(m, n, k, ranks) <= best * (1 + 1e-12) + 1e-6


@given(*[st.integers(1, 300)] * 3, st.integers(1, 200))
def test_the_order_of_the_sizes_does_not_matter_and_one_rank_moves_nothing(m, n, k, ranks):
    assert least_words(m, n, k, ranks) == least_words(k, m, n, ranks)
    assert least_words(m, n, k, 1) == 0


@pytest.mark.parametrize(("m", "n", "k"), [(12000, 100, 10), (50000, 1000, 200)])
def test_the_regimes_meet(m, n, k):
    for edge in (m // n, m * n // k**2):
        below, above = least_words(m, n, k, edge), least_words(m, n, k, edge + 1)
        assert above == pytest.approx(below, rel=2 / edge)


def test_nonsense_is_refused():
    with pytest.raises(UserError, match="a 4 x 0 x 3 product on 2 ranks"):
        least_words(4, 0, 3, 2)


@pytest.mark.parametrize(
    ("batch", "ranks", "ratio"),
    [(2048, 8, 1.14), (2048, 32, 1.25), (2048, 128, 1.45), (2048, 512, 1.73), (512, 4096, 3.2)],
)
def test_how_far_eq_8_is_from_the_bounds_on_the_fully_connected_layers_of_alexnet(batch, ranks, ratio):
    """Three units of d_i and two of |W_i| on the best power of two, over the three bounds of every layer."""
    net = get_model("alexnet", (227, 227, 3), 1000, dropout=0.0)
    layers = [one for one in sizes(net) if not one.kernel]
    moved = min(
        grid_parallel(layers, batch, rows, ranks // rows).words
        for rows in (2**i for i in range(ranks.bit_length()))
        if ranks // rows <= batch
    )
    nodes = {node.name: node for node in net.nodes}
    bounds = sum(layer_bound(nodes[one.name].layer, net.sizes(nodes[one.name], batch), ranks) for one in layers)
    assert float(moved) / bounds == pytest.approx(ratio, abs=0.03 if ratio > 3 else 0.006)


def test_the_three_products_together_can_move_less_than_their_bounds():
    """What was gathered for Y serves dW: with the reduce-scatter 0.91 of the sum of the bounds, P = 8 and B = 2048."""
    net = get_model("alexnet", (227, 227, 3), 1000, dropout=0.0)
    layers, nodes = [one for one in sizes(net) if not one.kernel], {node.name: node for node in net.nodes}
    rows, cols, batch = 4, 2, 2048
    words = sum(
        2 * batch / cols * (rows - 1) / rows * one.outputs + 2 * one.weights / rows * (cols - 1) / cols
        for one in layers
    )
    bounds = sum(layer_bound(nodes[one.name].layer, net.sizes(nodes[one.name], batch), 8) for one in layers)
    assert words / bounds == pytest.approx(0.91, abs=0.005)


def test_convolutions_are_read_as_products():
    shapes = Shapes(((2, 10, 8, 6),), (2, 10, 8, 12))
    assert product_of(L.Conv2d(12, 3, padding=1), shapes) == (2 * 10 * 8, 12, 9 * 6, 1)
    assert product_of(L.Conv2d(12, 3, padding=1, groups=2), shapes) == (160, 6, 27, 2)
    assert product_of(L.Linear(7), Shapes(((4, 5),), (4, 7))) == (4, 7, 5, 1)
    assert sorted(product_of(L.ConvTranspose2d(3, 2, stride=2), Shapes(((2, 4, 4, 5),), (2, 8, 8, 3)))) == [
        1,
        5,
        12,
        32,
    ]
    assert product_of(L.ReLU(), shapes) is None and layer_bound(L.ReLU(), shapes, 4) is None


def test_words_of_a_plan_are_the_mean_over_ranks():
    net = Network((30,))
    net.add("fc1", L.Linear(20))
    net.add("fc2", L.Linear(10))
    net.add("loss", L.SoftmaxCrossEntropy())
    program = Program(net, make_plan("grid", net, GridShape(2, 3), 11), 11)
    words = average_words([program], range(6))
    every = [predict(program, index).words_by_dimension() for index in range(6)]
    assert sum(words.values()) == pytest.approx(sum(sum(one.values()) for one in every) / 6)
    assert words["fc2"] > 0
