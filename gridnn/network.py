"""The serial graph of layers: names, shapes, parameters, flops. It knows nothing of grids."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gridnn.errors import UserError
from gridnn.layers.base import Layer, Loss, Shape, Shapes

INPUT = "input"


@dataclass(frozen=True)
class Node:
    """One layer of a network, by name, with the names of the nodes that feed it."""

    name: str
    layer: Layer
    inputs: tuple[str, ...]


class Network:
    """Layers in the order in which they run.

    Parameters
    ----------
    input_shape : tuple of int
        The shape of one sample, NHWC without the N: ``(h, w, c)`` or ``(features,)``.

    Examples
    --------
    >>> from gridnn.layers import Linear, ReLU
    >>> net = Network((784,))
    >>> net.add("fc1", Linear(100))
    'fc1'
    >>> net.add("relu1", ReLU())
    'relu1'
    >>> net.shapes["relu1"]
    (100,)
    """

    def __init__(self, input_shape: Shape):
        if not input_shape or any(size < 1 for size in input_shape):
            raise UserError(f"a sample has the shape {tuple(input_shape)}, but every size must be at least 1")
        self.shapes: dict[str, Shape] = {INPUT: tuple(input_shape)}
        self.nodes: tuple[Node, ...] = ()

    def add(self, name: str, layer: Layer, *inputs: str) -> str:
        """Append ``layer``, fed by ``inputs`` (default: the layer added last), and give back its name.

        Raises
        ------
        UserError
            If the name is taken, an input is unknown, or the layer does not fit its inputs.
        """
        if not isinstance(name, str) or not isinstance(layer, Layer):
            raise UserError(f"add({name!r}, {layer!r}): give a name and a layer, as in add('conv1', Conv2d(8, 3))")
        if name in self.shapes:
            raise UserError(f"layer {name!r} exists already; names are unique")
        inputs = inputs or (self.output,)
        for source in inputs:
            if source not in self.shapes:
                raise UserError(f"layer {name!r} is fed by {source!r}, which does not exist (yet)")
        try:
            shape = layer.infer(*(self.shapes[source] for source in inputs))
        except UserError as error:
            raise UserError(f"layer {name!r}: {error}") from error
        if not all(isinstance(size, int) and size > 0 for size in shape):
            raise UserError(f"layer {name!r}: {layer} gives the shape {tuple(shape)}; give whole numbers above 0")
        self.nodes += (Node(name, layer, tuple(inputs)),)
        self.shapes[name] = tuple(shape)
        return name

    @property
    def output(self) -> str:
        """The name of the layer added last."""
        return self.nodes[-1].name if self.nodes else INPUT

    @property
    def loss(self) -> Node:
        """The last node, which must be a loss.

        Raises
        ------
        UserError
            If the last layer is none.
        """
        if not self.nodes or not isinstance(self.nodes[-1].layer, Loss):
            raise UserError(f"the network ends in {self.output!r}, which is no loss: add SoftmaxCrossEntropy() last")
        return self.nodes[-1]

    def sizes(self, node: Node, batch: int) -> Shapes:
        """The global shapes around ``node`` for a batch of ``batch`` samples."""
        return Shapes(
            tuple((batch, *self.shapes[source]) for source in node.inputs),
            (batch, *self.shapes[node.name]),
        )

    @property
    def parameter_count(self) -> int:
        """The number of trained numbers."""
        return sum(math.prod(p.shape) for node in self.nodes for p in node.layer.weights(self.sizes(node, 1)).values())

    def flops(self, batch: int) -> int:
        """The floating-point operations of one forward pass over ``batch`` samples."""
        return sum(node.layer.flops(self.sizes(node, batch)) for node in self.nodes)
