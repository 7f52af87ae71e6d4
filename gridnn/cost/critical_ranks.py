"""Which ranks to look at: all of a small grid, a few of a large one, and those that can be the slowest."""

from __future__ import annotations

import itertools
import operator

from gridnn.cost.machine import Machine
from gridnn.layout.group import Group
from gridnn.layout.layout import Layout, box_shape, box_size
from gridnn.program.program import Program

ALL = 64  # ranks of a grid that is looked at whole


def sample(program: Program) -> list[int]:
    """The ranks to look at: all of a small grid; corners and middle of a large one, whose inner ranks are alike."""
    rows, ranks = program.rows, program.ranks
    if ranks <= ALL:
        return list(range(ranks))
    return sorted({0, rows - 1, rows // 2, ranks - rows, ranks - 1, ranks // 2, ranks // 2 + rows // 2})


def critical_ranks(program: Program, machine: Machine, most: int = 4) -> list[int]:
    """The ranks of `sample` that can take longest on ``machine``, at most ``most``.

    Ranks whose boxes of all tensors have the same shapes, and whose row, column and neighbours are as far away, compute
    and move the same: the first of them stands for all, and for those that have no larger box and reach no farther.
    Those that reach farthest come first, then the largest boxes.
    """
    counted: dict[Layout, int] = {}
    halos = False
    for placed in program.layers:
        for layout in (placed.output, *(edge.layout for edge in placed.edges)):
            counted[layout] = counted.get(layout, 0) + 1
        halos = halos or any(stage.kind == "neighbours" for edge in placed.edges for stage in edge.transfer.stages)
    first: dict[tuple[int, ...], tuple[int, int, int]] = {}
    for index in sample(program):
        boxes = [layout.box(index) for layout in counted]
        load = sum(count * box_size(box) for count, box in zip(counted.values(), boxes, strict=True))
        groups = _around(program, index) if halos else _around(program, index)[:2]
        levels = [machine.level_of(group, program.plan.grid).level for group in groups]
        size = (*levels, *(-1,) * (4 - len(levels)), *itertools.chain.from_iterable(map(box_shape, boxes)))
        first.setdefault(size, (-sum(levels), -load, index))
    ordered = sorted(first, key=first.__getitem__)
    chosen: list[tuple[int, ...]] = []
    for size in ordered:
        if not any(all(map(operator.ge, other, size)) for other in chosen):
            chosen.append(size)
    return [first[size][-1] for size in chosen[:most]]


def _around(program: Program, index: int) -> list[Group]:
    """The row and the column of a rank, and its pairs with its neighbours in the column."""
    rows, ranks = program.rows, program.ranks
    column, row = Group(index // rows * rows, ((rows, 1),)), Group(index % rows, ((ranks // rows, rows),))
    pairs = [Group(low, ((2, 1),)) for low in (index - 1, index) if low >= column.first and low < column.last]
    return [column, row, *pairs]
