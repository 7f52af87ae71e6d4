"""The memory of one rank in a training step: the arena of its schedule, and what is kept for good."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gridnn.kernels.backend import WORKSPACE_BYTES
from gridnn.layers.base import UNFUSED
from gridnn.layers.computation import ACTIVATION, LayerPart
from gridnn.layout.layout import box_shape, box_size
from gridnn.program.arena import Arena, plan_arena
from gridnn.program.build import build
from gridnn.program.program import Program
from gridnn.program.schedule import WIDTHS, Policy, Schedule
from gridnn.units import rounded, wide


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
        The buffers of the schedule that live at once, at the most: inputs with their ghost zones, outputs, what layers
        save, gradients of activations, messages, and gradients of weights that are to be added to those of an earlier
        pass.
    unused : int
        What the block in which they lie has beyond that.
    inputs : int
        The batch that is read ahead.
    buffers : int
        The workspaces of the kernels.
    at : tuple of str
        The layer and the phase in which the buffers are at their peak.
    layers : mapping of str to int
        The bytes of ``activations`` by layer.
    kinds : mapping of str to int
        And by the kind of buffer.
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
    kinds: Mapping[str, int]

    @property
    def arena(self) -> int:
        """The block in which the buffers of the schedule lie."""
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


def peak(
    program: Program,
    index: int,
    *,
    itemsize: int = 4,
    slots: int = 1,
    accumulate: bool = False,
    policy: Policy | None = None,
) -> Peak:
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
    policy : Policy, optional
        Of the device (`Machine.policy`), with its itemsize; default: a CPU's.
    """
    policy = policy or Policy(itemsize)
    ends = [(True, False), (False, True)] if accumulate else [(True, True)]
    made = [build(program, index, policy, first=first, last=last) for first, last in ends]
    return peak_of(made, slots=slots)


def peak_of(schedules: Sequence[Schedule], *, slots: int = 1) -> Peak:
    """The memory of a rank that runs ``schedules`` one after the other, in one block."""
    arenas = [plan_arena(schedule) for schedule in schedules]
    arena = max(arenas, key=lambda one: one.size)
    program, index, itemsize = arena.schedule.program, arena.schedule.rank, arena.schedule.policy.itemsize
    kept, trained = wide(itemsize), _elements(program, index, "trained")
    at = arena.schedule.operations[min(arena.at, len(arena.schedule.operations) - 1)]
    return Peak(
        weights=(kept + rounded(itemsize)) * _elements(program, index, "weights"),
        gradients=kept * trained,
        states=kept * _elements(program, index, "states"),
        optimizer=slots * kept * trained,
        activations=arena.peak,
        unused=arena.size - arena.peak,
        inputs=_read_ahead(arena.schedule),
        buffers=_workspaces(program, index, itemsize),
        at=(at.layer, at.phase),
        layers=_shares(arena, "layer"),
        kinds=_shares(arena, "kind"),
    )


def _shares(arena: Arena, attribute: str) -> dict[str, int]:
    """The bytes at the peak by layer, or by kind."""
    found: dict[str, int] = {}
    for buffer in arena.living:
        name = getattr(buffer, attribute)
        found[name] = found.get(name, 0) + arena.sizes[buffer.name]
    return {name: size for name, size in found.items() if size}


def _elements(program: Program, index: int, kind: str) -> int:
    """The elements of the rank's parts of all ``weights``, of those ``trained``, or of ``states``."""
    tensors = (layout for placed in program.layers for _, layout in getattr(placed, kind).values())
    return sum(box_size(layout.box(index)) for layout in tensors)


def _read_ahead(schedule: Schedule) -> int:
    """Samples and targets of the next batch, as they are read."""
    itemsize = schedule.policy.itemsize
    size = sum(box_size(part.box) * (WIDTHS.get(part.dtype) or wide(itemsize)) for part in schedule.inputs)
    if schedule.target_box is None:
        return size
    return size + WIDTHS["int64"] * schedule.buffers["target"].elements  # or float64: see `gridnn.train.reader`


def _workspaces(program: Program, index: int, itemsize: int) -> int:
    """One workspace for every type that some kernel works in."""
    own = next((name for name in ("float32", "float64") if WIDTHS[name] == itemsize), "16 bits")
    found: set[str] = set()
    for placed in program.layers:
        boxes = tuple(edge.layout.box(index) for edge in placed.edges)
        part = LayerPart(placed.shapes, boxes, placed.output.box(index), tuple(map(box_shape, boxes)), fused=UNFUSED)
        found.update(placed.node.layer.computation(part).workspaces)
    return WORKSPACE_BYTES * len({own if dtype == ACTIVATION else dtype for dtype in found})
