"""How one tensor reaches its readers on one rank."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gridnn.comm.grid import Grid
from gridnn.comm.mover import Finish, Mover, done
from gridnn.comm.packing import Scratch
from gridnn.layout.layout import box_shape
from gridnn.network import INPUT
from gridnn.program.step import Step

Array = Any


class Feed:
    """A transfer into a framed array, and its adjoint back; several layers may read the same one.

    Parameters
    ----------
    step, index : Step, int
        The first layer that reads, and which of its inputs this is.
    grid : Grid
        This rank's place.
    scratch : Scratch
        What the transfer packs into.

    Attributes
    ----------
    array : array or None
        What the readers see, from `start` to `drop`. Of the network's input it is always there; a reader fills it.
    readers : int
        How many layers read it.
    alone : bool
        Whether it is brought here, and its gradient back, without other ranks.
    """

    def __init__(self, step: Step, index: int, grid: Grid, scratch: Scratch) -> None:
        edge = step.edges[index]
        frame = step.frame(grid.index, index)
        self.needs_gradient = edge.needs_gradient
        self.source, self.box = edge.source, edge.layout.box(grid.index)
        self.mover = Mover(edge.transfer, grid, step.name, scratch) if edge.transfer else None
        self.framed = any(low or high for low, high in frame)
        self.alone = self.mover is not None and self.mover.alone
        self.passes = self.mover is not None and not edge.transfer.stages and not self.framed
        self.readers = 1
        self._backend, self._dtype, self._fill = grid.backend, scratch.dtype, step.node.layer.fill
        self._waiting, self._sum = 0, None
        extents = box_shape(self.box)
        self.inside = tuple(slice(low, low + size) for (low, _), size in zip(frame, extents, strict=True))
        self._shape = tuple(low + size + high for (low, high), size in zip(frame, extents, strict=True))
        self._slabs = self._padding()
        self.array = grid.backend.full(self._shape, self._fill, self._dtype) if edge.source == INPUT else None

    def load(self, sample: Array) -> None:
        """Fill the array with this rank's part of the network's input."""
        self.array[self.inside] = sample

    def start(self, x: Array, phase: str) -> Finish:
        """Begin to bring the producer's output ``x`` here; the array is complete after the end of the movement."""
        if self.passes:
            self.array = x
            return done
        self.array = self._backend.temporary(self._shape, self._dtype)
        self._backend.kernels.fill(self.array, self._slabs, self._fill)
        return self.mover.start(x, self.array[self.inside], phase)

    def _padding(self) -> list[tuple[slice, ...]]:
        """The border of the array, in slabs."""
        slabs = []
        for axis, (inside, size) in enumerate(zip(self.inside, self._shape, strict=True)):
            for part in (slice(0, inside.start), slice(inside.stop, size)):
                if part.start < part.stop:
                    slabs.append((*(slice(None),) * axis, part))
        return slabs

    def drop(self) -> None:
        """Forget the array; layers that saved it for their backward pass keep it alive."""
        if self.source != INPUT:
            self.array = None

    def start_backward(self, gradient: Array, at_once: bool = True) -> Callable[[], Array] | None:
        """Take one reader's gradient of the array.

        After the last reader's the adjoint begins; its end, which comes next if ``at_once``, gives the gradient of the
        producer's output.
        """
        self._waiting += 1
        if self.readers > 1:
            gradient = self._added(gradient)
        if self._waiting < self.readers:
            return None
        self._waiting, self._sum = 0, None
        return self.mover.start_adjoint(gradient[self.inside] if self.framed else gradient, at_once)

    def _added(self, gradient: Array) -> Array:
        if self._sum is None:
            self._sum = self._backend.temporary(gradient.shape, gradient.dtype)
            self._sum[...] = gradient
        else:
            self._sum += gradient
        return self._sum
