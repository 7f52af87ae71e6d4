"""What a network is made of, in numbers, layer by layer."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gridnn.layers import Flatten
from gridnn.layers.base import Shape
from gridnn.network import Network


@dataclass(frozen=True)
class Summary:
    """The numbers of one layer, or of a whole network."""

    # name, kind: of a layer: its name and class. Of a network: its name, and "Network"
    name: str
    kind: str
    shape: Shape  # of one sample: a layer's output, a network's input
    layers: int  # how many layers
    parameters: int  # trained numbers
    weights: int  # those of them that are factors of convolutions and fully connected layers: no biases, no norms
    flops: int  # floating-point operations of one forward pass over the batch; a multiplication and an addition are two
    activations: int  # elements of the layers' outputs for the batch. ``Flatten`` has none of its own


def summarize_layers(network: Network, batch: int = 1) -> list[Summary]:
    """One `Summary` a layer, in the order in which they run."""
    rows = []
    for node in network.nodes:
        sizes = network.sizes(node, batch)
        tensors = node.layer.weights(sizes).values()
        rows.append(
            Summary(
                name=node.name,
                kind=type(node.layer).__name__,
                shape=network.shapes[node.name],
                layers=1,
                parameters=sum(math.prod(tensor.shape) for tensor in tensors),
                weights=sum(math.prod(tensor.shape) for tensor in tensors if tensor.fan_in is not None),
                flops=node.layer.flops(sizes),
                activations=0 if isinstance(node.layer, Flatten) else math.prod(sizes.output),
            )
        )
    return rows


def summarize(name: str, network: Network, batch: int = 1) -> Summary:
    """The sums over all layers."""
    rows = summarize_layers(network, batch)
    sums = {
        field: sum(getattr(row, field) for row in rows)
        for field in ("layers", "parameters", "weights", "flops", "activations")
    }
    return Summary(name=name, kind="Network", shape=next(iter(network.inputs.values())).shape, **sums)
