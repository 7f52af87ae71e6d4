"""Whether all ranks were given the same run: files may differ between nodes, and models be made at random."""

from __future__ import annotations

import hashlib
from itertools import zip_longest
from typing import Any

from gridnn.errors import UserError
from gridnn.grid import Grid
from gridnn.train.setup import SetUp


def refuse_differences(made: SetUp, grid: Grid) -> None:
    """Compare what all ranks have set up; they call it together.

    Raises
    ------
    UserError
        On all ranks, with the first thing that is not the same.
    """
    mine = _described(made)
    digest = hashlib.sha256("\n".join(mine).encode()).hexdigest()
    if len(set(grid.all.gather_values(digest))) == 1:
        return
    first, *others = grid.all.gather_values(mine)
    for rank, theirs in enumerate(others, 1):
        for here, there in zip_longest(first, theirs, fillvalue="nothing more"):
            if here != there:
                raise UserError(
                    f"the ranks do not make the same network: at place 0 of the grid there is {here}, at place {rank} "
                    f"{there}; a set has no order, random numbers differ, and so may files on other nodes"
                )


def _described(made: SetUp) -> list[str]:
    """Data, layers and splits, a line each."""
    data: Any = made.data
    lines = [f"{len(part)} samples of shape {part.sample_shape}" for part in (data.train, data.test)]
    lines += [f"layer {node.name!r}, {node.layer} of {', '.join(node.inputs)}" for node in made.network.nodes]
    return [*lines, *(f"layer {name!r} divided {split}" for name, split in made.plan.splits.items())]
