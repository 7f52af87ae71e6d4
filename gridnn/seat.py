"""One layer of a program on this rank, with the arrays that it reads: its work as pieces, and messages between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gridnn.comm.mover import Finish
from gridnn.feed import Feed
from gridnn.graphs import PLAIN, Plain
from gridnn.layers.base import Apart, Partwise
from gridnn.local import LocalLayer
from gridnn.program.step import Region, around

Array = Any
Gradients = dict[str, list[Array]]


class Seat:
    """A layer and its feeds.

    What it asks of this rank alone is a piece of the pass (see `gridnn.graphs`); what lies between runs as ever.

    Parameters
    ----------
    local : LocalLayer
        The layer.
    feeds : sequence of Feed
        What it reads; other seats may read it as well.
    graphs : Plain
        How the pieces are run.
    """

    def __init__(self, local: LocalLayer, feeds: Sequence[Feed], graphs: Plain) -> None:
        self.local, self.feeds, self.graphs = local, feeds, graphs
        # what of the output can be computed while the halo is under way
        overlaps = isinstance(local.layer, Partwise) and feeds[0].mover is not None and feeds[0].mover.flies
        self._interior = local.step.interior(local.grid.index, 0) if overlaps else None

    # -- forward ---------------------------------------------------------------------------------------------

    def output(self, outputs: Mapping[str, Array]) -> Array:
        """The layer's output: the interior while the halo of its input is in flight, then the border.

        Parameters
        ----------
        outputs : mapping
            Those of the layers before it, by name.
        """
        local = self.local
        for feed in self.feeds:
            if feed.array is None and feed.alone:
                feed.array = self._framed(feed, outputs)
                finish = None  # with what the movement before took on its way
            elif feed.array is None:
                self.graphs.between()
                finish = feed.start(outputs[feed.source], local.phase)
                if self._interior is not None:
                    return self._in_pieces(feed.array, self._interior, finish)
                finish()
        return self._made(lambda: local.layer.forward(local, *(feed.array for feed in self.feeds)))

    def _framed(self, feed: Feed, outputs: Mapping[str, Array]) -> Array:
        """What the readers of ``feed`` see, made of what this rank has."""

        def work() -> Array:
            feed.start(outputs[feed.source], self.local.phase)()
            return feed.array

        return self.graphs.piece(self.local.step.name, work, kernels=0 if feed.passes else 1 + feed.framed)

    def _in_pieces(self, x: Array, interior: Region, finish: Finish) -> Array:
        local = self.local

        def inside() -> Array:
            y = local.layer.prepare(local, x)
            local.layer.compute(local, interior, y, x)
            return y

        def outside() -> None:
            for region in around(interior, y.shape):
                local.layer.compute(local, region, y, x)

        y = self._made(inside)
        self.graphs.between()
        finish()
        self._made(outside)
        return y

    def _made(self, work: Callable[[], Any], *, backward: bool = False) -> Any:
        """What the layer computes: a piece of the pass where it is the same in every one."""
        local = self.local
        if self.graphs is PLAIN:
            return work()  # not to ask 2 L times a step what nobody wants to know
        if local.repeats(backward):
            notes = () if backward else (local.saved, local.kept)
            return self.graphs.piece(local.step.name, work, *notes, kernels=local.kernels(backward))
        self.graphs.between()
        return work()

    # -- backward --------------------------------------------------------------------------------------------

    def total(self, arrived: list[Any]) -> Any:
        """The sum of the gradients that came from several readers, in a buffer of its own: readers may share theirs."""
        if len(arrived) == 1:
            return arrived[0]

        def work() -> Array:
            total = self.local.buffer("gradient sum", arrived[0].shape)
            self.local.backend.xp.add(arrived[0], arrived[1], out=total)
            for array in arrived[2:]:
                total += array
            return total

        return self.graphs.piece(self.local.step.name, work, kernels=len(arrived) - 1)

    def backward(self, gradient: Any, gradients: Gradients, first: bool) -> None:
        """The layer's gradients; those of its weights while that of its input is under way.

        Parameters
        ----------
        gradient : float or array
            Of its output; of a loss, the scale.
        gradients : dict
            Where those of its inputs go, by the name of who made them.
        first : bool
            Whether those of its weights replace what is there; otherwise they are added.
        """
        local, feeds = self.local, self.feeds
        local.phase = "backward"
        if not first:  # what is added to the gradients of earlier parts of the batch
            local.gradients = {
                name: local.buffer(name, old.shape, old.dtype) for name, old in local.final_gradients.items()
            }
        layer = local.layer
        if feeds[0].needs_gradient and self._goes_behind(feeds[0]):
            calls = (lambda: layer.backward_input(local, gradient)), (lambda: layer.backward_weights(local, gradient))
            # without a name for the gradient, which must not outlive its packing
            finish = feeds[0].start_backward(self._between(self._made(calls[0], backward=True)), at_once=False)
            self._between(self._made(calls[1], backward=True))
            arrivals = [(feeds[0].source, finish)]
        else:
            results = self._made(lambda: layer.backward(local, gradient), backward=True)
            pairs = zip(feeds, results, strict=True)
            arrivals = ((feed.source, self._returned(feed, dx)) for feed, dx in pairs if feed.needs_gradient)
        for source, finish in arrivals:
            if finish is not None:
                gradients.setdefault(source, []).append(finish())
        if not first:
            self.graphs.piece(local.step.name, self._add, kernels=len(local.gradients))
            local.gradients = local.final_gradients

    def _goes_behind(self, feed: Feed) -> bool:
        """Whether the gradient of the layer's input travels while that of its weights is computed.

        On a CPU those are messages alone: it has no time left for a collective call in another thread.
        """
        if self.local.backend.device is None:
            return isinstance(self.local.layer, Partwise) and feed.mover.flies
        return isinstance(self.local.layer, Apart) and not feed.alone

    def _returned(self, feed: Feed, gradient: Array) -> Callable[[], Array] | None:
        """`Feed.start_backward` of one reader's gradient; a piece where no other rank takes part."""
        if not feed.alone:
            return feed.start_backward(self._between(gradient))

        def work() -> Array | None:
            finish = feed.start_backward(gradient)
            return None if finish is None else finish()

        kernels = (feed.readers > 1) + (not feed.passes)
        result = self.graphs.piece(feed.source, work, kernels=kernels)
        return None if result is None else lambda: result

    def _between(self, value: Any) -> Any:
        """``value``, after the end of a part."""
        self.graphs.between()
        return value

    def _add(self) -> None:
        for name, array in self.local.gradients.items():
            self.local.final_gradients[name][...] += array
