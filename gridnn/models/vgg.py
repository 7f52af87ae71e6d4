"""VGG (Simonyan and Zisserman 2015) for images of 32 x 32."""

from __future__ import annotations

from gridnn.models.parts import add_classifier, add_convolutions, image_network
from gridnn.network import Network

VGG11 = (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool", 512, 512, "pool")


def vgg11_cifar(input_shape: tuple[int, ...], outputs: int, dropout: float = 0.5) -> Network:
    """Configuration A without batch normalisation, and fully connected layers of 512 in place of 4096."""
    net = image_network("vgg11-cifar", input_shape)
    add_convolutions(net, VGG11)
    add_classifier(net, (512, 512), outputs, dropout, before=False)
    return net
