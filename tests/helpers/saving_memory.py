"""How many bytes each rank grows by in as many checkpoints as argument 1 says, after as many others."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

from mpi4py import MPI
from running import MLP, folder, job_of

from gridnn.train.trainer import Trainer


def resident() -> int:
    """The bytes of this process that are in memory."""
    return resource.getpagesize() * int(Path("/proc/self/statm").read_text().split()[1])


def main() -> None:
    comm, sizes = MPI.COMM_WORLD, []
    with folder(comm) as directory:
        trainer = Trainer(MLP.replaced(checkpoint=str(directory), strategy="model"), job_of(comm))
        for _ in range(2):
            for _ in range(int(sys.argv[1])):
                trainer.checkpoints.save(trainer.progress)
            sizes.append(resident())
        trainer.checkpoints.close()
    print(sizes[1] - sizes[0])


if __name__ == "__main__":
    main()
