"""Which ranks to look at: all of a small grid, a few of a large one, and those that can be the slowest."""

from __future__ import annotations

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


def busiest(program: Program, machine: Machine, most: int = 4) -> list[int]:
    """The ranks of `sample` that can take longest on ``machine``, at most ``most``.

    Ranks whose boxes of all tensors have the same shapes, and whose row, column and neighbours are as far away, compute
    and move the same: the first of them stands for all. Those that reach farthest come first, then the largest boxes.
    """
    counted: dict[Layout, int] = {}
    for step in program.steps:
        for layout in (step.output, *(edge.layout for edge in step.edges)):
            counted[layout] = counted.get(layout, 0) + 1
    first: dict[tuple, tuple[int, int, int]] = {}
    for index in sample(program):
        boxes = [layout.box(index) for layout in counted]
        load = sum(count * box_size(box) for count, box in zip(counted.values(), boxes, strict=True))
        levels = tuple(machine.level_of(group, program.plan.grid).level for group in _around(program, index))
        key = (levels, *map(box_shape, boxes))
        first.setdefault(key, (-sum(levels), -load, index))
    return [index for *_, index in sorted(first.values())[:most]]


def _around(program: Program, index: int) -> list[Group]:
    """The row and the column of a rank, and its pairs with its neighbours in the column."""
    rows, ranks = program.rows, program.ranks
    column, row = Group(index // rows * rows, ((rows, 1),)), Group(index % rows, ((ranks // rows, rows),))
    pairs = [Group(low, ((2, 1),)) for low in (index - 1, index) if low >= column.first and low < column.last]
    return [column, row, *pairs]
