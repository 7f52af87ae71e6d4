"""What layers with a window over space share: their sizes, how they are written, and what lies under a region."""

from __future__ import annotations

from gridnn.errors import UserError
from gridnn.layers.base import Shape
from gridnn.layout.partition import Window

Sizes = tuple[int, ...]  # one entry per space axis
Pair = tuple[int, int]
Padding = tuple[Pair, ...]  # (before, after) per space axis
Space = tuple[str, ...]  # the names of the space axes: ("w",), ("h", "w") or ("d", "h", "w")


def per_axis(name: str, value: int | Sizes, least: int, space: Space) -> Sizes:
    """``value`` for every space axis; one integer stands for all.

    Raises
    ------
    UserError
        If it is neither an integer nor one per axis, or below ``least``.
    """
    values = (value,) * len(space) if isinstance(value, int) else tuple(value)
    if len(values) != len(space) or any(not isinstance(v, int) or v < least for v in values):
        raise UserError(f"{name}={value!r}: give one integer or {_axes(space)}, each at least {least}")
    return values


def padding_pairs(value: int | Sizes | Padding, space: Space) -> Padding:
    """``value`` as (before, after) for every space axis: an integer, one per axis, or one pair per axis.

    Raises
    ------
    UserError
        If it is none of these, or negative.
    """
    try:
        sides = (value,) * len(space) if isinstance(value, int) else tuple(value)
        if len(sides) != len(space):
            raise UserError
        return tuple(per_axis("padding", side, 0, ("before", "after")) for side in sides)
    except (TypeError, UserError):
        pairs = ", ".join(["(before, after)"] * len(space))
        raise UserError(
            f"padding={value!r}: give an integer, {_axes(space)}, or ({pairs}{_comma(space)}), none negative"
        ) from None


def windows(space: Space, kernel: Sizes, stride: Sizes, padding: Padding, dilation: Sizes = ()) -> dict[str, Window]:
    """The window over each space axis."""
    dilation = dilation or (1,) * len(space)
    return {axis: Window(kernel[i], stride[i], dilation[i], *padding[i]) for i, axis in enumerate(space)}


def check_sample(layer: str, shape: Shape, space: Space) -> None:
    """Refuse samples that are not (*space, channels).

    Raises
    ------
    UserError
        With the shape that is needed.
    """
    if len(shape) != len(space) + 1:
        raise UserError(f"{layer} needs samples of shape ({', '.join(space)}, channels), this one is {shape}")


def output_sizes(layer: str, shape: Shape, over: dict[str, Window]) -> Sizes:
    """The extents of the output over space, of a sample of ``shape``.

    Raises
    ------
    UserError
        If a sample is not (*space, channels), or no window fits.
    """
    check_sample(layer, shape, tuple(over))
    return tuple(
        _outputs(layer, shape, axis, size, window) for (axis, window), size in zip(over.items(), shape, strict=False)
    )


def _outputs(layer: str, shape: Shape, axis: str, size: int, window: Window) -> int:
    count = window.outputs(size)
    if count < 1:
        padding = window.before + window.after
        spread = f", dilation {window.dilation} (reach {window.reach})" if window.dilation > 1 else ""
        extents = "x".join(map(str, shape[:-1]))
        raise UserError(
            f"{layer} {window.kernel} on {axis} of a {extents} input with padding {padding}{spread}: "
            f"({size} + {padding} - {window.reach}) / {window.stride} + 1 = {count} outputs; "
            f"use a kernel that reaches at most {size + padding}, or more padding"
        )
    return count


def _axes(space: Space) -> str:
    return f"({', '.join(space)}{_comma(space)})"


def _comma(space: Space) -> str:
    return "," if len(space) == 1 else ""
