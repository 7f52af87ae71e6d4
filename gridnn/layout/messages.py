"""The memory of a stage's messages, and its words: what `Begin` and `End` of a schedule are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gridnn.layout.counts import SUMS
from gridnn.layout.layout import Box, box_size
from gridnn.layout.stage import ADJOINTS, Piece, Stage


class Exchange(NamedTuple):
    """What a rank gives to others, and takes from them, in a stage of messages; ``kept`` stays on this rank."""

    gives: list[Piece]
    takes: list[Piece]
    kept: list[Box]


def call_kind(stage: Stage, adjoint: bool, full_sum: bool) -> str:
    """The call that runs a stage, or its adjoint."""
    if adjoint and full_sum and stage.kind == "all-gather":
        return "all-reduce"
    return ADJOINTS.get(stage.kind, stage.kind) if adjoint else stage.kind


def exchange(stage: Stage, index: int) -> Exchange:
    """The messages of rank ``index``: with an all-to-all one for every member, perhaps empty."""
    gives, takes = list(stage.sends(index)), list(stage.receives(index))
    kept = [piece.box for piece in takes if piece.peer == index]  # one box, or none
    gives, takes = ([p for p in pieces if p.peer != index] for pieces in (gives, takes))
    if stage.kind == "all-to-all":
        members = stage.members(index)
        gives = _for_all(members, gives, stage.source.box(index))
        takes = _for_all(members, takes, stage.target.box(index))
    return Exchange(gives, takes, kept)


def _for_all(members: Sequence[int], pieces: Sequence[Piece], outer: Box) -> list[Piece]:
    boxes = {piece.peer: piece.box for piece in pieces}
    nothing = tuple((start, start) for start, _ in outer)
    return [Piece(member, boxes.get(member, nothing)) for member in members]


def message_sizes(stage: Stage, index: int, adjoint: bool, full_sum: bool) -> tuple[int, int]:
    """The elements that rank ``index`` packs to send, and to receive; a sum in place has one array, the first."""
    source, target = box_size(stage.source.box(index)), box_size(stage.target.box(index))
    kind = call_kind(stage, adjoint, full_sum)
    if kind == "all-reduce":
        return target, 0
    if kind in ("neighbours", "all-to-all"):
        moved = exchange(stage, index)
        sizes = [sum(box_size(piece.box) for piece in pieces) for pieces in (moved.gives, moved.takes)]
        return (sizes[1], sizes[0]) if adjoint else (sizes[0], sizes[1])
    return (target, source) if adjoint else (source, target)


def message_dtype(kind: str) -> str:
    """The type of the messages of a call, as a buffer names it: 16-bit numbers are summed in float32."""
    return "wide" if kind in SUMS else "activation"


def is_stacked(stage: Stage, kind: str) -> bool:
    """Whether the parts that a stage joins or divides lie one behind the other in the whole, in the members' order."""
    if kind not in ADJOINTS or stage.source.dims[1:] != stage.target.dims[1:]:
        return False
    fine, coarse = stage.source.dims[0].mesh_axes, stage.target.dims[0].mesh_axes
    if len(fine) < len(coarse):
        fine, coarse = coarse, fine
    return fine[len(coarse) :] == stage.mesh_axes
