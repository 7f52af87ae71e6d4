"""Whether all ranks were given the same run: files may differ between nodes, and models be made at random."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from itertools import zip_longest
from typing import Any, TypeVar

from gridnn.comm.grid import Grid
from gridnn.errors import UserError
from gridnn.kernels import Backend
from gridnn.train.setup import PreparedRun

Result = TypeVar("Result")


def collective_check(comm: Any, make: Callable[[], Result], waiting: Any = None) -> Result:
    """What ``make`` returns on this rank; all ranks of ``comm`` call it, and wait for each other within ``waiting``.

    Raises
    ------
    UserError
        On all ranks, if it was raised on one: its text, with the rank if there are ranks on which it was not.
    """
    result, mistake = None, None
    try:
        result = make()
    except UserError as error:
        mistake = str(error)
    with waiting or nullcontext():
        mistakes = comm.allgather(mistake)
    wrong = [(rank, text) for rank, text in enumerate(mistakes) if text is not None]
    if not wrong:
        return result
    (rank, text), everywhere = wrong[0], len(wrong) == len(mistakes)
    raise UserError(text if everywhere else f"rank {rank} of {len(mistakes)}: {text}")


def shared_devices(job: Any, backend: Backend) -> list[str]:
    """A warning if ranks of a node share a device, on all ranks, which call it together."""
    mine = backend.device and (job.node, backend.device.identity)
    counts = Counter(place for place in job.comm.allgather(mine) if place)
    most = max(counts.values(), default=1)
    if most == 1:
        return []
    return [
        f"up to {most} ranks share a GPU ({len(counts)} GPUs for {counts.total()} ranks): each waits for the others' "
        "kernels, and NCCL refuses them; start as many ranks on a node as it has GPUs"
    ]


def refuse_differences(made: PreparedRun, grid: Grid) -> None:
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


def _described(made: PreparedRun) -> list[str]:
    """Data, layers and splits, a line each."""
    data: Any = made.data
    lines = [f"{len(part)} samples of shape {part.sample_shape}" for part in (data.train, data.test)]
    lines += [f"layer {node.name!r}, {node.layer} of {', '.join(node.inputs)}" for node in made.network.nodes]
    return [*lines, *(f"layer {name!r} divided {split}" for name, split in made.plan.splits.items())]
