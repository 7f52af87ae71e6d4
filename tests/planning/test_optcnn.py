"""OptCNN's cost against sets of elements and formulas, its plans, and what the paper's tables and figures say."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from gridnn.cost.machine import Compute, Level, Machine
from gridnn.errors import UserError
from gridnn.layers import Conv2d, Flatten, Linear, MaxPool2d, ReLU, SoftmaxCrossEntropy
from gridnn.layout.split import Split
from gridnn.models import get_model
from gridnn.network import Network
from gridnn.planning.search.devices import devices, held, needed
from gridnn.planning.search.layerwise import plan_layerwise, repeat_on_idle
from gridnn.planning.search.layerwise_costs import LayerwiseCosts
from gridnn.planning.search.verify import verify
from gridnn.program.program import Program
from gridnn.reproduce import optcnn_cases, optcnn_figures, optcnn_tables
from gridnn.reproduce.optcnn_cost import OptCNN, Reading

NODE, NETWORK = 1e-9, 4e-9  # seconds a byte


def machine(node=4):
    """Nodes of four devices that share one link to the network."""
    levels = (Level("node", node, 0.0, NODE), Level("network", None, 0.0, NETWORK, shared=node))
    return Machine("test", levels, Compute({"gemm": ((1.0, 1e9),), "conv": ((1.0, 1e9),)}, 1e9))


def small():
    net = Network((6, 5, 2))
    net.add("conv1", Conv2d(4, 3, padding=1))
    net.add("relu1", ReLU())
    net.add("pool1", MaxPool2d(2))
    net.add("conv2", Conv2d(3, 2))
    net.add("flatten", Flatten())
    net.add("fc1", Linear(6))
    net.add("loss", SoftmaxCrossEntropy())
    return net


def elements(boxes, column, device):
    """The indices of a device's box."""
    return set(itertools.product(*(range(start, stop) for start, stop in boxes[:, :, column, device])))


@pytest.mark.parametrize(("ranks", "node"), [(4, 4), (6, 4), (4, 2), (6, 2)])
@pytest.mark.parametrize("duplex", [False, True])
def test_movements_are_those_of_the_sets_of_elements(ranks, node, duplex):
    model = OptCNN(small(), ranks, 6, machine(node), reading=Reading(duplex=duplex))
    slots = model.slots
    rng = np.random.default_rng(0)
    for edge, (_, moved) in zip(model.edges, model.transfers, strict=True):
        source, target = model.groups[edge.source], model.groups[edge.target]
        before, after = model.splits[edge.source], model.splits[edge.target]
        output = source.leader.shapes.output
        have, need = held(source, before, slots), needed(target, after, edge.index, slots, output)
        for _ in range(12):
            i, j = rng.integers(len(before)), rng.integers(len(after))
            mine = [elements(have, i, device) for device in range(slots)]
            wanted = [elements(need, j, device) for device in range(slots)]
            assert sum(map(len, mine)) == math.prod(output)  # every element on one device
            inside, across = np.zeros((2, slots)), np.zeros((2, -(-slots // node)))
            for s, d in itertools.permutations(range(slots), 2):
                size = 8 * len(mine[s] & wanted[d])  # float32, forward and back
                if s // node == d // node:
                    inside[:, [d, s]] += np.diag([size, size])
                else:
                    across[0, d // node] += size
                    across[1, s // node] += size
            busy = [np.max(links.max(axis=0) if duplex else links.sum(axis=0)) for links in (inside, across)]
            assert moved.seconds[i, j] == pytest.approx(max(NODE * busy[0], NETWORK * busy[1]), rel=1e-12)
            assert moved.size[i, j] == inside[0].sum() + across[0].sum()


def test_a_parameter_server_on_one_device_or_spread():
    """An undivided layer on 4 devices of a node: 3 times there and back at the server, or 3/4 of that at each."""
    net = Network((10,))
    net.add("fc1", Linear(20, bias=False))
    for server, factor in (("one", 2 * 3), ("spread", 2 * 2 * 3 / 4)):
        model = OptCNN(net, 4, 8, machine(), reading=Reading(server))
        place = [str(split) for split in model.splits["fc1"]].index("n=4")
        assert model.sums[0].seconds[place] == pytest.approx(factor * 4 * 200 * NODE)
        assert model.sums[0].size[place] == 4 * 2 * 4 * 200
        divided = [str(split) for split in model.splits["fc1"]].index("co=4")
        assert model.sums[0].seconds[divided] == model.sums[0].size[divided] == 0


def test_a_configuration_divides_the_devices():
    net = get_model("lenet", (28, 28, 1), 10)
    splits = LayerwiseCosts(net, 6, 6, machine()).splits["conv1"]
    assert {split.ranks for split in splits} == {1, 2, 3, 6}
    assert len(set(splits)) == len(splits) == 1 + 4 + 4 + (4 + 12)  # 1, 2, 3; 6 on one axis, or 2 and 3 on two
    used, parts = devices([Split.of(n=2, co=3), Split.of(h=2)], 6)
    assert parts["n"][0].tolist() == [0, 0, 0, 1, 1, 1]
    assert parts["co"][0].tolist() == [0, 1, 2, 0, 1, 2]
    assert used[1].tolist() == [True, True, False, False, False, False]


@pytest.mark.parametrize("name", ["lenet", "vgg11-cifar", "resnet18-cifar"])
@pytest.mark.parametrize("ranks", [1, 4, 6])
def test_plans_run_and_repeat(name, ranks):
    net = get_model(name, (32, 32, 3), 10)
    net.add("loss", SoftmaxCrossEntropy())
    plan = plan_layerwise(net, ranks, 12, machine())
    assert plan.splits == plan_layerwise(net, ranks, 12, machine()).splits
    assert plan.strategy == "layerwise"
    assert plan.grid.size == ranks
    assert all(split.ranks == ranks for split in plan.splits.values())
    assert Program(net, plan, 12)


def test_idle_devices_repeat_the_work():
    assert str(repeat_on_idle(Split.of(n=2), 6)) == "replicas=3,n=2"
    assert repeat_on_idle(Split.of(n=6), 6) == Split.of(n=6)


def test_the_optimum_is_no_dearer_than_any_rule_and_is_verified():
    net = get_model("lenet", (28, 28, 1), 10)
    net.add("loss", SoftmaxCrossEntropy())
    model = OptCNN(net, 4, 64, machine())
    found = verify(model.graph)
    assert found.is_equal
    for rule in optcnn_cases.OTHERS.values():
        assert found.eliminated.value <= model.graph.total(optcnn_cases.chosen(model, rule))
    assert verify(OptCNN(net, 4, 64, machine(), reading=Reading("one")).graph).is_equal


def test_too_many_devices_are_refused():
    net = get_model("lenet", (28, 28, 1), 10)
    with pytest.raises(UserError, match=r"'layerwise' on 4096 ranks: .* overlaps > 2147483648: use fewer ranks"):
        plan_layerwise(net, 4096, 4096, machine())


def test_alexnet_of_the_paper():
    assert optcnn_cases.network_of("AlexNet").parameter_count == 74_732_328  # 8.91 GiB = 16 x 2 x 4 x that
    one = optcnn_cases.case("AlexNet", 2)
    data = optcnn_cases.chosen(one.model, optcnn_cases.OTHERS["data"])
    assert one.model.size(data) == 2 * 2 * 4 * 74_732_328
    assert one.alone == pytest.approx(32 / 745)
    first = optcnn_figures.first_only(one.model, 2) / 2**30
    assert first == pytest.approx(0.049, rel=0.01)


def test_table_5_but_for_the_last_convolutions():
    made = optcnn_tables.table5()
    holds = {claim.text: claim.holds for claim in made.claims}
    assert holds["first four groups of convolutions"]
    assert holds["FC1 and FC2"]
    assert not holds["last three convolutions and their pooling"]
    assert len(made.rows) == 13 + 5 + 3 + 1
    figure = pytest.importorskip("matplotlib.figure").Figure()
    made.draw(figure)
    assert figure.axes


def test_no_more_parts_than_elements():
    """The second convolution leaves 2 x 1 places and 3 channels."""
    splits = LayerwiseCosts(small(), 4, 6, machine()).splits["conv2"]
    most = {axis: max(split.parts(axis) for split in splits) for axis in ("n", "h", "w", "co")}
    assert most == {"n": 4, "h": 2, "w": 1, "co": 2}
