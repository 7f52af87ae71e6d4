"""Count the lines of Python in gridnn, by package, beside the budget: ``python scripts/line_budget.py [FOLDER]``.

Exit status 1 if a file is longer than a file may be; a total over the budget is printed only.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

BUDGET = 27_000  # lines of all files
LONGEST = 400  # lines of one file
PACKAGE = Path(__file__).resolve().parent.parent / "gridnn"


def main(folder: Path) -> int:
    """Print the table."""
    lines = {path.relative_to(folder): count(path) for path in sorted(folder.rglob("*.py"))}
    packages, files = Counter(), Counter()
    for path, number in lines.items():
        name = f"{path.parts[0]}/" if len(path.parts) > 1 else "(modules)"
        packages[name] += number
        files[name] += 1
    for name, number in packages.most_common():
        print(f"{name:12} {number:7,} lines in {files[name]:3} files")
    total = sum(lines.values())
    over = f"{total - BUDGET:,} over" if total > BUDGET else f"{BUDGET - total:,} left of"
    print(f"{'all':12} {total:7,} lines in {len(lines):3} files: {over} the budget of {BUDGET:,}")
    too_long = {path: number for path, number in lines.items() if number > LONGEST}
    for path, number in too_long.items():
        print(f"{folder.name}/{path.as_posix()} has {number} lines, but a file has {LONGEST} at most", file=sys.stderr)
    return int(bool(too_long))


def count(path: Path) -> int:
    """The number of lines of a file."""
    return len(path.read_text().splitlines())


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else PACKAGE))
