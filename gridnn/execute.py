"""A program on this rank: forward and backward of one batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gridnn.comm.communicator import Pending
from gridnn.comm.grid import Grid
from gridnn.comm.packing import Scratch
from gridnn.feed import Feed
from gridnn.graphs import PLAIN, Plain
from gridnn.layers.base import ALONE, Loss
from gridnn.layout.layout import Box
from gridnn.local import LocalLayer
from gridnn.network import INPUT
from gridnn.program.fusion import fused
from gridnn.program.liveness import Liveness
from gridnn.program.program import Program
from gridnn.program.step import Step
from gridnn.runtime.parameters import Parameters, join_groups
from gridnn.seat import Gradients, Seat

Array = Any
Given = Mapping[str, Array] | None


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
    graphs : Plain
        How the pieces of a pass are run; shared likewise.
    """

    def __init__(
        self, program: Program, grid: Grid, parameters: Parameters, seed: int, scratch: Scratch, graphs: Plain = PLAIN
    ) -> None:
        self.program, self.grid, self.parameters, self.backend = program, grid, parameters, grid.backend
        self.graphs = graphs
        self.layers = [LocalLayer(step, grid, parameters, seed) for step in program.steps]
        self.scratch, self.feeds = scratch, {}
        self.seats = [Seat(local, self._feeds(local.step), graphs) for local in self.layers]
        self._fused = fused(program, self.layers) if self.backend.kernels.fuses else {}
        self._fuse()
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

    def _fuse(self, on: bool = True) -> None:
        """Let layers work for their neighbours, or each by itself."""
        for place, what in self._fused.items():
            self.layers[place].fused = what if on else ALONE

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

        def work(target: Array) -> tuple[Array, list[Pending]]:
            result = self.forward(training=True, step=step, micro=micro, target=target)
            return result, self.backward(scale, first=first, last=last)

        return self.graphs.run((self, first, last), work, target)

    def forward(
        self, *, training: bool, step: int = 0, micro: int = 0, target: Array | None = None, given: Given = None
    ) -> Array:
        """Run all layers on what the input feeds hold, and on the outputs ``given`` of layers of another program.

        Returns
        -------
        array
            This rank's part of the last layer's output; of a loss, its share of (summed loss, right answers).
        """
        if training or target is None or given:
            return self._through(training, step, micro, target, given)
        return self.graphs.run((self, "evaluation"), lambda t: self._through(training, step, micro, t, given), target)

    def _through(self, training: bool, step: int, micro: int, target: Array | None, given: Given) -> Array:
        for _ in self._forward(training, step, micro, target, given):
            pass
        self.graphs.between()
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
        local = self.layers[place]
        local.begin("forward" if phase == "evaluation" else phase, **self._pass)
        if isinstance(local.layer, Loss):
            local.saved["target"] = self._target
        self._outputs[local.step.name] = self.seats[place].output(self._outputs)
        if not local.training:
            local.end()
        for feed in self._liveness.feeds(phase, place):
            self.feeds[feed].drop()
        for name in self._liveness.outputs(phase, place):
            del self._outputs[name]
        return local.step.name

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
                seat, local = self.seats[place], self.layers[place]
                arrived = gradients.pop(local.step.name, [])
                if arrived and (local.parameters or local.needs_gradient):
                    seat.backward(seat.total(arrived), gradients, first)
                local.end()
                if last:
                    sums.extend(self._start(bucket) for bucket in self._complete.get(local.step.name, ()))
        self.graphs.between()
        return sums

    def _start(self, bucket: int) -> Pending:
        """Start the sum of a bucket that the last layer completed, so that it runs behind the remaining ones."""
        self.graphs.between()
        parameters = self.parameters
        described = parameters.buckets[bucket]
        flat = parameters.gradients[parameters.ranges[bucket]]
        return self.grid.group(described.members).start_all_reduce(flat, parameters.shares(described))

    # -- afterwards ------------------------------------------------------------------------------------------

    @property
    def target_box(self) -> Box:
        """The part of the targets that this rank compares with: that of the loss's input."""
        return self.loss.input_boxes[0]

    def first_non_finite(self, given: Given = None) -> str | None:
        """The first layer with an output that is not finite on some rank; all ranks call it together.

        The last forward pass is run once more, since its activations are gone; every layer by itself, since an
        activation may hide what made its input infinite.
        """
        finite = {}
        self._fuse(False)
        for name in self._forward(**self._pass, target=self._target, given=given):
            finite[name] = bool(self.backend.to_host(self.backend.xp.isfinite(self._outputs[name]).all()))
        self._fuse()
        ranks = self.grid.all.gather_values(finite)
        return next((name for name in finite if not all(rank[name] for rank in ranks)), None)
