"""The multi-layer perceptron."""

from __future__ import annotations

from gridnn.layers import Flatten, Linear, ReLU
from gridnn.network import Network


def mlp(input_shape: tuple[int, ...], outputs: int, widths: tuple[int, ...]) -> Network:
    """Fully connected layers of these widths with ReLU between them, then one for the outputs; images are flattened."""
    net = Network(input_shape)
    if len(input_shape) > 1:
        net.add("flatten", Flatten())
    for number, width in enumerate(widths, 1):
        net.add(f"fc{number}", Linear(width))
        net.add(f"relu{number}", ReLU())
    net.add(f"fc{len(widths) + 1}", Linear(outputs))
    return net
