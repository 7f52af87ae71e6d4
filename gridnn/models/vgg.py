"""VGG (Simonyan and Zisserman 2015) without batch normalisation: configurations A, B, D and E."""

from __future__ import annotations

from gridnn.models.parts import add_classifier, add_convolutions, add_fixed_size, image_network
from gridnn.network import Network

WIDTHS = (64, 128, 256, 512, 512)
DEPTHS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
SIZE = 7  # height and width before the classifier


def vgg(layers: int, input_shape: tuple[int, ...], outputs: int, dropout: float = 0.5) -> Network:
    """The network with ``layers`` (11, 13, 16 or 19) layers that have weights, with the paper's classifier."""
    net = image_network(f"vgg{layers}", input_shape)
    add_convolutions(net, _stages(layers))
    add_fixed_size(net, SIZE)
    add_classifier(net, (4096, 4096), outputs, dropout)
    return net


def vgg_cifar(layers: int, input_shape: tuple[int, ...], outputs: int, dropout: float = 0.5) -> Network:
    """The same convolutions for images of 32 x 32, and fully connected layers of 512 in place of 4096."""
    net = image_network(f"vgg{layers}-cifar", input_shape)
    add_convolutions(net, _stages(layers))
    add_classifier(net, (512, 512), outputs, dropout)
    return net


def _stages(layers: int) -> tuple[int | str, ...]:
    return tuple(
        part for width, depth in zip(WIDTHS, DEPTHS[layers], strict=True) for part in (*[width] * depth, "pool")
    )
