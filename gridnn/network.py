"""The serial graph of layers: names, shapes, parameters, flops. It knows nothing of grids."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from gridnn.errors import UserError, unknown
from gridnn.layers.base import Layer, Loss, Parameter, Shape, Shapes
from gridnn.layers.computation import ACTIVATION

INPUT = "input"
INTEGERS = "int64"


class Input(NamedTuple):
    """What a network reads, of one sample.

    Attributes
    ----------
    shape : tuple of int
        Without the batch.
    dtype : {"activation", "int64"}
        Numbers of the type of the activations, or integers such as the ids of tokens, which have no gradient.
    """

    shape: Shape
    dtype: str = ACTIVATION


class Shared(NamedTuple):
    """A parameter of an earlier layer that another layer computes with, its axes reversed if ``transposed``."""

    layer: str
    name: str
    transposed: bool = False

    @classmethod
    def parse(cls, text: str) -> Shared:
        """``layer.tensor``, or ``layer.tensor.T``."""
        plain = text.removesuffix(".T")
        layer, _, name = plain.rpartition(".")
        return cls(layer, name, plain != text)

    def __str__(self) -> str:
        return f"{self.layer}.{self.name}{'.T' if self.transposed else ''}"


@dataclass(frozen=True)
class Node:
    """One layer of a network.

    Attributes
    ----------
    inputs : tuple of str
        The layers, or inputs of the network, that feed it.
    samples : tuple of bool
        Which of these are inputs of the network.
    shared : mapping of str to Shared
        The parameters that are those of other layers.
    """

    name: str
    layer: Layer
    inputs: tuple[str, ...]
    samples: tuple[bool, ...]
    shared: Mapping[str, Shared] = field(default_factory=dict)

    @property
    def reads_samples(self) -> bool:
        """Whether it reads an input of the network, which every rank reads as it needs it."""
        return any(self.samples)


class Network:
    """Layers in the order in which they run.

    Parameters
    ----------
    inputs : tuple of int, or mapping of str to `Input` or tuple of int
        The shape of one sample, NHWC without the N: ``(h, w, c)`` or ``(features,)``; of several inputs by name.

    Attributes
    ----------
    inputs : dict of str to Input
        By name; the only one is called ``input`` where it was given none.
    frozen : frozenset of str
        The parameters that are not trained (`freeze`), as ``layer.tensor``.
    outputs : tuple of str
        The layers whose outputs a prediction gives: the last one before the loss, or those of `give`.
    shapes : dict of str to tuple of int
        Of one sample, of all inputs and outputs of layers.

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

    def __init__(self, inputs: Shape | Mapping[str, Input | Shape]) -> None:
        named = inputs if isinstance(inputs, Mapping) else {INPUT: inputs}
        if not named:
            raise UserError("a network without inputs: give the shape of a sample, or shapes by name")
        self.inputs = {name: one if isinstance(one, Input) else Input(tuple(one)) for name, one in named.items()}
        for name, one in self.inputs.items():
            what = f"{name!r} of a sample" if isinstance(inputs, Mapping) else "a sample"
            if not one.shape or any(size < 1 for size in one.shape):
                raise UserError(f"{what} has the shape {tuple(one.shape)}, but every size must be at least 1")
            if one.dtype not in (ACTIVATION, INTEGERS):
                raise unknown("type of input", one.dtype, (ACTIVATION, INTEGERS))
        self.shapes: dict[str, Shape] = {name: tuple(one.shape) for name, one in self.inputs.items()}
        self.nodes: tuple[Node, ...] = ()
        self.frozen: frozenset[str] = frozenset()
        self._given: tuple[str, ...] = ()

    def add(self, name: str, layer: Layer, *inputs: str, share: Mapping[str, str] | None = None) -> str:
        """Append ``layer``, fed by ``inputs`` (default: the layer added last), and give back its name.

        Parameters
        ----------
        share : mapping of str to str, optional
            Its parameters that are those of an earlier layer, ``{"weight": "embed.weight.T"}``; ``.T`` reverses axes.

        Raises
        ------
        UserError
            If the name is taken, an input is unknown, or the layer does not fit its inputs or what it shares.
        """
        if not isinstance(name, str) or not isinstance(layer, Layer):
            raise UserError(f"add({name!r}, {layer!r}): give a name and a layer, as in add('conv1', Conv2d(8, 3))")
        if name in self.shapes:
            raise UserError(f"layer {name!r} exists already; names are unique")
        inputs = inputs or (self.output,)
        for source in inputs:
            if source not in self.shapes:
                raise UserError(f"layer {name!r} is fed by {source!r}, which does not exist (yet)")
            if source in self.inputs and self.inputs[source].dtype == INTEGERS and not layer.reads_integers:
                kind = type(layer).__name__
                raise UserError(f"layer {name!r}: {kind} reads numbers, but input {source!r} has integers ({INTEGERS})")
        try:
            shape = layer.infer(*(self.shapes[source] for source in inputs))
        except UserError as error:
            raise UserError(f"layer {name!r}: {error}") from error
        if not all(isinstance(size, int) and size > 0 for size in shape):
            raise UserError(f"layer {name!r}: {layer} gives the shape {tuple(shape)}; give whole numbers above 0")
        self.shapes[name] = tuple(shape)
        shared = {own: Shared.parse(text) for own, text in (share or {}).items()}
        node = Node(name, layer, tuple(inputs), tuple(source in self.inputs for source in inputs), shared)
        try:
            if shared:  # all parameters are looked at then
                self._check_shared(node)
        except UserError as error:
            del self.shapes[name]
            raise UserError(f"layer {name!r}: {error}") from error
        self.nodes += (node,)
        return name

    def _check_shared(self, node: Node) -> None:
        mine, others = node.layer.weights(self.sizes(node, 1)), self._parameters()
        for own, shared in node.shared.items():
            if own not in mine:
                raise unknown("parameter", own, mine)
            key = f"{shared.layer}.{shared.name}"
            if key not in others:
                raise unknown("parameter", key, others)
            shape, needed = others[key].shape, mine[own].shape
            if (shape[::-1] if shared.transposed else shape) != needed:
                raise UserError(f"{own} has the shape {needed}, but {key} has {shape}; {key}.T reverses its axes")

    def _parameters(self) -> dict[str, Parameter]:
        """The parameters that layers have for themselves, as ``layer.tensor``."""
        return {
            f"{node.name}.{name}": parameter
            for node in self.nodes
            for name, parameter in node.layer.weights(self.sizes(node, 1)).items()
            if name not in node.shared
        }

    def freeze(self, *names: str) -> None:
        """Leave parameters as they are: ``layer.tensor``, or all of a ``layer``. Statistics of norms still follow.

        Raises
        ------
        UserError
            If there is no such layer or parameter.
        """
        known = self._parameters()
        for name in names:
            found = {key for key in known if name in (key, key.rpartition(".")[0])}
            if not found:
                raise unknown("parameter", name, known)
            self.frozen |= found

    def give(self, *names: str) -> None:
        """Let predictions give the outputs of these layers, in this order; no layer needs to read them.

        Raises
        ------
        UserError
            If there is no such layer.
        """
        known = [node.name for node in self.nodes if not isinstance(node.layer, Loss)]
        for name in names:
            if name not in known:
                raise unknown("layer", name, known)
        self._given = tuple(dict.fromkeys(names))

    @property
    def outputs(self) -> tuple[str, ...]:
        if self._given or not self.nodes:
            return self._given
        last = self.nodes[-1]
        return last.inputs[:1] if isinstance(last.layer, Loss) else (last.name,)

    @property
    def output(self) -> str:
        """The name of the layer added last, before there is one of the first input."""
        return self.nodes[-1].name if self.nodes else next(iter(self.inputs))

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

    def ancestors(self, names: Iterable[str]) -> frozenset[str]:
        """The layers, and inputs, that the outputs of the layers ``names`` depend on; these among them."""
        found = set(names)
        for node in reversed(self.nodes):
            if node.name in found:
                found.update(node.inputs)
        return frozenset(found)

    def sizes(self, node: Node, batch: int) -> Shapes:
        """The global shapes around ``node`` for a batch of ``batch`` samples."""
        return Shapes(
            tuple((batch, *self.shapes[source]) for source in node.inputs),
            (batch, *self.shapes[node.name]),
        )

    def check_training(self, batch: int) -> None:
        """Refuse to train on so few samples that a layer has no answer; the `UserError` names the layer."""
        for node in self.nodes:
            try:
                node.layer.check_training(self.sizes(node, batch))
            except UserError as error:
                raise UserError(f"layer {node.name!r}: {error}") from error

    @property
    def parameter_count(self) -> int:
        """The number of trained numbers."""
        return sum(math.prod(p.shape) for key, p in self._parameters().items() if key not in self.frozen)

    def flops(self, batch: int) -> int:
        """The floating-point operations of one forward pass over ``batch`` samples."""
        return sum(node.layer.flops(self.sizes(node, batch)) for node in self.nodes)
