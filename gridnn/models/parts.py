"""What several networks are made of."""

from __future__ import annotations

from gridnn.errors import UserError
from gridnn.layers import Conv2d, Dropout, Flatten, Linear, MaxPool2d, ReLU
from gridnn.network import Network


def image_network(name: str, input_shape: tuple[int, ...]) -> Network:
    """An empty network for images.

    Raises
    ------
    ValueError
        If the samples are no images.
    """
    if len(input_shape) != 3:
        raise UserError(
            f"model {name} needs images (height x width x channels), but a sample has the shape {input_shape}: "
            "use --model mlp"
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


def add_classifier(net: Network, widths: tuple[int, ...], outputs: int, dropout: float, before: bool) -> None:
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
