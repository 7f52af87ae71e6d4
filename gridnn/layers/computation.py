"""What a layer computes on one rank, as data: the arrays that it needs, and its calls between movements.

A layer declares all of it once, for the part of its index space that a rank has (`LayerPart`), and never allocates.
The schedule (`gridnn.program.schedule`) gives every array its place and calls the layer's methods with them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from gridnn.layout.layout import box_shape

Shape = tuple[int, ...]
Box = tuple[tuple[int, int], ...]
Index = tuple[slice, ...]

ACTIVATION = "activation"  # the type of the activations
WIDE = "wide"  # float32 where activations have 16 bits, else their type: see `gridnn.units.wide`


class LayerPart(NamedTuple):
    """What one rank has of a layer.

    Attributes
    ----------
    shapes : Shapes
        Global.
    input_boxes, output_box
        This rank's part of every input, without ghost zones, and of the output.
    ghosted : tuple of Shape
        The local inputs as `Layer.forward` gets them, with their ghost zones.
    training : bool
        Whether a backward pass follows.
    needs_gradient : bool
        Whether anybody asks for the gradient of the input.
    fused : Fusion
        What of its neighbours' work the layer does, or is spared.
    """

    shapes: Any
    input_boxes: tuple[Box, ...]
    output_box: Box
    ghosted: tuple[Shape, ...]
    training: bool = True
    needs_gradient: bool = True
    fused: Any = None

    @property
    def output(self) -> Shape:
        """The local shape of the output."""
        return box_shape(self.output_box)


class BufferSpec(NamedTuple):
    """An array beside inputs, output and their gradients, which a layer names in its tasks.

    Attributes
    ----------
    name : str
        Unique in the layer; not ``x``, ``y``, ``dx`` or ``dy``.
    shape : tuple of int
        Local.
    dtype : str
        `ACTIVATION`, `WIDE`, or a type by name.
    """

    name: str
    shape: Shape
    dtype: str = ACTIVATION


class View(NamedTuple):
    """One of the layer's arrays that lies in another one: ``base[region]``, with this shape; no call writes it."""

    name: str
    base: str
    shape: Shape
    region: Index | None = None


class Task(NamedTuple):
    """One call of a method of the layer: ``method(context, *arguments, *reads, *writes)``.

    The arrays of a layer are ``x`` (``x1``, ... of further inputs), ``y``, their gradients ``dx`` (``dx1``, ...) and
    ``dy``, and those that it declares; a loss reads ``target``. What backward reads of forward is kept until then.

    Attributes
    ----------
    method : str
        Its name.
    reads, writes : tuple of str
        Arrays, in the order in which the method takes them; one that is in both is passed once, among the reads.
    once : bool
        Whether it is left out where the forward pass is recomputed: what it wrote is kept.
    stores_gradients : bool
        Whether it writes the gradients of the layer's parameters.
    share : float
        Its part of the work of its half of the layer (forward, backward to the input, backward to the weights).
    stochastic : bool
        Whether it differs from step to step by more than its arrays.
    in_place : tuple of str, optional
        (read, written): these may be the same memory.
    arguments : tuple
        Constants.
    """

    method: str
    reads: tuple[str, ...]
    writes: tuple[str, ...] = ()
    once: bool = False
    stores_gradients: bool = False
    share: float = 1.0
    stochastic: bool = False
    in_place: tuple[str, str] | None = None
    arguments: tuple[Any, ...] = ()


class Reduction(NamedTuple):
    """A sum or maximum of one of the layer's arrays over the ranks that divide ``axes``, in place."""

    buffer: str
    axes: tuple[str, ...]
    operation: str = "sum"


class Computation(NamedTuple):
    """Forward and backward of a layer on one rank.

    Attributes
    ----------
    forward, backward : tuple of Task and Reduction
        In this order.
    buffers : tuple of BufferSpec
        What the tasks name beside inputs, output and gradients.
    views : tuple of View
        Of outputs and gradients that need no memory of their own.
    workspaces : tuple of str
        The types of the workspaces that its kernels use (`Backend.workspace`).
    """

    forward: tuple[Task | Reduction, ...]
    backward: tuple[Task | Reduction, ...] = ()
    buffers: tuple[BufferSpec, ...] = ()
    views: tuple[View, ...] = ()
    workspaces: tuple[str, ...] = ()


def gradient(name: str) -> str:
    """The name of the gradient of an array."""
    return f"d{name}"


def inputs(count: int) -> tuple[str, ...]:
    """The names of so many inputs."""
    return ("x", *(f"x{i}" for i in range(1, count)))


def identity(part: LayerPart) -> Computation:
    """A layer that does nothing here: its output is its input."""
    return Computation((), views=(View("y", "x", part.output), View("dx", "dy", part.ghosted[0])))


def simple(
    saved: tuple[str, ...], buffers: Sequence[BufferSpec] = (), in_place: bool = False, **fields: Any
) -> Computation:
    """A layer of one input whose forward is one call and whose backward is one: ``backward(context, dy, *saved, dx)``.

    Parameters
    ----------
    saved : tuple of str
        What backward reads beside ``dy``: ``x``, ``y`` or names of ``buffers``, which forward writes before ``y``.
    buffers : sequence of BufferSpec
        Further arrays of forward.
    in_place : bool
        Whether output and input may be the same memory.
    """
    extra = tuple(spec.name for spec in buffers)
    forward = Task("forward", ("x",), (*extra, "y"), in_place=("x", "y") if in_place else None)
    return Computation((forward,), (Task("backward", ("dy", *saved), ("dx",)),), tuple(buffers), **fields)


def words_of(spec: BufferSpec) -> int:
    """The elements of an array."""
    return math.prod(spec.shape)
