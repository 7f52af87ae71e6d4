"""Two ways to exchange a halo over several dimensions, and the choice between them."""

from __future__ import annotations

from collections.abc import Iterator

from gridnn.layout.layout import Layout, box_size
from gridnn.layout.stage import Stage

HALOS = ("auto", "direct", "stepwise")
# alpha / beta in words, at which a message weighs as much as its contents: 2 us and 6 GB/s of float32 (Gholami et al.
# 2018, section 4). Plans need one number that does not depend on where they are made.
MESSAGE_WORDS = 3000


def halo_stages(stage: Stage, halo: str) -> tuple[Stage, ...]:
    """One exchange with all neighbours, or one for every dimension that has a halo, whichever ``halo`` says.

    The second way sends less often: what one dimension brought is sent on along the next, so that corners arrive over a
    neighbour. It moves as many words where every rank needs all that it has, and more where a rank passes on what it
    does not need itself. ``auto`` takes the cheaper one by messages x `MESSAGE_WORDS` + words of the busiest rank.
    """
    stepwise = _by_dimension(stage)
    if halo == "direct" or len(stepwise) < 2:
        return (stage,)
    if halo == "stepwise" or sum(map(_price, stepwise)) < _price(stage):
        return stepwise
    return (stage,)


def _by_dimension(stage: Stage) -> tuple[Stage, ...]:
    """The same movement, one dimension a stage; the stage itself where the ranks divide other dimensions then."""
    source, target = stage.source, stage.target
    if source.mesh != target.mesh or any(
        old.mesh_axes != new.mesh_axes for old, new in zip(source.dims, target.dims, strict=True)
    ):
        return (stage,)
    stages = []
    for place, (old, new) in enumerate(zip(source.dims, target.dims, strict=True)):
        if old != new:
            after = Layout(source.mesh, (*source.dims[:place], new, *source.dims[place + 1 :]))
            stages.append(Stage("neighbours", source, after))
            source = after
    return tuple(stages)


def _price(stage: Stage) -> int:
    """Messages x `MESSAGE_WORDS` + words of the rank that sends most, of those at the borders and in the middle."""
    return max(
        sum(MESSAGE_WORDS + box_size(piece.box) for piece in stage.sends(index) if piece.peer != index)
        for index in _typical(stage.source)
    )


def _typical(layout: Layout) -> Iterator[int]:
    """The ranks with the first, the middle and the last part of every divided dimension: 3^d, whatever P."""
    parts = {}
    for place, dim in enumerate(layout.dims):
        if dim.mesh_axes:
            parts[place] = sorted({0, dim.partition.parts // 2, dim.partition.parts - 1})
    return layout.ranks(parts, (), 0)
