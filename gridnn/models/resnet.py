"""ResNet (He, Zhang, Ren and Sun 2016) with the names, and the stride in the 3 x 3 convolution, of torchvision."""

from __future__ import annotations

from gridnn.layers import Add, Conv2d, GlobalAvgPool, Linear, MaxPool2d, ReLU
from gridnn.models.parts import add_normed, image_network
from gridnn.network import Network

WIDTHS = (64, 128, 256, 512)
DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
BOTTLENECKS = (50, 101)
EXPANSION = 4  # of a bottleneck's output over its width


def resnet(layers: int, input_shape: tuple[int, ...], outputs: int) -> Network:
    """The network with ``layers`` (18, 34, 50 or 101) layers that have weights, for images of 224 x 224."""
    net = _stem(f"resnet{layers}", input_shape, Conv2d(64, 7, stride=2, padding=3, bias=False))
    net.add("maxpool", MaxPool2d(3, 2, 1))
    return _add_stages(net, layers, outputs)


def resnet_cifar(layers: int, input_shape: tuple[int, ...], outputs: int) -> Network:
    """The same stages behind a 3 x 3 convolution without stride and pool, for images of 32 x 32."""
    net = _stem(f"resnet{layers}-cifar", input_shape, Conv2d(64, 3, padding=1, bias=False))
    return _add_stages(net, layers, outputs)


def _stem(name: str, input_shape: tuple[int, ...], layer: Conv2d) -> Network:
    net = image_network(name, input_shape)
    add_normed(net, "conv1", "bn1", layer, net.output)
    net.add("relu", ReLU())
    return net


def _add_stages(net: Network, layers: int, outputs: int) -> Network:
    add_block = _add_bottleneck if layers in BOTTLENECKS else _add_basic
    for stage, (width, depth) in enumerate(zip(WIDTHS, DEPTHS[layers], strict=True), 1):
        for number in range(depth):
            add_block(net, f"layer{stage}.{number}", width, 2 if stage > 1 and number == 0 else 1)
    net.add("avgpool", GlobalAvgPool())
    net.add("fc", Linear(outputs))
    return net


def _add_basic(net: Network, name: str, width: int, stride: int) -> None:
    """Two 3 x 3 convolutions, and the input added."""
    source = net.output
    _add_conv(net, name, 1, Conv2d(width, 3, stride=stride, padding=1, bias=False), source)
    net.add(f"{name}.relu1", ReLU())
    last = _add_conv(net, name, 2, Conv2d(width, 3, padding=1, bias=False), net.output)
    _add_shortcut(net, name, last, source, width, stride)


def _add_bottleneck(net: Network, name: str, width: int, stride: int) -> None:
    """1 x 1, 3 x 3 and 1 x 1 convolutions, and the input added."""
    source = net.output
    _add_conv(net, name, 1, Conv2d(width, 1, bias=False), source)
    net.add(f"{name}.relu1", ReLU())
    _add_conv(net, name, 2, Conv2d(width, 3, stride=stride, padding=1, bias=False), net.output)
    net.add(f"{name}.relu2", ReLU())
    last = _add_conv(net, name, 3, Conv2d(EXPANSION * width, 1, bias=False), net.output)
    _add_shortcut(net, name, last, source, EXPANSION * width, stride)


def _add_conv(net: Network, name: str, number: int, layer: Conv2d, source: str) -> str:
    return add_normed(net, f"{name}.conv{number}", f"{name}.bn{number}", layer, source)


def _add_shortcut(net: Network, name: str, last: str, source: str, channels: int, stride: int) -> None:
    """The sum of a block's ``last`` layer and its ``source``, by a 1 x 1 convolution where their shapes differ."""
    if stride > 1 or net.shapes[source][-1] != channels:
        down = Conv2d(channels, 1, stride=stride, bias=False)
        source = add_normed(net, f"{name}.downsample.0", f"{name}.downsample.1", down, source)
    net.add(f"{name}.add", Add(), last, source)
    net.add(f"{name}.relu", ReLU())
