"""A program on this rank: forward and backward of one batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gridnn.comm.communicator import Pending
from gridnn.comm.layout import Box
from gridnn.comm.packing import Scratch
from gridnn.feed import Feed
from gridnn.grid import Grid
from gridnn.layers.base import Loss, Partwise
from gridnn.liveness import Liveness
from gridnn.local import LocalLayer
from gridnn.network import INPUT
from gridnn.parameters import Parameters, join_groups
from gridnn.program import Program
from gridnn.step import Region, Step, around

Array = Any
Given = Mapping[str, Array] | None
Gradients = dict[str, list[Array]]


class Executable:
    """A program that runs on this rank.

    Activations and their gradients live until their last user has run: nobody refers to them then, and the backend
    gives their memory to the next ones.

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
        self._interiors = [self._interior(step, feeds) for step, feeds in zip(program.steps, self.inputs, strict=True)]
        self._liveness = Liveness(program)
        self._outputs: dict[str, Array] = {}
        self._pass: dict[str, Any] = {}  # how forward was called last
        self._target: Array | None = None
        self._complete: dict[str, list[int]] = {}  # which sums can start after which layer
        join_groups(program, grid)
        for number, bucket in enumerate(parameters.buckets):
            if grid.group(bucket.members).size > 1:
                self._complete.setdefault(bucket.gradients[-1].layer, []).append(number)

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

    def _interior(self, step: Step, feeds: list[Feed]) -> Region | None:
        """What of a layer's output can be computed while its halo is under way."""
        overlaps = isinstance(step.node.layer, Partwise) and feeds[0].mover is not None and feeds[0].mover.flies
        return step.interior(self.grid.index, 0) if overlaps else None

    @property
    def input_feeds(self) -> list[Feed]:
        """The arrays that a reader fills before `forward`."""
        return [feed for feed in self.feeds.values() if feed.source == INPUT]

    @property
    def loss(self) -> LocalLayer:
        """The last layer."""
        return self.layers[-1]

    # -- forward ---------------------------------------------------------------------------------------------

    def train(
        self, target: Array, scale: float, *, step: int, micro: int = 0, first: bool = True, last: bool = True
    ) -> tuple[Array, list[Pending]]:
        """Forward and backward of one pass: what `forward` and `backward` give."""
        result = self.forward(training=True, step=step, micro=micro, target=target)
        return result, self.backward(scale, first=first, last=last)

    def forward(
        self, *, training: bool, step: int = 0, micro: int = 0, target: Array | None = None, given: Given = None
    ) -> Array:
        """Run all layers on what the input feeds hold, and on the outputs ``given`` of layers of another program.

        Returns
        -------
        array
            This rank's part of the last layer's output; of a loss, its share of (summed loss, right answers).
        """
        for _ in self._forward(training, step, micro, target, given):
            pass
        return self._outputs.pop(self.loss.step.name)

    def _forward(self, training: bool, step: int, micro: int, target: Array | None, given: Given) -> Iterator[str]:
        """Run all layers, and name each when its output is in ``_outputs``."""
        self._pass, self._target = {"training": training, "step": step, "micro": micro}, target
        self._outputs.clear()
        self._outputs.update(given or {})
        phase = "forward" if training else "evaluation"
        for segment in self.program.segments:
            for place in segment:
                yield self._run(place, phase)
            if training and segment != self.program.segments[-1]:
                for place in segment:
                    self.layers[place].saved.clear()

    def _run(self, place: int, phase: str) -> str:
        """Run one layer; drop what it was the last one to read."""
        local, feeds = self.layers[place], self.inputs[place]
        local.begin("forward" if phase == "evaluation" else phase, **self._pass)
        if isinstance(local.layer, Loss):
            local.saved["target"] = self._target
        self._outputs[local.step.name] = self._output(place, local, feeds)
        if not local.training:
            local.end()
        for feed in self._liveness.feeds(phase, place):
            self.feeds[feed].drop()
        for name in self._liveness.outputs(phase, place):
            del self._outputs[name]
        return local.step.name

    def _output(self, place: int, local: LocalLayer, feeds: list[Feed]) -> Array:
        """One layer's output: the interior while the halo of its input is in flight, then the border."""
        interior = self._interiors[place]
        for feed in feeds:
            if feed.array is None:
                finish = feed.start(self._outputs[feed.source], local.phase)
                if interior is not None:
                    return self._in_pieces(local, feed.array, interior, finish)
                finish()
        return local.layer.forward(local, *(feed.array for feed in feeds))

    @staticmethod
    def _in_pieces(local: LocalLayer, x: Array, interior: Region, finish: Any) -> Array:
        y = local.layer.prepare(local, x)
        local.layer.compute(local, interior, y, x)
        finish()
        for region in around(interior, y.shape):
            local.layer.compute(local, region, y, x)
        return y

    # -- backward --------------------------------------------------------------------------------------------

    def backward(
        self, seed: Any, *, first: bool = True, last: bool = True, gradients: Gradients | None = None
    ) -> list[Pending]:
        """Run all layers backwards and start the sums of the weight gradients.

        Parameters
        ----------
        seed : float or array
            The scale of the loss, or the gradient of the last layer's output on this rank.
        first, last : bool
            Whether this is the first and the last part of a batch whose gradients accumulate.
        gradients : dict, optional
            Where the gradients of ``given`` outputs go.

        Returns
        -------
        list of Pending
            To be waited for before `Parameters.gradients` is used.
        """
        if isinstance(self.loss.layer, Loss) and not self.loss.counts:
            seed = 0.0  # a copy: the gradient of the first one is the whole
        gradients = {} if gradients is None else gradients
        gradients[self.loss.step.name] = [seed]
        sums: list[Pending] = []
        for segment in reversed(self.program.segments):
            if segment != self.program.segments[-1]:
                for place in segment:
                    self._run(place, "recompute")
            for place in reversed(segment):
                local, arrived = self.layers[place], gradients.pop(self.layers[place].step.name, [])
                if arrived and (local.parameters or local.needs_gradient):
                    self._backward(local, self.inputs[place], self._total(local, arrived), gradients, first)
                local.end()
                if last:
                    sums.extend(self._start(bucket) for bucket in self._complete.get(local.step.name, ()))
        return sums

    def _start(self, bucket: int) -> Pending:
        """Start the sum of a bucket that the last layer completed, so that it runs behind the remaining ones."""
        parameters = self.parameters
        described = parameters.buckets[bucket]
        flat = parameters.gradients[parameters.ranges[bucket]]
        return self.grid.group(described.members).start_all_reduce(flat, parameters.shares(described))

    def _backward(self, local: LocalLayer, feeds: list[Feed], gradient: Any, gradients: dict, first: bool) -> None:
        """One layer's gradients; those of its weights while the halo sum of its input's is in flight."""
        local.phase = "backward"
        if not first:  # what is added to the gradients of earlier parts of the batch
            local.gradients = {name: local.buffer(name, old.shape) for name, old in local.final_gradients.items()}
        layer, mover = local.layer, feeds[0].mover
        if isinstance(layer, Partwise) and feeds[0].needs_gradient and mover.flies:
            finish = feeds[0].start_backward(layer.backward_input(local, gradient))
            layer.backward_weights(local, gradient)
            arrivals = [(feeds[0].source, finish)]
        else:
            results = layer.backward(local, gradient)
            pairs = zip(feeds, results, strict=True)
            arrivals = ((feed.source, feed.start_backward(dx)) for feed, dx in pairs if feed.needs_gradient)
        for source, finish in arrivals:
            if finish is not None:
                gradients.setdefault(source, []).append(finish())
        if not first:
            for name, array in local.gradients.items():
                local.final_gradients[name][...] += array
            local.gradients = local.final_gradients

    def _total(self, local: LocalLayer, arrived: list[Any]) -> Any:
        """The sum of the gradients that came from several readers, in a buffer of its own: readers may share theirs."""
        if len(arrived) == 1:
            return arrived[0]
        total = local.buffer("gradient sum", arrived[0].shape)
        self.backend.xp.add(arrived[0], arrived[1], out=total)
        for array in arrived[2:]:
            total += array
        return total

    # -- afterwards ------------------------------------------------------------------------------------------

    @property
    def target_box(self) -> Box:
        """The part of the targets that this rank compares with: that of the loss's input."""
        return self.loss.input_boxes[0]

    def first_non_finite(self, given: Given = None) -> str | None:
        """The first layer with an output that is not finite on some rank; all ranks call it together.

        The last forward pass is run once more, since its activations are gone.
        """
        finite = {}
        for name in self._forward(**self._pass, target=self._target, given=given):
            finite[name] = bool(self.backend.to_host(self.backend.xp.isfinite(self._outputs[name]).all()))
        ranks = self.grid.all.gather_values(finite)
        return next((name for name in finite if not all(rank[name] for rank in ranks)), None)
