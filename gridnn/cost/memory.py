"""The memory of one rank in a training step, from integers alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from gridnn.cost.rehearsal import Rehearsal
from gridnn.cost.rehearsal_rounds import RehearsalInRounds, rehearse
from gridnn.kernels.backend import WORKSPACE_BYTES
from gridnn.layers.base import Loss
from gridnn.layers.rooms import WIDTHS
from gridnn.layout.layout import box_size
from gridnn.layout.stage import Stage
from gridnn.program.program import Program
from gridnn.units import rounded, wide

STEPS = 6  # after so many at the most, the pool has every block that it needs


@dataclass(frozen=True)
class Peak:
    """The bytes that one rank holds at most in a training step, by what they are for.

    Not counted: what NumPy, a compiled kernel or the MPI library allocates for itself inside of one call.

    Attributes
    ----------
    weights, gradients, states : int
        Trained values, with those that are rounded to 16 bits for products; their gradients; running statistics.
    optimizer : int
        What the optimizer keeps for each weight.
    activations : int
        Outputs, framed inputs, what layers save, gradients of activations, rooms of movements, and gradients of
        weights that are to be added to those of an earlier pass: those that live at once, at the most.
    unused : int
        What the pool of activations holds beyond them: blocks are rounded up, and wait for a request that they fit.
    inputs : int
        The network's input with its frames; input and targets once more as they are read ahead.
    buffers : int
        What movements pack into, and the workspaces of the kernels.
    at : tuple of str
        The layer and the phase in which the activations are at their peak.
    layers : mapping of str to int
        The bytes of ``activations`` by the layer that took them.
    """

    weights: int
    gradients: int
    states: int
    optimizer: int
    activations: int
    unused: int
    inputs: int
    buffers: int
    at: tuple[str, str]
    layers: Mapping[str, int]

    @property
    def pool(self) -> int:
        """What the pool of activations takes from the system."""
        return self.activations + self.unused

    @property
    def terms(self) -> dict[str, int]:
        """The bytes by what they are for."""
        names = ("weights", "gradients", "states", "optimizer", "activations", "unused", "inputs", "buffers")
        return {name: getattr(self, name) for name in names}

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self.terms.values())


def peak(program: Program, index: int, *, itemsize: int = 4, slots: int = 1, accumulate: bool = False) -> Peak:
    """Predict the memory of rank ``index`` in a training step of ``program``.

    Parameters
    ----------
    program : Program
        One pass; of an accumulated batch, the largest.
    index : int
        The rank.
    itemsize : int
        Bytes of an element of the activations; see `gridnn.units.wide` for weights, gradients and the like.
    slots : int
        Arrays that the optimizer keeps like the weights: 1 for momentum, 2 for Adam.
    accumulate : bool
        Whether the gradients of several passes are added up.
    """
    kept, trained = wide(itemsize), _elements(program, index, "weights")
    rehearsal = rehearse(program, index, itemsize)
    account, before = rehearsal.account, -1
    for _ in range(STEPS):
        if account.taken == before:
            break
        before = account.taken
        rehearsal.train()
        if accumulate:
            rehearsal.train(first=False)
    return Peak(
        weights=(kept + rounded(itemsize)) * trained,
        gradients=kept * trained,
        states=kept * _elements(program, index, "states"),
        optimizer=slots * kept * trained,
        activations=account.peak,
        unused=max(0, account.taken - account.peak),
        inputs=_inputs(program, rehearsal, itemsize),
        buffers=itemsize * packing(program, index) + _workspaces(rehearsal, itemsize),
        at=account.at,
        layers=account.layers,
    )


def packing(program: Program, index: int) -> int:
    """The elements that the largest movement of rank ``index`` packs at once."""
    steps = (step for piece in program.pieces for step in piece.steps)
    transfers = (edge.transfer for step in steps for edge in step.edges if edge.transfer)
    return max((_packed(stage, index) for transfer in transfers for stage in transfer.stages), default=0)


def _packed(stage: Stage, index: int) -> int:
    """What the moves of `gridnn.comm.mover` reserve."""
    source, target = box_size(stage.source.box(index)), box_size(stage.target.box(index))
    if stage.kind == "local":
        return 0
    if stage.kind == "all-reduce":
        return target
    if stage.kind in ("neighbours", "all-to-all"):
        pieces = (*stage.sends(index), *stage.receives(index))
        return sum(box_size(piece.box) for piece in pieces if piece.peer != index)
    return source + target


def _elements(program: Program, index: int, kind: str) -> int:
    """The elements of the rank's parts of all ``weights`` or ``states``."""
    tensors = (layout for step in program.steps for _, layout in getattr(step, kind).values())
    return sum(box_size(layout.box(index)) for layout in tensors)


def _inputs(program: Program, rehearsal: Rehearsal | RehearsalInRounds, itemsize: int) -> int:
    """Frames of the network's input, the host's copy without frames, and two batches of targets."""
    size = sum(feed.bytes + wide(itemsize) * math.prod(feed.extents) for feed in rehearsal.inputs)
    loss = program.steps[-1].node.layer
    return size + 2 * loss.target(rehearsal.target).size(itemsize) if isinstance(loss, Loss) else size


def _workspaces(rehearsal: Rehearsal | RehearsalInRounds, itemsize: int) -> int:
    """One workspace for every type that some kernel works in."""
    wanted = {dtype for seat in rehearsal.seats for dtype in seat.rooms.workspaces}
    own = next((name for name in ("float32", "float64") if WIDTHS[name] == itemsize), "16 bits")
    return WORKSPACE_BYTES * len({dtype or own for dtype in wanted})
