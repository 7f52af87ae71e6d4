"""What a layer is: local mathematics, and what its split asks of its inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

from gridnn.errors import UserError
from gridnn.layers.computation import WIDE, BufferSpec, Computation, LayerPart, Reduction, words_of
from gridnn.layout.layout import box_shape
from gridnn.layout.partition import Even, Partition, Window, Windowed
from gridnn.layout.split import Split

Shape = tuple[int, ...]
Box = tuple[tuple[int, int], ...]
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


class GlobalSum(NamedTuple):
    """A sum or maximum that a layer asks for in one pass: ``words`` elements over the ranks that divide ``axes``."""

    phase: str
    axes: tuple[str, ...]
    words: int


class Fusion(NamedTuple):
    """What of its neighbours' work a layer does at once with its own, or is spared: see `gridnn.program.fusion`.

    Attributes
    ----------
    activation : str
        The activation that it applies to its output; "none".
    masked : bool
        Whether the reader of that activation wants the mask that ``kernels.linear`` returns.
    applied : bool
        Of an activation: its input is its output already.
    derivative : str
        The activation that made its input, by whose derivative it multiplies the gradient of its input; "none".
    derived : bool
        Of an activation: the gradient of its output is that of its input already.
    """

    activation: str = "none"
    masked: bool = False
    applied: bool = False
    derivative: str = "none"
    derived: bool = False


UNFUSED = Fusion()


class Context(Protocol):
    """What a layer sees of the run: its part of the global index space, and nothing of who has the rest."""

    backend: Any  # xp, kernels
    kernels: Any  # local kernels: backend.kernels
    dtype: Any  # of the activations, and of the weights that products take
    wide: Any  # of sums, gradients of weights, biases and what norms scale by: float32 where dtype has 16 bits
    training: bool
    counts: bool  # False on the ranks that only repeat another one's work: a loss counts nothing there
    key: tuple[int, ...]  # (seed, layer, step, pass): names the random numbers of this layer in this pass
    scale: float  # what the gradient of a loss is multiplied by
    shapes: Shapes  # global
    input_boxes: tuple[tuple[tuple[int, int], ...], ...]  # this rank's part of every input, without ghost zones
    output_box: tuple[tuple[int, int], ...]  # what of the output is computed: this rank's part, or a region of it
    indices: tuple[Any, ...]  # the part in the whole batch: ranges, or an array of places along a dimension
    fused: Fusion
    mask: Any  # of a fused ReLU, in the form of the kernels that made it; see `Fusion.masked`
    parameters: Mapping[str, Array]  # this rank's parts
    parameter_boxes: Mapping[str, Box]  # where these lie in the whole tensors
    gradients: Mapping[str, Array]  # to be overwritten by the tasks that store gradients
    state: Mapping[str, Array]  # kept between steps and in checkpoints (running statistics), updated in place
    result: Array  # [3], float64: a loss adds (summed loss, right answers) to the first two

    def part(self, axis: str) -> int:
        """Which part of ``axis`` this rank has."""

    def workspace(self, dtype: Any = None) -> Array:
        """A flat array for the temporaries of one kernel call, of the activations' type if none is given."""


@dataclass(frozen=True)
class Layer:
    """A layer without its data: frozen, comparable, knows nothing of ranks.

    The defaults below are those of a layer that works element by element. ``n`` is the first axis of every tensor. What
    runs are the methods that `computation` names.
    """

    padding_value: ClassVar[float] = 0.0  # what stands in ghost zones that no rank fills
    bound_by: ClassVar[str] = "memory"  # what bounds its time: "gemm", "conv", or the bytes that it streams
    has_epilogue: ClassVar[bool] = False  # whether it can apply an activation to its output
    is_tiled: ClassVar[bool] = False  # whether forward can compute a region of the output: the interior before a halo
    is_global: ClassVar[bool] = False  # whether it may ask for sums over ranks
    reads_integers: ClassVar[bool] = False  # whether an input may hold integers, such as ids
    activation: ClassVar[str] = "none"  # the one that it is, where another layer can apply it
    memory_passes: ClassVar[tuple[float, float]] = (1.0, 1.0)  # how often forward, backward stream their arrays (CPU)

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

    def extents(self, shapes: Shapes) -> dict[str, int]:
        """The global size of every axis that a split may divide: in the output if it is there, else in the inputs."""
        sizes: dict[str, int] = {}
        for index, shape in reversed(list(enumerate(shapes.inputs))):
            sizes.update(zip(self.input_axes(index, shapes), shape, strict=True))
        return sizes | dict(zip(self.output_axes(shapes), shapes.output, strict=True))

    def axes(self, shapes: Shapes) -> tuple[str, ...]:
        """The axes that a split of this layer may divide; it may name some for itself."""
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

    def computation(self, part: LayerPart) -> Computation:
        """The calls of forward and backward, and the arrays between them."""
        raise NotImplementedError

    def reductions(self, shapes: Shapes, output_box: Box, training: bool) -> list[GlobalSum]:
        """The global sums and maxima of one pass on a rank with this part of the output."""
        if not self.is_global:
            return []
        part = LayerPart(shapes, (output_box,) * len(shapes.inputs), output_box, (box_shape(output_box),), training)
        made = self.computation(part)
        words = {spec.name: words_of(spec) for spec in made.buffers}
        halves = ("forward", made.forward), ("backward", made.backward if training else ())
        calls = ((phase, call) for phase, half in halves for call in half if isinstance(call, Reduction))
        return [GlobalSum(phase, call.axes, words[call.buffer]) for phase, call in calls]

    def check(self, shapes: Shapes, split: Split) -> None:
        """Refuse a split that this layer cannot have.

        Raises
        ------
        UserError
            If an axis is divided that the layer lacks; the text names the axes that it has.
        """
        for axis, parts in split.factors:
            if axis not in self.axes(shapes) and axis != "replicas":
                kind, axes = type(self).__name__, ", ".join(self.axes(shapes))
                raise UserError(f"split {axis}={parts}: a {kind} layer has no axis {axis}; it can divide {axes}")

    def check_training(self, shapes: Shapes) -> None:
        """Refuse to train on so few samples that the layer has no answer; nearly all have one for a single sample.

        Raises
        ------
        UserError
            With the samples that it needs.
        """

    def flops(self, shapes: Shapes) -> int:
        """The floating-point operations of one forward pass over the whole batch."""
        return math.prod(shapes.output)


@dataclass(frozen=True)
class Loss(Layer):
    """The last layer: compares an output with its targets.

    It adds this rank's share of (the sum over samples of the loss, the number of right answers) to ``context.result``,
    counted only on the ranks whose ``context.counts`` is True, so that the sum over all ranks counts every sample once.
    Its tasks read ``target``: the global class of each local sample or place (int64, shape (n,) or (n, *space)), or an
    array like the local input. Backward gives ``context.scale`` times the gradient of the summed loss. Its output shape
    is that of its input; there is no array of it.
    """

    def target(self, shape: Shape) -> BufferSpec:
        """The targets of local inputs of ``shape``: numbers like them."""
        return BufferSpec("target", shape, WIDE)

    def check_target(self, shape: Shape, target: Shape) -> None:
        """Refuse targets of a shape that does not fit local inputs of ``shape``.

        Raises
        ------
        UserError
            With the shape that is needed.
        """
        needed = self.target(shape).shape
        if target != needed:
            raise UserError(
                f"{type(self).__name__}: outputs of shape {shape} need targets of shape {needed}, these have shape "
                f"{target}; for one label a sample let the network end in a vector (Flatten or GlobalAvgPool)"
            )
