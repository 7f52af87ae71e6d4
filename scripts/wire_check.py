#!/usr/bin/env python3
"""An independent count: what Open MPI says it sent, beside what gridnn's ledger says.

    python scripts/wire_check.py --ranks 4 --grid 2x2 --model mlp --widths 1024,1024 --dataset synthetic --batch 256

runs ``gridnn audit`` with these options under Open MPI's own monitoring (which counts the bytes of every message, those
inside collectives too) and compares the sums over all ranks.  Exit status 1 if they differ by more than
``--tolerance``.  The set-up of communicators is on the wire too, so choose a model that moves megabytes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

MONITORING = ("--mca", "pml_monitoring_enable", "2", "--mca", "pml_monitoring_enable_output", "3")


def bytes_on_the_wire(folder: Path) -> int:
    """The bytes of all messages between different ranks, from the files that the monitoring left in ``folder``."""
    total = 0
    for path in folder.glob("wire.*.prof"):
        for line in path.read_text().splitlines():
            fields = line.split("\t")
            if fields[0] in ("E", "I") and fields[1] != fields[2]:  # the program's own messages; those of collectives
                total += int(fields[3].split()[0])
    return total


def measure(ranks: int, options: list[str]) -> tuple[int, int]:
    """The bytes by Open MPI's count and by the ledger's, of one audit, summed over ranks."""
    beside = Path(sys.executable).parent / "mpirun"
    launcher = str(beside if beside.exists() else shutil.which("mpirun"))
    version = subprocess.run([launcher, "--version"], capture_output=True, text=True).stdout
    if "Open MPI" not in version and "prterun" not in version:
        print(f"{launcher} is not Open MPI's mpirun, whose monitoring this needs", file=sys.stderr)
        sys.exit(2)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        monitored = [*MONITORING, "--mca", "pml_monitoring_filename", str(folder / "wire")]
        command = [launcher, "--oversubscribe", "-n", str(ranks), *monitored, sys.executable, "-m", "gridnn", "audit"]
        root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        report = folder / "audit.json"
        done = subprocess.run(
            [*command, *options, "--json", str(report)], env={**os.environ, **root}, capture_output=True, text=True
        )
        if done.returncode:
            sys.exit(done.stdout + done.stderr)
        wire = bytes_on_the_wire(folder)
        if not wire:
            sys.exit("the monitoring wrote nothing: this needs an Open MPI with pml_monitoring")
        return wire, sum(row["measured_bytes"] for row in json.loads(report.read_text())["rows"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--tolerance", type=float, default=0.05, help="largest relative difference (default 0.05)")
    known, options = parser.parse_known_args()
    wire, ledger = measure(known.ranks, options)
    print(f"Open MPI's monitoring: {wire:,} bytes sent by all ranks\ngridnn's ledger:       {ledger:,} bytes")
    print(f"ratio: {wire / ledger:.4f}")
    sys.exit(abs(wire / ledger - 1) > known.tolerance)


if __name__ == "__main__":
    main()
