"""A small network as a user would give it (``--model narrow.py:alexnet``): the form of AlexNet, few channels."""

from __future__ import annotations

from gridnn.models.parts import add_classifier, add_convolutions, image_network
from gridnn.network import Network


def alexnet(input_shape: tuple[int, ...], outputs: int, dropout: float) -> Network:
    """Convolutions and pools, then three fully connected layers of odd widths with dropout before the first two."""
    net = image_network("narrow-alexnet", input_shape)
    add_convolutions(net, (8, "pool", 12, "pool", 12))
    add_classifier(net, (45, 38), outputs, dropout, before=True)
    return net
