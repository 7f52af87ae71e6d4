"""The Pr x Pc grid of ranks and its row and column communicators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gridnn.comm.communicator import Communicator
from gridnn.comm.ledger import Ledger
from gridnn.comm.recorder import Recorder
from gridnn.kernels import get_backend
from gridnn.layout.gridshape import GridShape

__all__ = ["Grid", "GridShape"]


class Grid:
    """The ranks of a job as a grid.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
        All ranks of the job; used once, to make communicators of our own.
    rows, cols : int
        Pr and Pc.
    order : {"column", "row"}
        Which groups are contiguous in rank order: with ``column`` the ranks of a column are neighbours, so that
        activations stay inside a node.
    backend : Backend, optional
        Whose arrays are moved; default: NumPy's.
    ledger : Ledger, optional
        Where movements are entered.
    transports : optional
        What makes the transport of each group (`gridnn.comm.transports.choice.Transports`); None: MPI on host memory.
    communicators : list, optional
        Where the communicators of all groups are entered: of ranks that survive each other (`Survivors`).
    recorder : Recorder, optional
        Where is kept what this rank does.

    Attributes
    ----------
    index : int
        This rank counted down the columns, ``c * Pr + r``: the number that layouts speak of.
    r, c : int
        Its row and column.
    all, col, row : Communicator
        All ranks; the Pr ranks of my column; the Pc ranks of my row.
    survives : bool
        Whether the death of a rank is an error that is mended.

    Raises
    ------
    UserError
        If the grid does not have as many places as there are ranks.
    """

    def __init__(
        self,
        comm: Any,
        rows: int,
        cols: int,
        *,
        backend: Any = None,
        order: str = "column",
        ledger: Ledger | None = None,
        transports: Any = None,
        communicators: list[Any] | None = None,
        recorder: Recorder | None = None,
    ):
        self.shape = GridShape(rows, cols, order)
        self.shape.check(comm.Get_size())
        backend = backend or get_backend("numpy")
        self.backend, self.ledger, self.recorder = backend, ledger or Ledger(), recorder or Recorder()
        self.index = self.shape.index(comm.Get_rank())
        self.r, self.c = self.index % rows, self.index // rows
        self._made, self.survives = communicators if communicators is not None else [], communicators is not None
        with self.recorder.waiting("making the grid"):
            everyone = comm.Split(0, self.index)
            options = {"transports": transports, "recorder": self.recorder}
            self.all = Communicator(everyone, range(rows * cols), rows, backend, self.ledger, **options)
        self._groups: dict[tuple[int, ...], Communicator] = {self.all.members: self.all}
        self._made.append(self.all)
        self.col = self.group(range(self.c * rows, (self.c + 1) * rows))
        self.row = self.group(range(self.r, rows * cols, rows))

    def group(self, members: Sequence[int]) -> Communicator:
        """The communicator of ``members``, which include this rank; all ranks of the grid ask at the same time."""
        key = tuple(members)
        if key not in self._groups:
            self._groups[key] = self.all.sub(key)
            self._made.append(self._groups[key])
        return self._groups[key]

    @property
    def copied_to_host(self) -> int:
        """Bytes that all transports have copied from the device to host memory so far."""
        return sum(group.transport.copied_to_host for group in self._groups.values())

    def free(self) -> None:
        """Give all communicators back."""
        for group in self._groups.values():
            group.free()
        self._groups.clear()
