"""A run that is killed with SIGKILL while it writes its second checkpoint, at the stage that argument 1 names."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from running import MLP

from gridnn.comm.files import SharedFile
from gridnn.comm.job import Job, run
from gridnn.train import checkpoint
from gridnn.train.checkpoints import Checkpoints
from gridnn.train.trainer import Trainer

# stage: where the function is that begins it, its name, and which of its calls in the second checkpoint
STAGES = {
    "before anything": (checkpoint, "_reserve", 1),
    "place reserved": (SharedFile, "write", 1),
    "some of the data": (SharedFile, "write", 9),
    "all data": (SharedFile, "sync", 1),
    "data flushed": (SharedFile, "read", 1),
    "before the header": (SharedFile, "write_first", 1),
    "after the header": (SharedFile, "sync", 2),
    "complete, not renamed": (checkpoint.os, "replace", 1),
    "renamed": (Checkpoints, "_tidy", 1),
}
EVERY = 2  # steps between two checkpoints


def kill_at(owner: Any, name: str, call: int, writing: Callable[[], bool]) -> None:
    """Replace a function by one that ends this process at its ``call``-th call while ``writing()``."""
    known, calls = getattr(owner, name), iter(range(1, 1000))

    def dies(*args: Any, **options: Any) -> Any:
        if writing() and next(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return known(*args, **options)

    setattr(owner, name, dies)


def body(job: Job) -> None:
    trainer = Trainer(
        MLP.replaced(checkpoint=sys.argv[2], save_every=EVERY, strategy="model", kernels="reference"), job
    )
    kill_at(*STAGES[sys.argv[1]], writing=lambda: trainer.done == 2 * EVERY)
    trainer.train()


if __name__ == "__main__":
    run(body)
