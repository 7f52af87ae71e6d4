"""AlexNet: as published, as one tower, and for images of 32 x 32."""

from __future__ import annotations

from gridnn.layers import Conv2d, LocalResponseNorm, MaxPool2d, ReLU
from gridnn.models.parts import add_classifier, add_convolutions, add_fixed_size, image_network
from gridnn.network import Network

KERNEL, STRIDE = 11, 4  # of the first convolution
SIZE = 6  # height and width before the classifier


def alexnet(input_shape: tuple[int, ...], outputs: int, dropout: float = 0.5) -> Network:
    """Krizhevsky, Sutskever and Hinton 2012: 60,954,656 weights without biases for 1,000 classes.

    Their two towers are groups of the second, fourth and fifth convolution. The first one is padded by 2 where its
    windows leave a rest: 227 x 227 needs none, 224 x 224 (as the paper says) does.
    """
    net = image_network("alexnet", input_shape)
    exact = all(size % STRIDE == KERNEL % STRIDE for size in input_shape[:2])
    net.add("conv1", Conv2d(96, KERNEL, stride=STRIDE, padding=0 if exact else 2))
    net.add("relu1", ReLU())
    net.add("norm1", _norm())
    net.add("pool1", MaxPool2d(3, 2))
    net.add("conv2", Conv2d(256, 5, padding=2, groups=2))
    net.add("relu2", ReLU())
    net.add("norm2", _norm())
    net.add("pool2", MaxPool2d(3, 2))
    for number, (width, groups) in enumerate(((384, 1), (384, 2), (256, 2)), 3):
        net.add(f"conv{number}", Conv2d(width, 3, padding=1, groups=groups))
        net.add(f"relu{number}", ReLU())
    net.add("pool3", MaxPool2d(3, 2))
    add_fixed_size(net, SIZE)
    add_classifier(net, (4096, 4096), outputs, dropout)
    return net


def _norm() -> LocalResponseNorm:
    """Section 3.3: k = 2, n = 5, alpha = 1e-4, beta = 0.75; the layer's alpha is n times theirs."""
    return LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)


def alexnet_onetower(input_shape: tuple[int, ...], outputs: int, dropout: float = 0.5) -> Network:
    """Krizhevsky 2014 (arXiv 1404.5997) as in torchvision: 64-192-384-256-256, without groups and norms."""
    net = image_network("alexnet-onetower", input_shape)
    net.add("conv1", Conv2d(64, KERNEL, stride=STRIDE, padding=2))
    net.add("relu1", ReLU())
    net.add("pool1", MaxPool2d(3, 2))
    net.add("conv2", Conv2d(192, 5, padding=2))
    net.add("relu2", ReLU())
    net.add("pool2", MaxPool2d(3, 2))
    add_convolutions(net, (384, 256, 256))
    net.add("pool3", MaxPool2d(3, 2))
    add_fixed_size(net, SIZE)
    add_classifier(net, (4096, 4096), outputs, dropout, before=True)
    return net


def alexnet_cifar(input_shape: tuple[int, ...], outputs: int, dropout: float = 0.5) -> Network:
    """The usual small one: 3 x 3 kernels, a first stride of 2, the widths of the one-column AlexNet, twice 4096."""
    net = image_network("alexnet-cifar", input_shape)
    net.add("conv1", Conv2d(64, 3, stride=2, padding=1))
    net.add("relu1", ReLU())
    add_convolutions(net, ("pool", 192, "pool", 384, 256, 256, "pool"))
    add_classifier(net, (4096, 4096), outputs, dropout, before=True)
    return net
