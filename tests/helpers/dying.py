"""``gridnn train`` whose ranks die by SIGKILL: argument 1 says who, where and at which call, as ``2:step:6``."""

from __future__ import annotations

import os
import sys

from killed import kill_at

from gridnn.cli.main import main
from gridnn.comm.files import SharedFile
from gridnn.comm.launcher import JOINING
from gridnn.comm.survivors import Survivors
from gridnn.train import supervisor, trainer
from gridnn.train.copies import Copies
from gridnn.train.runner import Runner
from gridnn.train.session import Session
from gridnn.train.trainer import Trainer

PLACES = {
    "planning": (Session, "__init__"),
    "step": (Trainer, "_step"),
    "copying": (Copies, "_exchange"),
    "agreeing": (Survivors, "agree"),
    "saving": (SharedFile, "write"),
    "evaluating": (Runner, "evaluate_on"),
    "mending": (Survivors, "mend"),
    "restoring": (supervisor, "restore"),
    "leaving": (trainer, "moved"),
}

if __name__ == "__main__":
    deaths = sys.argv.pop(1)
    if JOINING not in os.environ:
        for rank, place, call in (death.split(":") for death in deaths.split(",")):
            if rank == os.environ["OMPI_COMM_WORLD_RANK"]:
                kill_at(*PLACES[place], int(call), writing=lambda: True)
    main()
