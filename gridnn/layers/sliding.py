"""What layers with a window over h and w share: their sizes, and how they are written."""

from __future__ import annotations

from gridnn.comm.partition import Window
from gridnn.layers.base import Shape

Pair = tuple[int, int]


def pair(name: str, value: int | Pair, least: int) -> Pair:
    """``value`` for h and w; one integer stands for both.

    Raises
    ------
    ValueError
        If it is neither an integer nor two, or below ``least``.
    """
    both = (value, value) if isinstance(value, int) else tuple(value)
    if len(both) != 2 or any(not isinstance(v, int) or v < least for v in both):
        raise ValueError(f"{name}={value!r}: give one integer or two (h, w), each at least {least}")
    return both


def padding_pairs(value: int | Pair | tuple[Pair, Pair]) -> tuple[Pair, Pair]:
    """``value`` as ((before h, after h), (before w, after w)): an integer, (h, w), or all four.

    Raises
    ------
    ValueError
        If it is none of these, or negative.
    """
    try:
        both = (value, value) if isinstance(value, int) else tuple(value)
        height, width = (pair("padding", side, 0) for side in both)
    except (TypeError, ValueError):
        raise ValueError(
            f"padding={value!r}: give an integer, (h, w), or ((before, after), (before, after)), none negative"
        ) from None
    return height, width


def windows(kernel: Pair, stride: Pair, padding: tuple[Pair, Pair], dilation: Pair = (1, 1)) -> dict[str, Window]:
    """The window over each of h and w."""
    return {axis: Window(kernel[i], stride[i], dilation[i], *padding[i]) for i, axis in enumerate("hw")}


def output_sizes(layer: str, shape: Shape, over: dict[str, Window]) -> Pair:
    """The height and width of the output of a sample of ``shape``.

    Raises
    ------
    ValueError
        If a sample is not (h, w, channels), or no window fits.
    """
    if len(shape) != 3:
        raise ValueError(f"{layer} needs samples of shape (h, w, channels), this one is {shape}")
    return tuple(_outputs(layer, shape, axis, size, over[axis]) for axis, size in zip("hw", shape, strict=False))


def _outputs(layer: str, shape: Shape, axis: str, size: int, window: Window) -> int:
    count = window.outputs(size)
    if count < 1:
        padding = window.before + window.after
        spread = f", dilation {window.dilation} (reach {window.reach})" if window.dilation > 1 else ""
        raise ValueError(
            f"{layer} {window.kernel} on {axis} of a {shape[0]}x{shape[1]} input with padding {padding}{spread}: "
            f"({size} + {padding} - {window.reach}) / {window.stride} + 1 = {count} outputs; "
            f"use a kernel that reaches at most {size + padding}, or more padding"
        )
    return count
