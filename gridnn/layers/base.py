"""What a layer is: local mathematics, and what its split asks of its inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

from gridnn.errors import UserError
from gridnn.layers.rooms import Part, Room, Rooms, usual
from gridnn.layout.partition import Even, Partition, Window, Windowed
from gridnn.layout.split import Split

Shape = tuple[int, ...]
Array = Any
SPACE_AXES = ("d", "h", "w")
SPACE = {2: (), 3: ("w",), 4: ("h", "w"), 5: SPACE_AXES}


def tensor_axes(ndim: int, channel: str) -> tuple[str, ...]:
    """The axes of a batch of samples: ``n``, then space, then the channel (NHWC)."""
    return ("n", *SPACE[ndim], channel)


class Cut(NamedTuple):
    """One dimension of a tensor: the axis of the split that divides it (None: nobody), and how."""

    axis: str | None
    partition: Partition


class Shapes(NamedTuple):
    """The global shapes of one layer's inputs and output, the batch included."""

    inputs: tuple[Shape, ...]
    output: Shape


class Parameter(NamedTuple):
    """A trained tensor: its global shape, the split axis of each dimension, and its first value.

    ``fan_in`` set: uniform in +-gain sqrt(3 / fan_in), so that their variance is gain**2 / fan_in for the global fan-in
    (gain sqrt(2) keeps the scale through ReLUs, He et al. 2015); otherwise ``value``.
    """

    shape: Shape
    axes: tuple[str | None, ...]
    fan_in: int | None = None
    gain: float = math.sqrt(2.0)
    value: float = 0.0


class Reduction(NamedTuple):
    """A global sum or maximum that a layer asks for in one step: ``words`` elements over the ranks of ``axes``."""

    phase: str
    axes: tuple[str, ...]
    words: int


class Fused(NamedTuple):
    """What of its neighbours' work a layer does at once with its own, or is spared: see `gridnn.program.fusion`.

    Attributes
    ----------
    activation : str
        The activation that it applies to its output; "none".
    masked : bool
        Whether the reader of that activation wants the mask that `gridnn.arrays.linear.Linear.linear` returns.
    applied : bool
        Of an activation: its input is its output already.
    derivative : str
        The activation that made its input, by whose derivative it multiplies the gradient of its input; "none".
    derived : bool
        Of an activation: the gradient of its output is that of its input already.
    maker : Local or None
        With ``derivative``: the layer that applied that activation; its mask is ``maker.saved["mask"]``.
    """

    activation: str = "none"
    masked: bool = False
    applied: bool = False
    derivative: str = "none"
    derived: bool = False
    maker: Any = None


ALONE = Fused()


class Local(Protocol):
    """What a layer sees of the run: its part of the global index space, and nothing of who has the rest."""

    backend: Any  # arrays.Backend: xp, kernels, uniform
    dtype: Any  # of the activations, and of the weights that products take
    wide: Any  # of sums, gradients of weights, biases and what norms scale by: float32 where dtype has 16 bits
    training: bool
    counts: bool  # False on the ranks that only repeat another one's work: a loss counts nothing there
    needs_gradient: bool  # whether anybody asks for the gradient of the input
    key: tuple[int, ...]  # (seed, layer, step): names the random numbers of this layer in this step
    shapes: Shapes  # global
    input_boxes: tuple[tuple[tuple[int, int], ...], ...]  # this rank's part of every input, without frames
    output_box: tuple[tuple[int, int], ...]  # this rank's part of the output
    indices: tuple[Any, ...]  # the same in the whole batch: ranges, or an array of places along a dimension
    saved: dict[str, Any]  # from forward to backward; emptied after backward, or after forward outside training
    kept: dict[str, Any]  # small results of forward (statistics) that last until backward even where it is recomputed
    fused: Fused
    recomputing: bool  # forward runs a second time: take statistics from ``kept``, ask for no sum, update no state
    parameters: Mapping[str, Array]  # this rank's parts
    gradients: Mapping[str, Array]  # to be overwritten by backward
    state: Mapping[str, Array]  # kept between steps and in checkpoints (running statistics), updated in place

    def buffer(self, name: str, shape: Shape, dtype: Any = None) -> Array:
        """A fresh array with arbitrary contents, which lives as long as somebody refers to it."""

    def part(self, axis: str) -> int:
        """Which part of ``axis`` this rank has."""

    def sum(self, array: Array, axes: tuple[str, ...]) -> Array:
        """``array`` summed over the ranks that divide ``axes``; in place, and returned."""

    def max(self, array: Array, axes: tuple[str, ...]) -> Array:
        """The maximum of ``array`` over the ranks that divide ``axes``; in place, and returned."""


@dataclass(frozen=True)
class Layer:
    """A layer without its data: frozen, comparable, knows nothing of ranks.

    The defaults below are those of a layer that works element by element. ``n`` is the first axis of every tensor.
    """

    fill: ClassVar[float] = 0.0  # what stands in the padding
    work: ClassVar[str] = "memory"  # what bounds its time: "gemm", "conv", or the bytes that it streams
    finishes: ClassVar[bool] = False  # whether it can apply an activation to its output
    draws: ClassVar[bool] = False  # whether training takes random numbers, other ones in every step
    activation: ClassVar[str] = "none"  # the one that it is, where another layer can apply it
    passes: ClassVar[tuple[float, float]] = (1.0, 1.0)  # times that forward, backward stream their arrays, on a CPU

    def infer(self, *shapes: Shape) -> Shape:
        """The output's shape per sample from the inputs' shapes per sample.

        Raises
        ------
        UserError
            If the layer does not fit these inputs; the text is an equation with values.
        """
        return shapes[0]

    def input_axes(self, index: int, shapes: Shapes) -> tuple[str, ...]:
        """The axis of every dimension of input ``index``."""
        return tensor_axes(len(shapes.inputs[index]), "co")

    def output_axes(self, shapes: Shapes) -> tuple[str, ...]:
        """The axis of every dimension of the output."""
        return tensor_axes(len(shapes.output), "co")

    def axes(self, shapes: Shapes) -> tuple[str, ...]:
        """The axes that a split of this layer may divide."""
        return tuple(dict.fromkeys((*self.output_axes(shapes), *self.contracted(shapes))))

    def multiplies(self, shapes: Shapes) -> bool:
        """Whether it multiplies by weights, as a linear layer or a convolution does; a norm only scales by them."""
        return any(parameter.fan_in for parameter in self.weights(shapes).values())

    def contracted(self, shapes: Shapes) -> tuple[str, ...]:
        """The axes of the inputs that the output lacks: divided, they leave partial sums."""
        return tuple(axis for axis in self.input_axes(0, shapes) if axis not in self.output_axes(shapes))

    def windows(self, shapes: Shapes) -> dict[str, Window]:
        """The sliding window over each spatial axis that has one."""
        return {}

    def cut_output(self, shapes: Shapes, split: Split) -> tuple[Cut, ...]:
        """How ``split`` cuts the output: evenly."""
        axes = self.output_axes(shapes)
        return tuple(Cut(a, Even(size, split.parts(a))) for a, size in zip(axes, shapes.output, strict=True))

    def cut_input(self, index: int, shapes: Shapes, split: Split) -> tuple[Cut, ...]:
        """How input ``index`` must be cut so that every rank can compute its part of the output."""
        outputs = {cut.axis: cut.partition for cut in self.cut_output(shapes, split)}
        windows = self.windows(shapes)
        cuts = []
        for axis, size in zip(self.input_axes(index, shapes), shapes.inputs[index], strict=True):
            partition = outputs.get(axis) or Even(size, split.parts(axis))
            cuts.append(Cut(axis, Windowed.of(partition, windows[axis], size) if axis in windows else partition))
        return tuple(cuts)

    def weights(self, shapes: Shapes) -> dict[str, Parameter]:
        """The trained tensors by name."""
        return {}

    def states(self, shapes: Shapes) -> dict[str, Parameter]:
        """The tensors that are kept but not trained (running statistics) by name."""
        return {}

    def reductions(self, shapes: Shapes, output_box: tuple[tuple[int, int], ...], training: bool) -> list[Reduction]:
        """The global sums that one step asks for on a rank with this part of the output."""
        return []

    def check(self, shapes: Shapes, split: Split) -> None:
        """Refuse a split that this layer cannot have.

        Raises
        ------
        UserError
            If an axis is divided that the layer lacks; the text names the axes that it has.
        """
        for axis, parts in split.factors:
            if axis not in self.axes(shapes) and axis != "copies":
                kind, axes = type(self).__name__, ", ".join(self.axes(shapes))
                raise UserError(f"split {axis}={parts}: a {kind} layer has no axis {axis}; it can divide {axes}")

    def flops(self, shapes: Shapes) -> int:
        """The floating-point operations of one forward pass over the whole batch."""
        return math.prod(shapes.output)

    def rooms(self, part: Part) -> Rooms:
        """The arrays that forward and backward take, and what lives between: an output and a gradient, nothing kept."""
        return usual(part)

    def forward(self, local: Local, *inputs: Array) -> Array:
        """This rank's part of the output from framed local inputs."""
        raise NotImplementedError

    def backward(self, local: Local, gradient: Array) -> tuple[Array | None, ...]:
        """The gradients of the framed local inputs; overwrites ``local.gradients``.

        ``local.needs_gradient`` is False where nobody asks for them (the first layer): then None may be returned.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Apart(Layer):
    """A layer with one input whose two gradients are computed apart (abstract).

    So that of the weights is computed while that of the input is under way.
    """

    def backward_input(self, local: Local, gradient: Array) -> Array | None:
        """The gradient of the framed input, or None where nobody asks for it."""
        raise NotImplementedError

    def backward_weights(self, local: Local, gradient: Array) -> None:
        """Overwrite ``local.gradients``."""

    def backward(self, local: Local, gradient: Array) -> tuple[Array | None, ...]:
        dx = self.backward_input(local, gradient)
        self.backward_weights(local, gradient)
        return (dx,)


@dataclass(frozen=True)
class Partwise(Apart):
    """A layer whose output can be computed in pieces as well (abstract): the interior while halos are under way."""

    def prepare(self, local: Local, *inputs: Array) -> Array:
        """Allocate the output, and remember what backward needs; the frames of the inputs may be incomplete still."""
        raise NotImplementedError

    def compute(self, local: Local, region: tuple[slice, ...], y: Array, *inputs: Array) -> None:
        """Write ``y[region]``.

        Parameters
        ----------
        region : tuple of slice
            One per dimension of ``y``, in local coordinates; samples and channels whole.
        y : array
            What ``prepare`` gave.
        inputs : arrays
            The frames; what the windows of ``region`` reach must be there.
        """
        raise NotImplementedError

    def forward(self, local: Local, *inputs: Array) -> Array:
        y = self.prepare(local, *inputs)
        self.compute(local, tuple(slice(0, size) for size in y.shape), y, *inputs)
        return y


@dataclass(frozen=True)
class Loss(Layer):
    """The last layer: compares an output with its targets.

    ``forward`` gives a float64 array of two elements, this rank's share of (the sum over samples of the loss, the
    number of right answers), counted only on the ranks whose ``local.counts`` is True, so that the sum over all ranks
    counts every sample once. ``local.saved["target"]`` holds this rank's targets: the global class of each local
    sample or place (int64, shape (n,) or (n, *space)), or an array like the local input. ``backward(local, scale)``
    gives ``scale`` times the gradient of the summed loss. Its ``output`` shape is that of its input.
    """

    def target(self, shape: Shape) -> Room:
        """The targets of local inputs of ``shape``: numbers like them."""
        return Room("target", shape, "wide")

    def backward(self, local: Local, scale: float) -> tuple[Array]:
        raise NotImplementedError
