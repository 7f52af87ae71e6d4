"""Draw the house of the README, ``docs/images/house.png``: ``python scripts/house_picture.py [FILE]``.

The same bytes every time, with the same matplotlib.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "images" / "house.png"
# From the top; what stands on a floor may import its own floor and those below it.
FLOORS = (
    (("cli", "one command a file"), ("reproduce", "one paper a file")),
    (
        ("train", "loop, checkpoints, logs"),
        ("data", "a rank's box of the samples"),
        ("plots", "pictures"),
        ("calibrate", "measures a machine"),
    ),
    (
        ("runtime", "runs a program on arrays"),
        ("plan", "a split for every layer"),
        ("cost", "words, seconds, memory"),
    ),
    (
        ("program", "network + plan: what a rank does"),
        ("models", "the networks of the papers"),
        ("network", "the graph of layers"),
    ),
    (("layers", "local mathematics, one layer a file; no communicator"),),
    (("comm", "every call of MPI and NCCL"), ("kernels", "every operation on arrays")),
    (("layout", "splits, layouts, transfers: integers alone"),),
)
COLORS = ("#cfd8dc", "#b3cde3", "#a9d6c4", "#d9e6a5", "#fbe3a2", "#f6c9a0", "#e9b3b3")
WIDTH, HEIGHT, GAP = 9.6, 0.62, 0.1


def main() -> int:
    """Write the picture."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE
    path.parent.mkdir(parents=True, exist_ok=True)
    draw().savefig(path, dpi=120, metadata={"Software": None})
    print(path)
    return 0


def draw() -> Figure:
    """The floors, one above the other, and the direction in which they may import."""
    floors = len(FLOORS)
    figure = Figure(figsize=(WIDTH + 0.7, floors * (HEIGHT + GAP) + GAP))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH + 0.7), ylim=(0, floors * (HEIGHT + GAP) + GAP))
    axes.axis("off")
    for level, (rooms, color) in enumerate(zip(FLOORS, COLORS, strict=True)):
        bottom = (floors - 1 - level) * (HEIGHT + GAP) + GAP
        width = (WIDTH - GAP * (len(rooms) + 1)) / len(rooms)
        for place, (name, text) in enumerate(rooms):
            room(axes, GAP + place * (width + GAP), bottom, width, color, name, text)
    top = floors * (HEIGHT + GAP)
    arrow = {"arrowstyle": "-|>", "color": "#455a64", "linewidth": 1.5}
    axes.annotate("", (WIDTH + 0.18, GAP), (WIDTH + 0.18, top), arrowprops=arrow)
    axes.text(WIDTH + 0.42, top / 2, "imports", rotation=270, ha="center", va="center", color="#455a64", fontsize=10)
    return figure


def room(axes: Any, left: float, bottom: float, width: float, color: str, name: str, text: str) -> None:
    """One package: its name, and what it is."""
    style = "round,pad=0,rounding_size=0.06"
    axes.add_patch(FancyBboxPatch((left, bottom), width, HEIGHT, boxstyle=style, facecolor=color, edgecolor="#607d8b"))
    middle = left + width / 2
    axes.text(middle, bottom + HEIGHT * 0.66, name, ha="center", va="center", fontsize=11.5, weight="bold")
    axes.text(middle, bottom + HEIGHT * 0.28, text, ha="center", va="center", fontsize=8.5, color="#37474f")


if __name__ == "__main__":
    sys.exit(main())
