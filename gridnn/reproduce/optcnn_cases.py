"""The networks, the machine and the numbers of Jia, Lin, Qi, Aiken 2018 (arXiv 1802.04924)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from gridnn.cost.machines import load_machine
from gridnn.layers import Conv2d, Linear, MaxPool2d, ReLU, SoftmaxCrossEntropy
from gridnn.models import MODELS, get_model
from gridnn.models.parts import add_classifier
from gridnn.network import Network
from gridnn.planning.search.groups import LayerGroup
from gridnn.reproduce.optcnn_cost import READING, OptCNN, Reading

LOCAL = 32  # images of one GPU
RANKS = (2, 4, 8, 16)
NETWORKS = ("AlexNet", "VGG-16", "Inception-v3")
# Images per second of one GPU, section 6: they stand for the measured computing times, which are not published.
RATES = {"AlexNet": 745.0, "VGG-16": 184.0, "Inception-v3": 157.0}
SEARCH = {"LeNet-5": 0.01, "AlexNet": 0.02, "VGG-16": 0.1, "Inception-v3": 0.4}  # seconds, table 3
DEPTH_FIRST = {"LeNet-5": "5.6 s", "AlexNet": "2.1 h", "VGG-16": "> 24 h", "Inception-v3": "> 24 h"}
SPEEDUPS = {"AlexNet": (12.2, 6.1), "VGG-16": (14.8, 10.2), "Inception-v3": (15.5, 11.2)}  # layer-wise, best other
# GB (of 2^30 bytes) in a step on 2, 4, 8, 16 GPUs, figure 8.
MOVED = {
    ("AlexNet", "data"): (1.11, 2.23, 4.45, 8.91),
    ("AlexNet", "OWT"): (0.049, 0.121, 0.338, 1.06),
    ("VGG-16", "OWT"): (0.238, 0.541, 1.34, 3.69),
    ("AlexNet", "layer-wise"): (0.049, 0.097, 0.195, 0.390),
    ("VGG-16", "layer-wise"): (0.207, 0.335, 0.686, 1.63),
    ("Inception-v3", "layer-wise"): (0.281, 0.563, 1.13, 2.25),
}
SHIPPED = {"LeNet-5": "lenet", "VGG-16": "vgg16", "Inception-v3": "inception-v3"}


class Case(NamedTuple):
    """A network on some GPUs: its cost model, and the seconds of one GPU for ``LOCAL`` images by the paper's rate."""

    model: OptCNN
    alone: float

    def speedup(self, choice: tuple[int, ...]) -> float:
        """Images per second over those of one GPU."""
        return self.model.ranks * self.alone / self.model.graph.total(choice)


def network_of(name: str) -> Network:
    """A network of the paper, with its loss, without dropout (which moves nothing)."""
    if name == "AlexNet":
        network = alexnet()
    else:
        shipped = MODELS[SHIPPED[name]]
        options = {"dropout": 0.0} if "dropout" in shipped.options else {}
        network = get_model(SHIPPED[name], shipped.input_shape, shipped.outputs, **options)
    network.add("loss", SoftmaxCrossEntropy())
    return network


def alexnet() -> Network:
    """One tower of 64-192-384-256-256 that flattens 7 x 7 x 256: 74,732,328 parameters, as figure 8 has them.

    The shipped alexnet-onetower flattens 6 x 6 x 256 (61.1 million), so padding and pools differ here.
    """
    net = Network((224, 224, 3))
    widths = {1: (64, 11, 4, 4), 2: (192, 5, 1, 2), 3: (384, 3, 1, 1), 4: (256, 3, 1, 1), 5: (256, 3, 1, 1)}
    for number, (channels, kernel, stride, padding) in widths.items():
        net.add(f"conv{number}", Conv2d(channels, kernel, stride=stride, padding=padding))
        net.add(f"relu{number}", ReLU())
        if number in (1, 2, 5):
            net.add(f"pool{number}", MaxPool2d(3, 2, 1))
    add_classifier(net, (4096, 4096), 1000)
    return net


def case(name: str, ranks: int, reading: Reading = READING) -> Case:
    """A network on ``ranks`` GPUs of the paper's cluster, 32 images each, at the paper's rate of one GPU."""
    machine = load_machine("p100-cluster")
    network = network_of(name)
    alone = OptCNN(network, 1, LOCAL, machine)
    seconds = sum(float(times[0]) for times in alone.computing)
    pace = LOCAL / RATES[name] / seconds if name in RATES else 1.0
    model = OptCNN(network, ranks, LOCAL * ranks, machine.scaled(compute=1 / pace), reading=reading)
    return Case(model, pace * seconds)


# By which axis each of the other strategies divides a layer.
OTHERS: Mapping[str, Callable[[LayerGroup], str]] = {
    "data": lambda group: "n",
    "model": lambda group: "co",
    # Krizhevsky 2014, "one weird trick": fully connected layers divide their outputs, the others the batch
    "OWT": lambda group: "co" if isinstance(group.leader.layer, Linear) else "n",
}


def chosen(model: OptCNN, axis_of: Callable[[LayerGroup], str]) -> tuple[int, ...]:
    """The choice that divides every layer by one axis; a layer that cannot have it divides the batch."""
    choice = []
    for name, group in model.groups.items():
        known = {tuple(split.factors): i for i, split in enumerate(model.splits[name])}
        asked = ((axis_of(group), model.ranks),)
        choice.append(known[asked] if asked in known else known[("n", model.ranks),])
    return tuple(choice)
