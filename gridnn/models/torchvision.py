"""Where the tensors of a network stand in a state dict of torchvision: names, shapes and orders, without data."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from gridnn.layers import Flatten, Linear
from gridnn.layers.base import Shape
from gridnn.network import Network, Node

UNUSED = ("num_batches_tracked", "AuxLogits.")  # a counter, and the second classifier of Inception-v3
NORM = {"gamma": "weight", "beta": "bias"}
# which of the modules of ``classifier`` have weights
CLASSIFIERS = {"alexnet": (1, 4, 6), "vgg": (0, 3, 6)}
TORCHVISION = (
    *("alexnet-onetower", "vgg11", "vgg13", "vgg16", "vgg19"),
    *("resnet18", "resnet34", "resnet50", "resnet101", "inception-v3"),
)


class Source(NamedTuple):
    """One tensor in the file."""

    # name, shape: in the file
    name: str
    shape: Shape
    order: tuple[int, ...]  # which dimension of the file's tensor each dimension of ours is
    # (h, w, c) where our first dimension is an image flattened with c the fastest: the file has it as (c, h, w)
    image: Shape | None = None


def sources(model: str, network: Network) -> dict[str, Source]:
    """The tensors of ``network``, trained and kept, by ``layer.tensor``, for a ``model`` of `TORCHVISION`.

    The network is as `gridnn.models.get_model` makes it, with its loss or without.
    """
    module = _module_names(model, network)
    found: dict[str, Source] = {}
    for node in network.nodes:
        sizes = network.sizes(node, 1)
        for name, tensor in {**node.layer.weights(sizes), **node.layer.states(sizes)}.items():
            order = _order(len(tensor.shape))
            shape = [0] * len(order)
            for ours, theirs in enumerate(order):
                shape[theirs] = tensor.shape[ours]
            image = _image(network, node) if name == "weight" and isinstance(node.layer, Linear) else None
            found[f"{node.name}.{name}"] = Source(f"{module(node)}.{NORM.get(name, name)}", tuple(shape), order, image)
    return found


def unused(name: str) -> bool:
    """Whether a tensor of a file has no place in a network, and is left out."""
    return name.endswith(UNUSED[0]) or name.startswith(UNUSED[1])


def _order(dimensions: int) -> tuple[int, ...]:
    """Ours is [*kernel, ci, co] or [ci, co], theirs [co, ci, *kernel] or [co, ci]."""
    return (*range(2, dimensions), *range(min(dimensions, 2))[::-1])


def _module_names(model: str, network: Network) -> Callable[[Node], str]:
    """From a layer to its module: ResNet and Inception have torchvision's names, the others are counted there."""
    family = "vgg" if model.startswith("vgg") else "alexnet"
    if model.startswith(("resnet", "inception")):
        return lambda node: node.name
    features = [node.name for node in network.nodes]
    linears = [node.name for node in network.nodes if isinstance(node.layer, Linear)]

    def module(node: Node) -> str:
        if node.name in linears:
            return f"classifier.{CLASSIFIERS[family][linears.index(node.name)]}"
        return f"features.{features.index(node.name)}"

    return module


def _image(network: Network, node: Node) -> Shape | None:
    """The image that was flattened for ``node``; None where one channel or one pixel makes both orders the same."""
    nodes = {node.name: node for node in network.nodes}
    source = nodes.get(node.inputs[0])
    while source is not None and not isinstance(source.layer, (Flatten, Linear)):
        source = nodes.get(source.inputs[0])
    if source is None or isinstance(source.layer, Linear):
        return None
    shape = network.shapes[source.inputs[0]]
    return shape if len(shape) == 3 and shape[-1] > 1 and math.prod(shape[:-1]) > 1 else None
