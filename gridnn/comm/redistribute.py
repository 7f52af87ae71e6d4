"""Arrays moved between layouts, and back by the adjoint: the ground floor for whoever has arrays of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gridnn.comm.grid import Grid
from gridnn.comm.ledger import Where
from gridnn.comm.requests import Arrays, bind_copy, bind_stage
from gridnn.layout.layout import Layout, box_shape, within
from gridnn.layout.messages import call_kind, message_dtype, message_sizes
from gridnn.layout.stage import Stage
from gridnn.layout.transfer import plan_transfer

Array = Any


class Transfer:
    """The movement of a tensor from one layout to another, planned once; all ranks make it together.

    Parameters
    ----------
    grid : Grid
        The ranks.
    source, target : Layout
        Who holds which box before and after. ``source`` may have partial sums.
    dtype : str
        Of the arrays.
    layer : str
        To whose account it goes in the grid's ledger.
    full_sum : bool
        Whether the adjoint of an all-gather is the all-reduce of Gholami et al. 2018, eq (8).
    halo : str
        How halos over several dimensions are exchanged: "auto", "direct" or "stepwise".

    Raises
    ------
    UserError
        If the layouts are of different tensors or different numbers of ranks.
    """

    def __init__(
        self,
        grid: Grid,
        source: Layout,
        target: Layout,
        dtype: str = "float64",
        *,
        layer: str = "transfer",
        full_sum: bool = False,
        halo: str = "auto",
    ) -> None:
        self.grid, self.layer = grid, layer
        self.plan = plan_transfer(source, target, grid.shape.rows, full_sum, halo)
        self.source, self.target = source.box(grid.index), target.box(grid.index)
        backend = grid.backend
        self._dtype = backend.dtype(dtype)
        make = backend.empty
        held = [self.source, *(stage.target.box(grid.index) for stage in self.plan.stages)]
        self._forward = [make(box_shape(box), self._dtype) for box in held]
        self._backward = [make(array.shape, self._dtype) for array in self._forward]
        stages = list(enumerate(self.plan.stages))
        self._calls = [self._bound(stage, False, *self._forward[n : n + 2]) for n, stage in stages]
        self._back = [self._bound(stage, True, *self._backward[n : n + 2][::-1]) for n, stage in reversed(stages)]

    def forward(self, x: Array) -> Array:
        """This rank's box of the target from its box ``x`` of the source; valid until the next call."""
        return self._run(x, self._forward[0], self._calls, self._forward[-1])

    def backward(self, y: Array) -> Array:
        """The adjoint: this rank's box of the source from its box ``y`` of the target; valid until the next call."""
        return self._run(y, self._backward[-1], self._back, self._backward[0])

    @staticmethod
    def _run(given: Array, first: Array, calls: list[Callable[[], None]], last: Array) -> Array:
        first[...] = given
        for call in calls:
            call()
        return last

    def _bound(self, stage: Stage, adjoint: bool, source: Array, out: Array) -> Callable[[], None]:
        grid, backend = self.grid, self.grid.backend
        if stage.kind == "local":
            inside = within(stage.target.box(grid.index), stage.source.box(grid.index))
            return bind_copy(source, out, inside, adjoint)
        full_sum = self.plan.full_sum
        wide = message_dtype(call_kind(stage, adjoint, full_sum)) == "wide"
        dtype = backend.wide(self._dtype) if wide else self._dtype
        sizes = message_sizes(stage, grid.index, adjoint, full_sum)
        send, receive = (backend.empty((size,), dtype) for size in sizes)
        where = Where(self.layer, "backward" if adjoint else "forward")
        request = bind_stage(stage, adjoint, full_sum, grid, Arrays(source, out, send, receive), where)
        return lambda: (request.begin(), request.end())
