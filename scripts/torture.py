"""Kill jobs that write checkpoints at random instants, hundreds of times: nothing may be lost, nothing may hang.

``python scripts/torture.py [--kills 300] [--seed S] [--minutes 30]``: jobs of one to three ranks on differing grids get
SIGKILL (one rank, all ranks, mpirun, or everything) while they start, train, save, evaluate or leave. Each next job
goes on from what the last one left. Others survive the death of some of their ranks, and must end by themselves. Status
1 if a checkpoint was lost, a job was refused, a loss differs from that of the uninterrupted run, or a process was still
there after 20 s.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "helpers"))

from campaign import Campaign
from surviving import outlive


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="the same one draws the same jobs")
    parser.add_argument("--minutes", type=float, default=30.0, help="no job begins after so long")
    options = parser.parse_args()
    print(f"seed {options.seed}, {options.kills} kills, at most {options.minutes:g} minutes", flush=True)
    with tempfile.TemporaryDirectory(prefix="gridnn-torture-") as folder:
        campaign = Campaign(Path(folder), options.seed, lambda text: print(text, flush=True), outlive)
        tally = campaign.run(options.kills, 60 * options.minutes)
    print(*tally.faults, *(f"left over: {line}" for line in tally.left), sep="\n")
    print(*(f"{count:4d} {what}" for what, count in sorted(tally.kills.items())), sep="\n")
    print(tally)
    return int(bool(tally.faults))


if __name__ == "__main__":
    sys.exit(main())
