"""The cost model ``paper``: the closed forms of Gholami et al. 2018, and any plan in their terms."""

from __future__ import annotations

import itertools
from fractions import Fraction

import closed_forms
import pytest

from gridnn import layers as L
from gridnn.cost.count import predict
from gridnn.cost.machine import Compute, Level, Machine
from gridnn.errors import UserError
from gridnn.layout.gridshape import GridShape
from gridnn.layout.split import Split
from gridnn.models import get_model
from gridnn.network import Network
from gridnn.planning.plan import Plan
from gridnn.planning.propagate import propagate
from gridnn.planning.rules import make_plan
from gridnn.program.program import Program
from gridnn.reproduce import gholami_cost as paper

ALPHA, BETA = Fraction(2, 10**6), Fraction(4, 6 * 2**30)
MACHINE = Machine("m", (Level("network", None, 2e-6, 1 / (6 * 2**30)),), Compute({}, 1.0))


def alexnet() -> Network:
    net = get_model("alexnet", (227, 227, 3), 1000, dropout=0.0)
    net.add("loss", L.SoftmaxCrossEntropy())
    return net


def cost(strategy: str, rows: int, cols: int, batch: int = 2048, **options) -> paper.PaperCost:
    net = alexnet()
    return paper.paper_cost(net, make_plan(strategy, net, GridShape(rows, cols), batch, **options), batch, MACHINE)


def two_kinds() -> tuple[list[paper.Sizes], list[paper.Sizes]]:
    layers = paper.sizes(alexnet())
    return [one for one in layers if not one.kernel], [one for one in layers if one.kernel]


def test_alexnet_has_the_sizes_of_the_paper():
    layers = paper.sizes(alexnet())
    assert [one.weights for one in layers] == [34848, 307200, 884736, 663552, 442368, 37748736, 16777216, 4096000]
    assert sum(one.weights for one in layers) == 60_954_656
    assert [one.outputs for one in layers[5:]] == [4096, 4096, 1000]


@pytest.mark.parametrize("ranks", [1, 2, 8, 64, 512])
def test_batch_parallel_is_equation_4(ranks):
    layers, priced = paper.sizes(alexnet()), cost("batch", 1, ranks)
    assert priced.printed == closed_forms.batch_parallel(layers, ranks)
    written = sum(2 * (ALPHA * paper.rounds(ranks) + BETA * Fraction(ranks - 1, ranks) * one.weights) for one in layers)
    assert priced.printed.seconds(ALPHA, BETA) == written
    assert priced.total == priced.printed


@pytest.mark.parametrize("ranks", [1, 2, 3, 6])
def test_model_parallel_is_equation_3(ranks):
    """Convolutions with two groups divide their channels into even numbers of parts as well."""
    layers, priced = paper.sizes(alexnet()), cost("model", ranks, 1)
    assert priced.printed == closed_forms.model_parallel(layers, 2048, ranks)
    written = sum(
        3 * (ALPHA * paper.rounds(ranks) + BETA * 2048 * Fraction(ranks - 1, ranks) * one.outputs) for one in layers
    )
    assert priced.printed.seconds(ALPHA, BETA) == written


@pytest.mark.parametrize(("rows", "cols"), [(1, 8), (2, 4), (4, 2), (8, 1), (3, 5), (16, 32)])
def test_the_grid_is_equation_8(rows, cols):
    layers, priced = paper.sizes(alexnet()), cost("grid", rows, cols)
    assert priced.printed == closed_forms.grid_parallel(layers, 2048, rows, cols)
    written = 0
    for one in layers:
        gathered = Fraction(2048, cols) * Fraction(rows - 1, rows) * one.outputs
        summed = Fraction(cols - 1, cols) * Fraction(one.weights, rows)
        written += 3 * (ALPHA * paper.rounds(rows) + BETA * gathered)
        written += 2 * (ALPHA * paper.rounds(cols) + BETA * summed)
    assert priced.printed.seconds(ALPHA, BETA) == written
    assert priced.seconds == pytest.approx(float(written), rel=1e-12)


def test_a_network_of_convolutions_over_the_domain_is_equation_7():
    net = Network((16, 12, 3))
    net.add("conv1", L.Conv2d(8, (5, 3), padding=(2, 1)))
    net.add("conv2", L.Conv2d(6, 1))
    net.add("conv3", L.Conv2d(4, 3, padding=1))
    plan = make_plan("domain", net, GridShape(4, 1), 10)
    priced, layers = paper.paper_cost(net, plan, 10, MACHINE), paper.sizes(net)
    assert priced.printed == closed_forms.domain_parallel(layers, 10, 4)
    # conv1: X_W X_C floor(kh/2), Y_W Y_C floor(kw/2); conv2 has one tap
    assert priced.layers[0].halos == paper.Term(2, 10 * (12 * 3 * 2 + 12 * 8 * 1))
    assert priced.layers[1].halos == paper.Term()
    assert priced.layers[2].halos == paper.Term(2, 10 * (12 * 6 + 12 * 4))


@pytest.mark.parametrize(("rows", "cols"), [(2, 4), (4, 2), (2, 256)])
def test_convolutions_over_the_domain_before_a_grid_are_equation_9(rows, cols):
    model, domain = two_kinds()
    assert cost("domain", rows, cols).printed == closed_forms.integrated(model, domain, 2048, rows, cols)


def test_integrated_is_equations_4_and_8_with_the_redistribution_6():
    model, domain = two_kinds()
    priced = cost("integrated", 8, 64)
    assert priced.printed == closed_forms.batch_parallel(domain, 512) + closed_forms.grid_parallel(model, 2048, 8, 64)
    moved = [layer.redistributed for layer in priced.layers if layer.redistributed.messages]
    assert moved == [paper.Term(3, Fraction(2048, 64) * Fraction(7, 8) * 9216)]
    assert priced.total == priced.printed + moved[0]
    assert paper.redistribution(9216, 2048, 8) == paper.Term(3, 2048 * 9216 * Fraction(7, 8))


def test_the_model_exact_moves_the_words_of_equation_8_layer_by_layer():
    """But for the last layer, whose output is not gathered; d_i is booked where the next layer reads it."""
    rows, cols, batch, widths = 4, 8, 64, (128, 64, 32)
    net = Network((256,))
    for i, width in enumerate(widths):
        net.add(f"fc{i}", L.Linear(width, bias=False))
    net.add("loss", L.SoftmaxCrossEntropy())
    plan = make_plan("grid", net, GridShape(rows, cols), batch, gather_backward="all-reduce")
    ledger = predict(Program(net, plan, batch), 5)
    printed = paper.paper_cost(net, plan, batch, MACHINE).layers
    for before, after in itertools.pairwise(printed):
        assert ledger.words_of(after.name, "column") == before.activations.words
    for layer in printed:
        assert ledger.words_of(layer.name, "row") == layer.gradients.words
    assert ledger.words_of("fc0", "column") == 0
    # of a gathered output, the better adjoint moves two units where (8) has three
    better = predict(Program(net, make_plan("grid", net, GridShape(rows, cols), batch), batch), 5)
    assert 3 * better.words_of("fc1", "column") == 2 * printed[0].activations.words


def test_copies_and_two_axes_of_space_are_priced():
    net = Network((16, 12, 3))
    net.add("conv1", L.Conv2d(8, 3, padding=1))
    splits = propagate(net, {"conv1": Split.parse("n=2,h=2,w=2")}, 16, 4)
    (layer,) = paper.paper_cost(net, Plan("file", GridShape(4, 4), splits), 4, MACHINE).layers
    assert layer.halos == paper.Term(4, 2 * (12 * 3 // 2 + 12 * 8 // 2 + 16 * 3 // 2 + 16 * 8 // 2))
    assert layer.gradients == 2 * paper.gather(9 * 3 * 8, 16)


def test_in_channels_are_refused():
    net = Network((8,))
    net.add("fc", L.Linear(8))
    plan = Plan("file", GridShape(2, 1), propagate(net, {"fc": Split.parse("ci=2")}, 2, 4))
    with pytest.raises(UserError, match="layer 'fc' has the split ci=2, but the cost model paper knows no ci"):
        paper.paper_cost(net, plan, 4, MACHINE)


@pytest.mark.parametrize(
    ("batch", "ranks", "winner"),
    [
        (2048, 8, 4), (2048, 32, 8), (2048, 128, 16), (2048, 512, 32),  # Fig 7
        (512, 128, 32), (2048, 512, 32), (8192, 2048, 32), (32768, 8192, 32),  # Fig 9
        (512, 512, 64), (512, 2048, 128), (512, 4096, 128),  # Fig 10
    ],
)  # fmt: skip
def test_the_oracle_names_the_winners_of_the_figures(batch, ranks, winner):
    model, _ = two_kinds()
    assert closed_forms.nearest_rows(paper.best_rows(model, batch, ranks), ranks) == winner
    # so does the formula itself, with the redistribution (6) of d = 4096 as the figures draw it
    words = {}
    for rows in (2**i for i in range(ranks.bit_length()) if ranks // 2**i <= batch):
        moved = paper.redistribution(4096, Fraction(batch * rows, ranks), rows)
        words[rows] = (closed_forms.grid_parallel(model, batch, rows, ranks // rows) + moved).words
    assert min(words, key=words.get) == winner
