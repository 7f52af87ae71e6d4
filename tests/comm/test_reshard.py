"""Parts of tensors, held by some ranks, brought to layouts over all of them."""

from __future__ import annotations

import numpy as np
import pytest

from gridnn.comm.grid import Grid
from gridnn.comm.reshard import WHERE, Parts, reshard
from gridnn.layout.layout import Dim, Layout, box_shape
from gridnn.layout.partition import Even

SHAPE = (7, 5)
WHOLE = np.arange(35.0).reshape(SHAPE)


def cut(mesh: tuple[int, ...], first: tuple[int, ...], second: tuple[int, ...] = ()) -> Layout:
    """A tensor whose two dimensions are divided along these mesh axes."""
    parts = [int(np.prod([mesh[axis] for axis in axes])) for axes in (first, second)]
    return Layout(mesh, (Dim(Even(SHAPE[0], parts[0]), first), Dim(Even(SHAPE[1], parts[1]), second)))


SOURCES = {
    "two parts": cut((2,), (0,)),
    "five parts, of which one is empty": cut((9,), (0,)),
    "a 2 x 3 grid": cut((2, 3), (0,), (1,)),
    "replicas": cut((3, 2), (1,)),
    "whole": cut((4,), ()),
}


def parts_of(layout: Layout, holders: dict[int, tuple[int, ...]], me: int) -> Parts:
    mine = {place: WHOLE[layout.slices(place)].copy() for place, who in holders.items() if me in who}
    return Parts(layout, holders, mine)


@pytest.mark.mpi
@pytest.mark.parametrize("name", SOURCES)
def test_every_rank_has_its_box(comm, name):
    """From holders that are spread over the ranks, alone and in twos, to layouts of all of them."""
    layout, grid = SOURCES[name], Grid(comm, comm.size, 1)
    places = range(int(np.prod(layout.mesh)))
    for shift in (0, 1):
        holders = {place: tuple({place % comm.size, (place + shift) % comm.size}) for place in places}
        for target in (cut((comm.size,), (0,)), cut((comm.size,), (), (0,)), cut((comm.size,), ())):
            out = np.full(box_shape(target.box(grid.index)), -1.0)
            parts = parts_of(layout, holders, grid.index)
            assert parts.complete
            reshard(parts, target, out, grid)
            np.testing.assert_array_equal(out, WHOLE[target.slices(grid.index)])
    grid.free()


@pytest.mark.mpi
def test_what_a_rank_has_itself_is_not_sent(comm):
    grid, layout = Grid(comm, comm.size, 1), cut((comm.size,), (0,))
    holders = {place: (place, (place + 1) % comm.size) for place in range(comm.size)}
    out = np.zeros(box_shape(layout.box(grid.index)))
    reshard(parts_of(layout, holders, grid.index), layout, out, grid)
    assert grid.ledger.words_of(WHERE.layer, "column") == 0
    grid.free()


def test_a_part_without_a_holder_is_missed():
    layout = SOURCES["a 2 x 3 grid"]
    assert parts_of(layout, dict.fromkeys(range(6), (0,)), 0).complete
    assert not parts_of(layout, dict.fromkeys(range(5), (0,)), 0).complete
    assert parts_of(SOURCES["replicas"], {0: (0,), 5: (1,)}, 0).complete  # the other places hold the same
    assert not parts_of(SOURCES["replicas"], {0: (0,), 2: (1,)}, 0).complete
