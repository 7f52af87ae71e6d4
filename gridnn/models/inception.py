"""Inception-v3 (Szegedy et al. 2016, arXiv 1512.00567) with the names of torchvision, without the second classifier."""

from __future__ import annotations

from gridnn.layers import AvgPool2d, Concat, Conv2d, Dropout, GlobalAvgPool, Linear, MaxPool2d, ReLU
from gridnn.models.parts import add_normed, image_network
from gridnn.network import Network

EPS = 1e-3  # of the batch norms
ACROSS = {"kernel": (1, 7), "padding": (0, 3)}
DOWN = {"kernel": (7, 1), "padding": (3, 0)}
SAME = {"kernel": 3, "padding": 1}
HALVED = {"kernel": 3, "stride": 2}


def inception_v3(input_shape: tuple[int, ...], outputs: int, dropout: float = 0.5) -> Network:
    """For images of 299 x 299, at least 75 x 75."""
    net = image_network("inception-v3", input_shape)
    _conv(net, "Conv2d_1a_3x3", net.output, 32, **HALVED)
    _conv(net, "Conv2d_2a_3x3", net.output, 32, kernel=3)
    _conv(net, "Conv2d_2b_3x3", net.output, 64, **SAME)
    net.add("maxpool1", MaxPool2d(3, 2))
    _conv(net, "Conv2d_3b_1x1", net.output, 80)
    _conv(net, "Conv2d_4a_3x3", net.output, 192, kernel=3)
    net.add("maxpool2", MaxPool2d(3, 2))
    for name, pooled in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
        _add_a(net, name, pooled)
    _add_b(net, "Mixed_6a")
    for name, width in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
        _add_c(net, name, width)
    _add_d(net, "Mixed_7a")
    _add_e(net, "Mixed_7b")
    _add_e(net, "Mixed_7c")
    net.add("avgpool", GlobalAvgPool())
    if dropout:
        net.add("dropout", Dropout(dropout))
    net.add("fc", Linear(outputs))
    return net


def _conv(net: Network, name: str, source: str, channels: int, kernel=1, stride=1, padding=0) -> str:
    """A convolution with batch norm and ReLU; the name of the latter."""
    layer = Conv2d(channels, kernel, stride=stride, padding=padding, bias=False)
    add_normed(net, f"{name}.conv", f"{name}.bn", layer, source, EPS)
    return net.add(f"{name}.relu", ReLU())


def _chain(net: Network, name: str, source: str, *convolutions: tuple[int, dict]) -> str:
    """Convolutions one after the other, counted by name: ``name_1``, ``name_2``; the last one's name."""
    for number, (channels, window) in enumerate(convolutions, 1):
        source = _conv(net, f"{name}_{number}", source, channels, **window)
    return source


def _averaged(net: Network, name: str, source: str, channels: int) -> str:
    """A 3 x 3 average and a 1 x 1 convolution."""
    pool = net.add(f"{name}.avgpool", AvgPool2d(3, 1, 1), source)
    return _conv(net, f"{name}.branch_pool", pool, channels)


def _add_a(net: Network, name: str, pooled: int) -> None:
    x = net.output
    one = _conv(net, f"{name}.branch1x1", x, 64)
    five = _chain(net, f"{name}.branch5x5", x, (48, {}), (64, {"kernel": 5, "padding": 2}))
    three = _chain(net, f"{name}.branch3x3dbl", x, (64, {}), (96, SAME), (96, SAME))
    net.add(f"{name}.concat", Concat(), one, five, three, _averaged(net, name, x, pooled))


def _add_b(net: Network, name: str) -> None:
    x = net.output
    three = _conv(net, f"{name}.branch3x3", x, 384, **HALVED)
    double = _chain(net, f"{name}.branch3x3dbl", x, (64, {}), (96, SAME), (96, HALVED))
    pool = net.add(f"{name}.maxpool", MaxPool2d(3, 2), x)
    net.add(f"{name}.concat", Concat(), three, double, pool)


def _add_c(net: Network, name: str, width: int) -> None:
    x = net.output
    one = _conv(net, f"{name}.branch1x1", x, 192)
    seven = _chain(net, f"{name}.branch7x7", x, (width, {}), (width, ACROSS), (192, DOWN))
    twice = ((width, {}), (width, DOWN), (width, ACROSS), (width, DOWN), (192, ACROSS))
    double = _chain(net, f"{name}.branch7x7dbl", x, *twice)
    net.add(f"{name}.concat", Concat(), one, seven, double, _averaged(net, name, x, 192))


def _add_d(net: Network, name: str) -> None:
    x = net.output
    three = _chain(net, f"{name}.branch3x3", x, (192, {}), (320, HALVED))
    seven = _chain(net, f"{name}.branch7x7x3", x, (192, {}), (192, ACROSS), (192, DOWN), (192, HALVED))
    pool = net.add(f"{name}.maxpool", MaxPool2d(3, 2), x)
    net.add(f"{name}.concat", Concat(), three, seven, pool)


def _add_e(net: Network, name: str) -> None:
    x = net.output
    one = _conv(net, f"{name}.branch1x1", x, 320)
    three = _conv(net, f"{name}.branch3x3_1", x, 384)
    halves = _fork(net, f"{name}.branch3x3_2", three)
    double = _chain(net, f"{name}.branch3x3dbl", x, (448, {}), (384, SAME))
    quarters = _fork(net, f"{name}.branch3x3dbl_3", double)
    net.add(f"{name}.concat", Concat(), one, *halves, *quarters, _averaged(net, name, x, 192))


def _fork(net: Network, name: str, source: str) -> tuple[str, str]:
    """A 1 x 3 and a 3 x 1 convolution side by side."""
    across = _conv(net, f"{name}a", source, 384, kernel=(1, 3), padding=(0, 1))
    return across, _conv(net, f"{name}b", source, 384, kernel=(3, 1), padding=(1, 0))
