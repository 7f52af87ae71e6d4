"""The numbers of a grid, without its ranks."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from gridnn.errors import UserError

ORDERS = ("column", "row")


@dataclass(frozen=True)
class GridShape:
    """Pr rows and Pc columns of ranks.

    Attributes
    ----------
    rows, cols : int
        Pr and Pc.
    order : {"column", "row"}
        Which groups are contiguous in the rank order of the job.

    Examples
    --------
    >>> GridShape.parse("4x-1", ranks=8)
    GridShape(rows=4, cols=2, order='column')
    >>> GridShape.parse("4x-1", ranks=8).rank(r=1, c=1)
    5
    """

    rows: int
    cols: int
    order: str = "column"

    def __post_init__(self) -> None:
        if self.rows < 1 or self.cols < 1:
            raise UserError(f"grid {self}: a grid has at least one row and one column")
        if self.order not in ORDERS:
            raise UserError(f"grid order {self.order!r}: which groups are contiguous is one of {', '.join(ORDERS)}")

    @classmethod
    def parse(cls, text: str, ranks: int, order: str = "column") -> GridShape:
        """The grid named by ``text`` for ``ranks`` ranks: ``4x2``, ``4x-1`` (the other factor follows) or ``auto``.

        Raises
        ------
        UserError
            If the text is none of these, or the grid does not have ``ranks`` places.
        """
        if text == "auto":
            return cls.square(ranks, order)
        match = re.fullmatch(r"(-1|\d+)x(-1|\d+)", text)
        if not match or text == "-1x-1":
            raise UserError(f"grid {text!r}: write rows x columns as 4x2, 4x-1 (the other factor follows), or auto")
        rows, cols = (int(factor) for factor in match.groups())
        if 0 not in (rows, cols) and -1 in (rows, cols):
            known = max(rows, cols)
            if ranks % known:
                raise UserError(
                    f"grid {text}: {ranks} ranks are not a multiple of {known}: "
                    f"mpirun -n {math.ceil(ranks / known) * known} ... or --grid {cls.square(ranks)}"
                )
            rows, cols = (ranks // known, known) if rows == -1 else (known, ranks // known)
        shape = cls(rows, cols, order)
        shape.check(ranks)
        return shape

    @classmethod
    def square(cls, ranks: int, order: str = "column") -> GridShape:
        """The most square grid of ``ranks`` ranks, with no more rows than columns."""
        rows = next(r for r in range(math.isqrt(ranks), 0, -1) if ranks % r == 0)
        return cls(rows, ranks // rows, order)

    def check(self, ranks: int) -> None:
        """Refuse a job of another size.

        Raises
        ------
        UserError
            If Pr Pc is not ``ranks``.
        """
        if self.size != ranks:
            raise UserError(
                f"grid {self} needs {self.size} ranks, this job has {ranks}: "
                f"mpirun -n {self.size} ... or --grid {self.square(ranks)}"
            )

    def __str__(self) -> str:
        return f"{self.rows}x{self.cols}"

    @property
    def size(self) -> int:
        """P = Pr Pc."""
        return self.rows * self.cols

    @property
    def ranks(self) -> list[int]:
        """The ranks of the job by grid index."""
        return [self.rank_at(index) for index in range(self.size)]

    def rank_at(self, index: int) -> int:
        """The rank of the job at a grid index: the inverse of `index`."""
        return self.rank(index % self.rows, index // self.rows)

    def index(self, rank: int) -> int:
        """The grid index of a rank of the job: its place counted down the columns, ``c * Pr + r``."""
        if self.order == "column":
            return rank
        r, c = divmod(rank, self.cols)
        return c * self.rows + r

    def rank(self, r: int, c: int) -> int:
        """The rank of the job in row ``r`` and column ``c``."""
        return c * self.rows + r if self.order == "column" else r * self.cols + c
