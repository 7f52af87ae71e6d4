"""Run every case of domain parallelism and write the table of docs/domain.md: docs/results/domain-cases.csv.

``python scripts/domain_table.py`` starts mpirun for every number of ranks; about two minutes on two cores.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "docs" / "results" / "domain-cases.csv"
sys.path.insert(0, str(ROOT / "tests" / "helpers"))


def measure(path: str) -> None:
    """Run the cases for as many ranks as there are; the first rank writes their rows."""
    from domain_cases import cases, run
    from mpi4py import MPI

    from gridnn.comm.grid import Grid
    from gridnn.kernels import get_backend
    from gridnn.layout.gridshape import GridShape

    comm = MPI.COMM_WORLD
    shape = GridShape.square(comm.size)
    grid = Grid(comm, shape.rows, shape.cols, backend=get_backend("numpy"))
    rows = [
        {**case.row, "difference": f"{comm.allreduce(run(case, comm, grid), MPI.MAX):.1e}"} for case in cases(comm.size)
    ]
    if comm.rank == 0:
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def collect() -> None:
    """Start all runs, join their tables, and print the summary."""
    from domain_cases import COUNTS, cases, traits

    rows = []
    for ranks in COUNTS:
        part = TABLE.with_suffix(f".{ranks}")
        launcher = os.environ.get("MPIRUN", "mpirun")
        command = [launcher, "-n", str(ranks), sys.executable, "-m", "mpi4py", __file__, str(part)]
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"})
        with part.open() as file:
            rows += list(csv.DictReader(file))
        part.unlink()
    with TABLE.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    made = [case for ranks in COUNTS for case in cases(ranks)]
    print(f"{len(rows)} cases, largest difference {max(float(row['difference']) for row in rows):.1e}\n")
    for title, count in (
        ("layer", Counter(row["layer"] for row in rows)),
        ("ranks", Counter(row["ranks"] for row in rows)),
        ("dimensions of space", Counter(str(len(case.layer.kernel)) for case in made)),
        ("what makes it hard", Counter(trait for case in made for trait in traits(case))),
    ):
        print(f"| {title} | cases |\n|---|---|")
        print("".join(f"| {name} | {number} |\n" for name, number in count.most_common()))


if __name__ == "__main__":
    measure(sys.argv[1]) if len(sys.argv) > 1 else collect()
