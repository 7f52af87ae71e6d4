"""Audit every network under every strategy, and write docs/results/audit-networks-P.csv: predicted = measured.

``mpirun -n 4 python -m mpi4py scripts/audit_networks.py`` (and ``-n 6``); about a quarter of an hour on two cores.
Samples are small, but leave the networks something to divide; layers that are too small for a division are divided less
(``--replicas``).
"""

from __future__ import annotations

import csv
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from mpi4py import MPI

from gridnn.layout.counts import DIMENSIONS
from gridnn.models import MODELS
from gridnn.planning.rules import RULES
from gridnn.train.audit import audit
from gridnn.train.config import RunConfig

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"
SHAPES = {
    "alexnet": "67x67x3",
    "alexnet-onetower": "64x64x3",
    "inception-v3": "107x107x3",
    "lenet": "28x28x1",
    "mlp": "28x28x1",
    "cosmoflow": "32x32x32x1",
}
IMAGE = "64x64x3"
# On a grid of one column, the domain is divided in one dimension and in two.
GRIDS = {4: {"2x2": None, "4x1": "2x2"}, 6: {"3x2": None, "6x1": "3x2"}}


def volumes(folder: Path) -> Path:
    """Small volumes with a label for every place."""
    rng = np.random.default_rng(0)
    path = folder / "volumes.npz"
    np.savez(path, x=rng.normal(size=(12, 16, 16, 8, 1)).astype("float32"), y=rng.integers(0, 3, (12, 16, 16, 8)))
    return path


def config(model: str, folder: Path) -> RunConfig:
    """One step on a batch of 6."""
    base = RunConfig.of(model=model, batch=6, samples=12, steps=1, replicas=True, kernels="reference")
    if model == "unet3d":
        return base.replaced(dataset=str(volumes(folder)), shape=None, classes=3)
    if model == "cosmoflow":
        return base.replaced(dataset="volumes", loss="mse", shape=SHAPES[model])
    return base.replaced(dataset="synthetic", shape=SHAPES.get(model, IMAGE))


def main() -> int:
    """Audit all; exit status 1 if an integer differs."""
    comm = MPI.COMM_WORLD
    job = SimpleNamespace(comm=comm, size=comm.size, nodes=1, threads=1, library="", local_rank=comm.rank)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for model in sys.argv[1:] or MODELS:
            for grid, domain in GRIDS[comm.size].items():
                rules = [rule for rule in RULES if (model, rule) != ("unet3d", "splitbrain")]  # which has none to shard
                for strategy, parts in [*((rule, None) for rule in rules), *([("domain", domain)] if domain else [])]:
                    started = time.perf_counter()
                    run = config(model, Path(folder)).replaced(grid=grid, strategy=strategy, domain=parts)
                    result = audit(run, job)
                    words = {d: sum(r.measured_words for r in result.rows if r.dimension == d) for d in DIMENSIONS}
                    rows.append(
                        {
                            "network": model,
                            "sample": run.data.shape or "16x16x8x1",
                            "grid": grid,
                            "strategy": f"{strategy} {parts}" if parts else strategy,
                            **{f"{dimension} words": count for dimension, count in words.items()},
                            "messages": sum(r.measured_messages for r in result.rows),
                            "rows compared": len(result.rows),
                            "equal": result.equal,
                        }
                    )
                    if comm.rank == 0:
                        print(*rows[-1].values(), f"{time.perf_counter() - started:.1f} s", flush=True)
    if comm.rank == 0 and not sys.argv[1:]:
        with (RESULTS / f"audit-networks-{comm.size}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    return 0 if all(row["equal"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
