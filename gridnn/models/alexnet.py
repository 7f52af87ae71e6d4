"""AlexNet (Krizhevsky, Sutskever and Hinton 2012) for images of 32 x 32."""

from __future__ import annotations

from gridnn.layers import Conv2d, ReLU
from gridnn.models.parts import add_classifier, add_convolutions, image_network
from gridnn.network import Network


def alexnet_cifar(input_shape: tuple[int, ...], outputs: int, dropout: float = 0.5) -> Network:
    """The usual small one: 3 x 3 kernels, a first stride of 2, the widths of the one-column AlexNet, twice 4096."""
    net = image_network("alexnet-cifar", input_shape)
    net.add("conv1", Conv2d(64, 3, stride=2, padding=1))
    net.add("relu1", ReLU())
    add_convolutions(net, ("pool", 192, "pool", 384, 256, 256, "pool"))
    add_classifier(net, (4096, 4096), outputs, dropout, before=True)
    return net
