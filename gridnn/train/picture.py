"""The grid as a small picture."""

from __future__ import annotations

from gridnn.layout.gridshape import GridShape

LARGEST = 8  # rows and columns that are drawn in full


def shown(count: int) -> list[int | None]:
    """The indices below ``count`` that are drawn; None stands for those between."""
    if count <= LARGEST:
        return list(range(count))
    return [*range(LARGEST - 3), None, count - 2, count - 1]


def picture(shape: GridShape, rows: str, columns: str) -> str:
    """The ranks in their places, and what rows and columns divide.

    Parameters
    ----------
    shape : GridShape
        Pr, Pc and the order of the ranks.
    rows, columns : str
        What is divided over the Pr rows and over the Pc columns, e.g. ``"model"`` and ``"batch"``.
    """
    width = max(3, len(str(shape.size - 1)))
    title = f"grid {shape}, rank numbers (rows divide: {rows}; columns divide: {columns})"
    header = " ".join("..." if c is None else f"c{c}".rjust(width) for c in shown(shape.cols))
    lines = [title, " " * 8 + header]
    for r in shown(shape.rows):
        label = "..." if r is None else f"r{r}"
        places = ("..." if None in (r, c) else str(shape.rank(r, c)) for c in shown(shape.cols))
        lines.append(f"{label:>6} [" + " ".join(place.rjust(width) for place in places) + " ]")
    return "\n".join(lines)
