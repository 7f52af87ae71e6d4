"""A step of one rank as data: operations on named buffers, in the order in which they run.

Everything that is to be known of a step is read off this list: it is run (`gridnn.runtime.executable`), counted
(`gridnn.cost.count`), its memory is planned (`gridnn.program.arena`), its seconds are predicted
(`gridnn.cost.timeline`), and it is printed (`gridnn.program.show`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from gridnn.layers.computation import ACTIVATION, WIDE, BufferSpec, Index, Shape, Task
from gridnn.layout.counts import Count
from gridnn.layout.group import Group
from gridnn.layout.layout import Box
from gridnn.layout.stage import Stage
from gridnn.network import Shared
from gridnn.units import wide

if TYPE_CHECKING:
    from gridnn.program.program import Program
    from gridnn.program.section import Section

WIDTHS = {"bool": 1, "uint8": 1, "uint32": 4, "int64": 8, "float32": 4, "float64": 8}  # bytes
KINDS = ("input", "ghosted", "activation", "saved", "gradient", "message", "workspace")


@dataclass(frozen=True)
class Policy:
    """How a device runs a schedule; pricing for a device uses the device's.

    Attributes
    ----------
    itemsize : int
        Bytes of an element of the activations.
    alignment : int
        Bytes, of which every buffer's offset is a multiple.
    fuses : bool
        Whether products apply the activations after them.
    overlaps_collectives : bool
        Whether collective operations of a layer's input gradient run behind its weight gradient; messages to
        neighbours and sums of weight gradients always do.
    """

    itemsize: int = 4
    alignment: int = 64
    fuses: bool = False
    overlaps_collectives: bool = False


def cpu_policy(itemsize: int = 4) -> Policy:
    """Of ranks that compute on cores: a collective operation would need a core for itself."""
    return Policy(itemsize)


def gpu_policy(itemsize: int = 4) -> Policy:
    """Of ranks that compute on a GPU: what moves has a stream of its own, and kernels have epilogues."""
    return Policy(itemsize, alignment=512, fuses=True, overlaps_collectives=True)


class Buffer(NamedTuple):
    """An array of a schedule.

    Attributes
    ----------
    name : str
        Unique in the schedule.
    shape : tuple of int
        Local.
    dtype : str
        "activation", "wide" (float32 where activations have 16 bits), or a type.
    kind : str
        One of `KINDS`.
    layer : str
        Whose it is.
    base, region
        Of a view: the buffer in which it lies, and ``base[region]`` (None: all of it), reshaped.
    """

    name: str
    shape: Shape
    dtype: str
    kind: str
    layer: str
    base: str | None = None
    region: Index | None = None

    @property
    def elements(self) -> int:
        """How many it has."""
        return math.prod(self.shape)

    def width(self, itemsize: int) -> int:
        """Bytes of an element, where an activation has ``itemsize``."""
        if self.dtype == ACTIVATION:
            return itemsize
        return wide(itemsize) if self.dtype == WIDE else WIDTHS[self.dtype]

    def bytes(self, itemsize: int) -> int:
        """Its bytes, where an activation has ``itemsize``."""
        return self.elements * self.width(itemsize)


def saved_bytes(spec: BufferSpec, itemsize: int) -> int:
    """The bytes of an array that a layer declares."""
    return Buffer(spec.name, spec.shape, spec.dtype, "saved", "").bytes(itemsize)


@dataclass(frozen=True)
class Operation:
    """One entry of a schedule (abstract); ``reads`` and ``writes`` are names of buffers."""

    layer: str
    phase: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]


@dataclass(frozen=True)
class Compute(Operation):
    """A call of a layer: ``task`` with ``arrays``, all of its buffers in the order of the call.

    Attributes
    ----------
    task : Task
        What the layer's `Computation` says of it.
    arrays : tuple of str
        Reads, then writes.
    place : int
        The layer's place in its section.
    section : int
        Which run of a section with other samples: 0, or 1 to K for the microbatches of SplitBrain.
    gradients : tuple of (parameter, buffer)
        Where the gradients of its parameters go, if not to the flat array of all of them.
    region : tuple of slice, optional
        The part of the output that it computes; None: all of it.
    half : str
        "forward", "input" or "weights": which of the layer's three products it is, for its cost.
    """

    task: Task
    arrays: tuple[str, ...]
    place: int
    section: int = 0
    gradients: tuple[tuple[str, str], ...] = ()
    region: Index | None = None
    half: str = "forward"


@dataclass(frozen=True)
class Fill(Operation):
    """``value`` into ghost zones that no rank fills, given as slabs."""

    value: float
    slabs: tuple[Index, ...]


@dataclass(frozen=True)
class Copy(Operation):
    """``writes[0][...] = reads[0][index]``; its adjoint writes zeros, and ``reads[0]`` to ``writes[0][index]``."""

    index: Index
    adjoint: bool = False


@dataclass(frozen=True)
class Add(Operation):
    """The sum of all reads, in ``writes[0]``, which may be the first of them."""


class Sum(NamedTuple):
    """To whose gradient an array is added, or of whose it is the first part."""

    whose: Shared
    is_first: bool


@dataclass(frozen=True)
class Accumulate(Operation):
    """Add gradients, the reads, to what earlier passes, or other layers with the same parameters, gave."""

    targets: tuple[Sum, ...]


class StageMovement(NamedTuple):
    """One call between ranks: ``stage`` of a transfer, or its adjoint.

    Attributes
    ----------
    kind : str
        all-gather, reduce-scatter, all-reduce, all-to-all, neighbours.
    members : Group or None
        The ranks of the group; None: neighbours.
    entries : tuple of (layer, Count)
        The words and messages of this rank, and to whose account they go.
    """

    kind: str
    members: Group | None
    entries: tuple[tuple[str, Count], ...]
    stage: Stage
    adjoint: bool


class GroupSum(NamedTuple):
    """One call between ranks: a sum or maximum over a group; the first fields are those of `StageMovement`.

    Attributes
    ----------
    kind : str
        all-reduce; "started all-reduce" for weight gradients.
    purpose : str
        "reduction" (a sum that a layer asks for), "gradients" (a bucket) or "loss".
    operation : str
        "sum" or "max".
    number : int
        Of a bucket.
    """

    kind: str
    members: Group
    entries: tuple[tuple[str, Count], ...]
    purpose: str
    operation: str = "sum"
    number: int = 0


Movement = StageMovement | GroupSum


@dataclass(frozen=True)
class Begin(Operation):
    """The start of a movement: pack what is sent, and ask for it."""

    movement: Movement
    number: int


@dataclass(frozen=True)
class End(Operation):
    """The end of the movement that `Begin` of this number started: wait, and unpack."""

    movement: Movement
    number: int


@dataclass(frozen=True)
class Load(Operation):
    """This rank's boxes of the samples, and of the targets if there are any (the last write then)."""


@dataclass(frozen=True)
class Update(Operation):
    """The update of all parameters."""


class InputPart(NamedTuple):
    """What of an input of the network a rank reads: the box of the whole batch, and the type of its array."""

    source: str
    box: Box
    dtype: str


@dataclass(frozen=True)
class Schedule:
    """What one rank does in one pass over one batch or microbatch.

    Attributes
    ----------
    program : Program
        What was compiled.
    rank : int
        Its place in the grid, counted down the columns.
    policy : Policy
        Of the device.
    kind : str
        "training", "evaluation" or "prediction".
    operations : tuple of Operation
        In the order in which they run.
    buffers : mapping of str to Buffer
        By name.
    inputs : tuple of InputPart
        What of the samples the writes of `Load` hold, one after the other.
    target_box : Box or None
        What of the targets.
    outputs : mapping of str to str
        Of a prediction, or a program without a loss: the buffers with what it gives, by layer.
    seed : str or None
        Of a training pass without a loss: where the gradient of that output is loaded.
    sections : tuple of Section
        Its layers: all of them, or with microbatches those before the stack, and the stack in each.
    """

    program: Program
    rank: int
    policy: Policy
    kind: str
    operations: tuple[Operation, ...]
    buffers: Mapping[str, Buffer] = field(repr=False)
    inputs: tuple[InputPart, ...] = ()
    target_box: Box | None = None
    outputs: Mapping[str, str] = field(default_factory=dict)
    seed: str | None = None
    sections: tuple[Section, ...] = ()

    def root(self, name: str) -> Buffer:
        """The buffer in whose memory ``name`` lies."""
        buffer = self.buffers[name]
        while buffer.base is not None:
            buffer = self.buffers[buffer.base]
        return buffer
