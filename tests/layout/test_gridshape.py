"""Grids as numbers, and their ranks."""

from __future__ import annotations

import numpy as np
import pytest
from backends import on_backend

from gridnn.comm.grid import Grid
from gridnn.comm.ledger import Where
from gridnn.errors import UserError
from gridnn.layout.gridshape import GridShape


@pytest.mark.parametrize(
    ("text", "ranks", "expected"),
    [
        ("4x2", 8, (4, 2)),
        ("4x-1", 8, (4, 2)),
        ("-1x3", 6, (2, 3)),
        ("1x7", 7, (1, 7)),
        ("auto", 6, (2, 3)),
        ("auto", 7, (1, 7)),
        ("auto", 36, (6, 6)),
        ("auto", 1, (1, 1)),
    ],
)
def test_grids_are_read(text, ranks, expected):
    shape = GridShape.parse(text, ranks)
    assert (shape.rows, shape.cols) == expected


@pytest.mark.parametrize(
    ("text", "ranks", "message"),
    [
        ("3x2", 4, r"grid 3x2 needs 6 ranks, this job has 4: mpirun -n 6 ... or --grid 2x2"),
        ("3x-1", 4, r"4 ranks are not a multiple of 3: mpirun -n 6 ... or --grid 2x2"),
        ("0x4", 4, "at least one row and one column"),
        ("-1x0", 4, "at least one row and one column"),
        ("-1x-1", 4, "write rows x columns as 4x2"),
        ("2*2", 4, "write rows x columns as 4x2"),
        ("", 4, "write rows x columns as 4x2"),
        ("-2x-2", 4, "write rows x columns as 4x2"),
    ],
)
def test_wrong_grids_are_refused_with_the_remedy(text, ranks, message):
    with pytest.raises(UserError, match=message):
        GridShape.parse(text, ranks)


def test_an_unknown_order_is_refused():
    with pytest.raises(UserError, match="column, row"):
        GridShape(2, 2, "diagonal")


@pytest.mark.parametrize("order", ["column", "row"])
@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (1, 5), (5, 1), (3, 2), (2, 4)])
def test_ranks_and_places_are_one_to_one(rows, cols, order):
    shape = GridShape(rows, cols, order)
    for r in range(rows):
        for c in range(cols):
            assert shape.index(shape.rank(r, c)) == c * rows + r
    contiguous = (
        [shape.rank(r, 0) for r in range(rows)] if order == "column" else [shape.rank(0, c) for c in range(cols)]
    )
    assert contiguous == list(range(len(contiguous)))


@pytest.mark.mpi
@pytest.mark.parametrize("order", ["column", "row"])
def test_rows_and_columns_of_real_ranks(comm, order):
    for rows in (r for r in range(1, comm.size + 1) if comm.size % r == 0):
        cols = comm.size // rows
        grid = Grid(comm, rows, cols, order=order, **on_backend())
        assert grid.shape.rank(grid.r, grid.c) == comm.rank
        assert (grid.col.size, grid.row.size, grid.all.size) == (rows, cols, comm.size)
        assert (grid.col.rank, grid.row.rank, grid.all.rank) == (grid.r, grid.c, grid.index)
        for group, expected in ((grid.col, rows * grid.c * 1.0), (grid.row, float(sum(range(cols))))):
            total = grid.backend.asarray(np.array([float(grid.c)]))
            group.all_reduce(total, Where("test", "forward"))
            assert total[0] == expected
        grid.free()


@pytest.mark.mpi
def test_a_grid_of_another_size_is_refused(comm):
    with pytest.raises(UserError, match=f"needs {comm.size + 1} ranks, this job has {comm.size}"):
        Grid(comm, 1, comm.size + 1, **on_backend())
