"""What several networks are made of."""

from __future__ import annotations

from gridnn.errors import UserError
from gridnn.layers import AdaptiveAvgPool, BatchNorm, Conv2d, Dropout, Flatten, Linear, MaxPool2d, ReLU
from gridnn.layers.base import Shape
from gridnn.network import Network

KINDS = {3: "images (height x width x channels)", 4: "volumes (depth x height x width x channels)"}


class SamplesError(UserError):
    """Samples of another kind than a network is for; the text names the network and what would fit."""


def image_network(name: str, input_shape: Shape) -> Network:
    """An empty network for images; `SamplesError` if the samples are no images."""
    return _network(name, input_shape, 3)


def volume_network(name: str, input_shape: Shape) -> Network:
    """An empty network for volumes; `SamplesError` if the samples are no volumes."""
    return _network(name, input_shape, 4)


def _network(name: str, input_shape: Shape, dimensions: int) -> Network:
    if len(input_shape) != dimensions:
        others = {1: "mlp", 3: "lenet, or another network for images", 4: "cosmoflow or unet3d"}
        fitting = others.get(len(input_shape), "mlp, which flattens any shape")
        raise SamplesError(
            f"model {name} needs {KINDS[dimensions]}, but a sample has the shape {tuple(input_shape)}: "
            f"use --model {fitting}"
        )
    return Network(input_shape)


def add_convolutions(net: Network, widths: tuple[int | str, ...]) -> None:
    """3 x 3 convolutions of these widths with ReLU, and 2 x 2 max-pools where it says ``pool``, counted on by name."""
    for width in widths:
        if width == "pool":
            net.add(f"pool{_next(net, 'pool')}", MaxPool2d(2))
            continue
        number = _next(net, "conv")
        net.add(f"conv{number}", Conv2d(width, 3, padding=1))
        net.add(f"relu{number}", ReLU())


def add_normed(net: Network, conv: str, bn: str, layer: Conv2d, source: str, eps: float = 1e-5) -> str:
    """A convolution without bias and its batch norm; the name of the latter."""
    net.add(conv, layer, source)
    return net.add(bn, BatchNorm(eps=eps))


def add_fixed_size(net: Network, size: int) -> None:
    """An adaptive average pool to ``size`` x ``size`` where the images have another size: any input fits then."""
    if net.shapes[net.output][:-1] != (size, size):
        net.add("avgpool", AdaptiveAvgPool(size))


def add_classifier(
    net: Network, widths: tuple[int, ...], outputs: int, dropout: float = 0.0, before: bool = False
) -> None:
    """Fully connected layers with ReLU and dropout (``before`` each or behind it), and one for the outputs."""
    net.add("flatten", Flatten())
    for number, width in enumerate(widths, 1):
        if dropout and before:
            net.add(f"drop{number}", Dropout(dropout))
        net.add(f"fc{number}", Linear(width))
        net.add(f"fc_relu{number}", ReLU())
        if dropout and not before:
            net.add(f"drop{number}", Dropout(dropout))
    net.add(f"fc{len(widths) + 1}", Linear(outputs))


def _next(net: Network, kind: str) -> int:
    """One more than the layers called ``kind`` and a number."""
    return 1 + sum(name.removeprefix(kind).isdecimal() for name in net.shapes if name.startswith(kind))
