"""What a layer computes on one rank: calls of a kind with their flops and bytes, from local shapes alone."""

from __future__ import annotations

import math
from typing import NamedTuple

from gridnn.cost.machine import Compute
from gridnn.layers.base import Layer, Shapes
from gridnn.units import rounded, wide

ARRAYS = ("gemm", "conv")  # kinds of work whose layers multiply by weights


class Call(NamedTuple):
    """One call of a kernel: what bounds it, its floating-point operations, and the bytes that it reads and writes."""

    kind: str
    flops: float
    size: float


class Work(NamedTuple):
    """The calls of one layer on one rank in a pass; ``inputs`` and ``weights`` are the two halves of backward."""

    forward: tuple[Call, ...]
    inputs: tuple[Call, ...]
    weights: tuple[Call, ...]

    @property
    def backward(self) -> tuple[Call, ...]:
        """The calls of the whole backward pass."""
        return self.inputs + self.weights


def work(
    layer: Layer, shapes: Shapes, local: Shapes, weights: int, needs_gradient: bool = True, itemsize: int = 4
) -> Work:
    """The work of ``layer`` on a rank that has the part ``local`` of ``shapes``.

    A product of forward is repeated twice backwards: for the gradient of the weights, and for that of the input where
    somebody asks for it. Other layers stream their arrays (`Layer.memory_passes`).

    Parameters
    ----------
    layer : Layer
        What is computed.
    shapes, local : Shapes
        Of inputs and output, global and on this rank (inputs with their halos).
    weights : int
        The trained elements of the layer on this rank.
    needs_gradient : bool
        Whether the gradient of the input is computed.
    itemsize : int
        Bytes of an element of the activations, and of the weights in products.
    """
    read, written = itemsize * sum(map(math.prod, local.inputs)), itemsize * math.prod(local.output)
    if not written:
        return Work((), (), ())
    if layer.bound_by not in ARRAYS:
        forward, backward = layer.memory_passes
        streamed = backward * (2 * read + written) if weights or needs_gradient else 0
        return Work(_streamed(forward * (read + written)), _streamed(streamed), ())
    product = Call(layer.bound_by, local_flops(layer, shapes, local), read + written + itemsize * weights)
    add, total = (_streamed(2 * written), _streamed(written)) if getattr(layer, "bias", False) else ((), ())
    return Work((product, *add), (product,) if needs_gradient else (), (product, *total))


def local_flops(layer: Layer, shapes: Shapes, local: Shapes) -> float:
    """The share of a layer's flops that a rank has: that of its output, and of the channels that it sums over."""
    flops = layer.flops(shapes) * math.prod(local.output)
    whole = math.prod(shapes.output)
    axes = layer.input_axes(0, shapes)
    for axis in set(layer.contracted(shapes)) & set(axes):
        place = axes.index(axis)
        flops, whole = flops * local.inputs[0][place], whole * shapes.inputs[0][place]
    return flops / whole


def update_seconds(compute: Compute, weights: int, slots: int = 1, itemsize: int = 4) -> float:
    """The update of ``weights`` elements: values and ``slots`` optimizer arrays read and written, gradients read.

    It is one call for all layers together. Where activations have 16 bits, the values are rounded for them besides.
    """
    return (wide(itemsize) * (3 + 2 * slots) + rounded(itemsize)) * weights / compute.memory


def weight_bytes(itemsize: int, slots: int) -> int:
    """What is kept for one weight: its value, the rounded one of 16-bit products, gradient and optimizer arrays."""
    return wide(itemsize) * (2 + slots) + rounded(itemsize)


def seconds(compute: Compute, calls: tuple[Call, ...]) -> float:
    """How long ``calls`` take one after the other."""
    return sum(compute.seconds(*call) for call in calls)


def _streamed(size: float) -> tuple[Call, ...]:
    return (Call("memory", 0, size),) if size else ()
