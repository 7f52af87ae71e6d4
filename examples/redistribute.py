"""Move an array between two layouts, and back by the adjoint: mpirun -n 4 python examples/redistribute.py"""

import numpy as np

import gridnn as gn

job = gn.init()
grid = gn.Grid(job.comm, job.size, 1)
shape = (10, 7)
rows, columns = (gn.Layout.even(shape, grid, **{axis: job.size}) for axis in ("dim0", "dim1"))
transfer = gn.Transfer(grid, rows, columns)
whole = np.arange(70.0).reshape(shape)
mine = transfer.forward(whole[rows.slices(grid.index)]).copy()
assert (mine == whole[columns.slices(grid.index)]).all()
assert (transfer.backward(mine) == whole[rows.slices(grid.index)]).all()
moved = grid.ledger.words_by_dimension()
if job.rank == 0:
    print(f"rank 0 sent {moved} words, there and back")
