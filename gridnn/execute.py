"""A program on this rank: forward and backward of one batch, with buffers that are made once."""

from __future__ import annotations

from typing import Any

from gridnn.comm.communicator import Pending
from gridnn.comm.layout import Box, box_shape
from gridnn.comm.ledger import Where
from gridnn.comm.mover import Mover, Scratch
from gridnn.grid import Grid
from gridnn.layers.base import Layer, Loss, Shapes
from gridnn.network import INPUT
from gridnn.parameters import Parameters, layer_key
from gridnn.program import Program, Step, group_of

Array = Any


class LocalLayer:
    """One layer on this rank: what `gridnn.layers.base.Local` promises it, and nothing more."""

    def __init__(self, step: Step, grid: Grid, parameters: Parameters, seed: int) -> None:
        self.step, self.grid = step, grid
        self.backend, self.dtype = grid.backend, parameters.dtype
        self.layer: Layer = step.node.layer
        self.shapes: Shapes = step.shapes
        self.input_boxes = tuple(edge.layout.box(grid.index) for edge in step.edges)
        self.output_box: Box = step.output.box(grid.index)
        self.needs_gradient = any(edge.needs_gradient for edge in step.edges)
        # of the ranks that repeat the same work, the first one's numbers are counted
        self.counts = group_of(step.output, step.output.copies, grid.index)[0] == grid.index
        self.parameters = parameters.of(step.name, parameters.values)
        self.final_gradients = parameters.of(step.name, parameters.gradients)
        self.gradients = self.final_gradients
        self.state = parameters.states.get(step.name, {})
        self.training, self.phase, self.saved = True, "forward", {}
        self._seed, self._name = seed, layer_key(step.name)
        self.key: tuple[int, ...] = ()
        self._buffers: dict[str, Array] = {}
        self._groups = {axes: grid.group(step.group(grid.index, axes)) for axes in sorted(self._reduced_axes())}

    def _reduced_axes(self) -> set[tuple[str, ...]]:
        """The axes over which this layer may ask for sums; their communicators are made now, by all ranks together."""
        both = (self.layer.reductions(self.shapes, self.output_box, training) for training in (True, False))
        return {wanted.axes for reductions in both for wanted in reductions}

    def begin(self, training: bool, step: int, micro: int) -> None:
        """Start a forward pass; the numbers name its random numbers."""
        self.training, self.phase = training, "forward"
        self.key = (self._seed, self._name, step, micro)

    def buffer(self, name: str, shape: tuple[int, ...], dtype: Any = None) -> Array:
        """An array that this layer owns; the same one in every step."""
        if name not in self._buffers:
            self._buffers[name] = self.backend.empty(shape, dtype or self.dtype)
        return self._buffers[name]

    def part(self, axis: str) -> int:
        """Which part of ``axis`` this rank has."""
        return self.step.part(self.grid.index, axis)

    def sum(self, array: Array, axes: tuple[str, ...]) -> Array:
        """``array`` summed over the ranks that divide ``axes``, in place."""
        return self._reduce(array, axes, "sum")

    def max(self, array: Array, axes: tuple[str, ...]) -> Array:
        """The maximum of ``array`` over the ranks that divide ``axes``, in place."""
        return self._reduce(array, axes, "max")

    def _reduce(self, array: Array, axes: tuple[str, ...], operation: str) -> Array:
        group = self._groups[axes]
        if group.size > 1:
            group.all_reduce(array, Where(self.step.name, self.phase), operation)
        return array


class Feed:
    """How one tensor reaches its readers on this rank: a transfer into a framed buffer, and the adjoint back."""

    def __init__(self, step: Step, index: int, grid: Grid, scratch: Scratch) -> None:
        edge = step.edges[index]
        frame = step.frame(grid.index, index)
        self.needs_gradient = edge.needs_gradient
        self.source, self.box = edge.source, edge.layout.box(grid.index)
        self.mover = Mover(edge.transfer, grid, step.name, scratch) if edge.transfer else None
        self.framed = any(low or high for low, high in frame)
        self.passes = self.mover is not None and not edge.transfer.stages and not self.framed
        self.readers = 1
        self._backend, self._waiting, self._sum = grid.backend, 0, None
        sizes = [low + size + high for (low, high), size in zip(frame, box_shape(self.box), strict=True)]
        self.inside = tuple(slice(low, low + size) for (low, _), size in zip(frame, box_shape(self.box), strict=True))
        self.array = None if self.passes else grid.backend.full(sizes, step.node.layer.fill, scratch.dtype)

    def load(self, sample: Array) -> None:
        """Fill the buffer with this rank's part of the network's input."""
        self.array[self.inside] = sample

    def forward(self, x: Array) -> None:
        """Bring the producer's output here."""
        if self.passes:
            self.array = x
        else:
            self.mover.forward(x, self.array[self.inside])

    def backward(self, gradient: Array) -> Array | None:
        """Take one reader's gradient; after the last one, the gradient of the producer's output (else None)."""
        self._waiting += 1
        if self.readers > 1:
            if self._sum is None:
                self._sum = self._backend.empty(gradient.shape, gradient.dtype)
            if self._waiting == 1:
                self._sum[...] = gradient
            else:
                self._sum += gradient
            gradient = self._sum
        if self._waiting < self.readers:
            return None
        self._waiting = 0
        return self.mover.adjoint(gradient[self.inside] if self.framed else gradient)


class Executable:
    """A program that runs on this rank.

    Parameters
    ----------
    program : Program
        What is run; its batch is the number of samples of every pass.
    grid : Grid
        This rank's place. All ranks make their executables together.
    parameters : Parameters
        Shared with the executables of other batch sizes.
    seed : int
        Of dropout.
    scratch : Scratch
        What transfers pack into; shared likewise.
    """

    def __init__(self, program: Program, grid: Grid, parameters: Parameters, seed: int, scratch: Scratch) -> None:
        self.program, self.grid, self.parameters, self.backend = program, grid, parameters, grid.backend
        self.layers = [LocalLayer(step, grid, parameters, seed) for step in program.steps]
        self.scratch, self.feeds = scratch, {}
        self.inputs: list[list[Feed]] = [self._feeds(step) for step in program.steps]
        self.outputs: dict[str, Array] = {}
        self._complete: dict[str, list[int]] = {}  # which sums can start after which layer
        for step in program.steps:  # all ranks make these in the same order; their buckets may end at different layers
            for _, layout in step.weights.values():
                grid.group(group_of(layout, layout.copies, grid.index))
        for number, bucket in enumerate(parameters.buckets):
            if grid.group(bucket.members).size > 1:
                self._complete.setdefault(bucket.gradients[-1].layer, []).append(number)
        self._extra: Array | None = None

    def _feeds(self, step: Step) -> list[Feed]:
        feeds = []
        for i in range(len(step.edges)):
            key = step.reading(i)
            if key in self.feeds:
                self.feeds[key].readers += 1
            else:
                self.feeds[key] = Feed(step, i, self.grid, self.scratch)
            feeds.append(self.feeds[key])
        return feeds

    @property
    def input_feeds(self) -> list[Feed]:
        """The buffers that a reader fills before `forward`."""
        return [feed for feed in self.feeds.values() if feed.source == INPUT]

    @property
    def loss(self) -> LocalLayer:
        """The last layer."""
        return self.layers[-1]

    def forward(self, *, training: bool, step: int = 0, micro: int = 0, target: Array | None = None) -> Array:
        """Run all layers on what the input feeds hold.

        Returns
        -------
        array
            This rank's part of the last layer's output; of a loss, its share of (summed loss, right answers).
        """
        fresh: set[int] = set()
        for local, feeds in zip(self.layers, self.inputs, strict=True):
            local.begin(training, step, micro)
            for feed in feeds:
                if feed.source != INPUT and id(feed) not in fresh:
                    feed.forward(self.outputs[feed.source])
                    fresh.add(id(feed))
            if isinstance(local.layer, Loss):
                local.saved["target"] = target
            self.outputs[local.step.name] = local.layer.forward(local, *(feed.array for feed in feeds))
        return self.outputs[self.layers[-1].step.name]

    def backward(self, seed: Any, *, first: bool = True, last: bool = True) -> list[Pending]:
        """Run all layers backwards and start the sums of the weight gradients.

        Parameters
        ----------
        seed : float or array
            The scale of the loss, or the gradient of the last layer's output on this rank.
        first, last : bool
            Whether this is the first and the last part of a batch whose gradients accumulate.

        Returns
        -------
        list of Pending
            To be waited for before `Parameters.gradients` is used.
        """
        if isinstance(self.loss.layer, Loss) and not self.loss.counts:
            seed = 0.0  # a copy: the gradient of the first one is the whole
        gradients: dict[str, list[Array]] = {self.loss.step.name: [seed]}
        sums: list[Pending] = []
        for local, feeds in zip(reversed(self.layers), reversed(self.inputs), strict=True):
            name = local.step.name
            arrived = gradients.pop(name, [])
            if arrived and (local.parameters or local.needs_gradient):
                self._backward(local, feeds, self._total(local, arrived), gradients, first)
            if last:
                sums.extend(self._start(bucket) for bucket in self._complete.get(name, ()))
        return sums

    def _start(self, bucket: int) -> Pending:
        """Start the sum of a bucket that the last layer completed, so that it runs behind the remaining ones."""
        parameters = self.parameters
        described = parameters.buckets[bucket]
        flat = parameters.gradients[parameters.ranges[bucket]]
        return self.grid.group(described.members).start_all_reduce(flat, parameters.shares(described))

    def _backward(self, local: LocalLayer, feeds: list[Feed], gradient: Any, gradients: dict, first: bool) -> None:
        local.phase = "backward"
        local.gradients = local.final_gradients if first else self._scratch(local)
        results = local.layer.backward(local, gradient)
        if not first:
            for name, array in local.gradients.items():
                local.final_gradients[name][...] += array
        for feed, result in zip(feeds, results, strict=True):
            if feed.needs_gradient:
                back = feed.backward(result)
                if back is not None:
                    gradients.setdefault(feed.source, []).append(back)

    def _total(self, local: LocalLayer, arrived: list[Any]) -> Any:
        """The sum of the gradients that came from several readers, in a buffer of its own: readers may share theirs."""
        if len(arrived) == 1:
            return arrived[0]
        total = local.buffer("gradient sum", arrived[0].shape)
        self.backend.xp.add(arrived[0], arrived[1], out=total)
        for array in arrived[2:]:
            total += array
        return total

    def _scratch(self, local: LocalLayer) -> dict[str, Array]:
        """Where a layer writes gradients that are to be added to those of earlier parts of the batch."""
        if self._extra is None:
            self._extra = self.backend.zeros(self.parameters.gradients.shape, self.parameters.dtype)
        return self.parameters.of(local.step.name, self._extra)

    def first_non_finite(self) -> str | None:
        """The first layer with an output that is not finite on some rank; all ranks call it together."""
        finite = [bool(self.backend.to_host(self.backend.xp.isfinite(y).all())) for y in self.outputs.values()]
        for name, everywhere in zip(self.outputs, zip(*self.grid.all.gather_values(finite), strict=True), strict=True):
            if not all(everywhere):
                return name
        return None
