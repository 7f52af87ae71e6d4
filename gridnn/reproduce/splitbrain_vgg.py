"""What SplitBrain's experiments are made with: VGGs, their parameters, and the closed form of the words."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import NamedTuple

from gridnn.layers import Linear, SoftmaxCrossEntropy
from gridnn.layout.gridshape import GridShape
from gridnn.models.parts import add_classifier, add_convolutions, add_fixed_size, image_network
from gridnn.models.vgg import DEPTHS, SIZE, WIDTHS
from gridnn.network import Network
from gridnn.planning.rules import make_plan
from gridnn.planning.splitbrain import stack_start
from gridnn.program.program import Program

LOCAL = 32  # b, samples of a rank


class Case(NamedTuple):
    """A VGG: its depth, the side of its images and its classes."""

    depth: int
    side: int
    classes: int

    def __str__(self) -> str:
        data = "CIFAR-10" if self.side == 32 else f"{self.side} x {self.side}"
        return f"VGG-{self.depth}, {data}"


CASES = (Case(11, 32, 10), Case(16, 32, 10), Case(11, 224, 1000), Case(16, 224, 1000))


class Sizes(NamedTuple):
    """Trained numbers of a network: all, and those of the fully connected layers."""

    all: int
    stack: int

    @property
    def share(self) -> float:
        """f, what of them is fully connected."""
        return self.stack / self.all

    def saved(self, group: int) -> float:
        """What of the parameters a rank need not hold: f (1 - 1/K)."""
        return self.share * (1 - 1 / group)


@cache
def vgg(case: Case) -> Network:
    """VGG with two hidden layers of 4,096 after 7 x 7 places (of large images), or one (CIFAR-10: 512-4096-4096-10)."""
    net = image_network(f"vgg{case.depth}", (case.side, case.side, 3))
    stages = zip(WIDTHS, DEPTHS[case.depth], strict=True)
    add_convolutions(net, tuple(part for width, depth in stages for part in (*[width] * depth, "pool")))
    if case.side > 32:
        add_fixed_size(net, SIZE)
    add_classifier(net, (4096, 4096), case.classes, 0.5, before=False)
    net.add("loss", SoftmaxCrossEntropy())
    return net


def sizes(net: Network) -> Sizes:
    """The parameters of a network and of its stack."""
    front = Network(net.shapes["input"])
    for node in net.nodes[: stack_start(net)]:
        front.add(node.name, node.layer, *node.inputs)
    return Sizes(net.parameter_count, net.parameter_count - front.parameter_count)


def program(net: Network, ranks: int, group: int, rounds: bool = True) -> Program:
    """SplitBrain on ``ranks`` ranks in groups; without rounds the stack runs on all samples of a group at once."""
    batch = LOCAL * ranks
    plan = make_plan("splitbrain", net, GridShape(group, ranks // group), batch, replicas=True)
    return Program(net, plan if rounds else replace(plan, microbatches=1), batch)


def words(net: Network, ranks: int, group: int) -> dict[str, float]:
    """The closed form of a step of a rank: modulo and shard, K rounds each way, and the sums of the gradients."""
    counted = sizes(net)
    d, *inner = (net.shapes[node.inputs[0]][-1] for node in net.nodes if isinstance(node.layer, Linear))
    front, groups = counted.all - counted.stack, ranks / group
    return {
        "modulo": 2 * (group - 1) * LOCAL * d,
        "shard": 2 * (group - 1) * LOCAL * sum(inner),
        "averaging": 2 * (ranks - 1) / ranks * front + 2 * (groups - 1) / groups * counted.stack / group,
    }
