"""What arrays a layer takes while it runs, and how long they live: shapes and names, nothing allocated."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from gridnn.units import wide

Shape = tuple[int, ...]
WIDTHS = {"bool": 1, "uint8": 1, "uint32": 4, "int64": 8, "float32": 4, "float64": 8}  # bytes


class Part(NamedTuple):
    """One layer's part on one rank, named as in `gridnn.layers.base.Local`.

    Attributes
    ----------
    shapes : Shapes
        Global.
    input_boxes, output_box
        This rank's part of every input, without frames, and of the output.
    frames : tuple of Shape
        The local inputs as forward sees them, with their frames.
    recomputing : bool
        Whether forward runs a second time.
    """

    shapes: Any
    input_boxes: tuple[tuple[tuple[int, int], ...], ...]
    output_box: tuple[tuple[int, int], ...]
    frames: tuple[Shape, ...]
    recomputing: bool = False

    @property
    def output(self) -> Shape:
        """The local shape of the output."""
        return tuple(stop - start for start, stop in self.output_box)


class Room(NamedTuple):
    """An array that a layer takes by ``Local.buffer``.

    Attributes
    ----------
    dtype : str or None
        None is that of the activations; "wide" that of `gridnn.layers.base.Local.wide`.
    until : str or None
        The room before which it is dropped; None if it lives until the call of the layer ends.
    """

    name: str
    shape: Shape
    dtype: str | None = None
    until: str | None = None

    def size(self, itemsize: int) -> int:
        """Its bytes, where an activation has ``itemsize`` bytes."""
        width = {None: itemsize, "wide": wide(itemsize)}.get(self.dtype) or WIDTHS[self.dtype]
        return math.prod(self.shape) * width


class Rooms(NamedTuple):
    """The arrays of a layer on one rank, and what of them outlives a call.

    Attributes
    ----------
    forward, backward : tuple of Room
        In the order in which they are taken. The gradient of the input is ``dx``; without that room it is views of the
        output's gradient.
    saved : tuple of str
        What backward needs: rooms of forward, or ``x``, the (framed) input.
    output : str or None
        The room that is the output; ``x``: it is a view of the input; None: it is none of the activations.
    workspaces : tuple of str or None
        The types of the kernels' workspaces, as for `Room`.
    """

    forward: tuple[Room, ...]
    backward: tuple[Room, ...]
    saved: tuple[str, ...] = ()
    output: str | None = "y"
    workspaces: tuple[str | None, ...] = ()


def usual(part: Part, *saved: str, extra: tuple[Room, ...] = (), **fields: Any) -> Rooms:
    """The rooms of a layer that takes ``extra`` and its output ``y``, then ``dx``, the gradient of its input."""
    forward = (*extra, Room("y", part.output))
    return Rooms(forward, (Room("dx", part.frames[0]),), saved, **fields)


def chained(shapes: list[Shape], name: str, last: str) -> tuple[Room, ...]:
    """Arrays each of which is made of the one before, the last one called ``last``."""
    names = [*(f"{name} {i}" for i in range(len(shapes) - 1)), last]
    after = [*names[2:], None, None]
    return tuple(Room(*room, until=end) for *room, end in zip(names, shapes, after, strict=False))
