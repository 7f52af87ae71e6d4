"""Checkpoints of one run, each while the disk has a fault (``faults.c``); what came of each is printed as JSON."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from campaign import damage
from running import MLP, Told

from gridnn.comm.job import Job, run
from gridnn.errors import UserError
from gridnn.train import trainer as module
from gridnn.train.trainer import Trainer

EIO, EINTR, ENOSPC, ESTALE = 5, 4, 28, 116
PART = "(checkpoint)"
# call, pattern, first, how many (0: all that follow), what, rank
ONCE = {
    "reserving": f"allocate {PART} 1 1 {ENOSPC} 0",
    "opening": f"open {PART} 1 1 {EIO} 1",
    "writing, rank 0": f"write {PART} 2 1 {EIO} 0",
    "writing, rank 1": f"write {PART} 1 1 {EIO} 1",
    "no space": f"write {PART} 3 1 {ENOSPC} 0",
    "stale": f"write {PART} 2 1 {ESTALE} 0",
    "interrupted": f"write {PART} 2 1 {EINTR} 0",
    "short": f"write {PART} 2 1 short 0",
    "a flipped bit": f"write {PART} 2 1 flip 0",
    "slow": f"write {PART} 2 1 delay 0",
    "flushing": f"sync {PART} 1 1 {EIO} 0",
    "flushing, rank 1": f"sync {PART} 1 1 {EIO} 1",
    "reading back": f"read {PART} 2 1 {EIO} 1",
    "a bit read back": f"read {PART} 2 1 flip 1",
    "renaming": f"rename {PART} 1 1 {ESTALE} 0",
}
ALWAYS = {
    "never any space": f"write {PART} 1 0 {ENOSPC} 0",
    "never flushing": f"sync {PART} 1 0 {EIO} 1",
    "never renaming": f"rename {PART} 1 0 {EIO} 0",
}


@contextmanager
def fault(rule: str) -> Iterator[None]:
    os.environ["GRIDNN_FAULT"] = rule
    try:
        yield
    finally:
        os.environ["GRIDNN_FAULT"] = ""


def attempts_of(trainer: Trainer) -> list[str]:
    """From now on, what each attempt to save came to."""
    save, came = trainer.checkpoints.save, []

    def attempt(progress):
        came.append("")
        try:
            return save(progress)
        except UserError as error:
            came[-1] = str(error)
            raise

    trainer.checkpoints.save = attempt
    return came


def body(job: Job) -> None:
    folder, module.PAUSE = sys.argv[1], 0.0
    told = Told()
    trainer = Trainer(MLP.replaced(checkpoint=folder, strategy="model", kernels="reference"), job, told)
    came, results = attempts_of(trainer), {}
    for name, rule in {**ONCE, **ALWAYS}.items():
        came.clear()
        told.notes.clear()
        trainer.progress.done += 1
        ended = None
        with fault(rule.replace(PART, f"{folder}/step-")):
            try:
                trainer._save()
            except UserError as error:
                ended = str(error)
        job.comm.Barrier()  # rank 0 has removed what it could not complete
        path = trainer.checkpoints.path(trainer.done)
        others = [one for one in os.listdir(folder) if not one.endswith(".safetensors") and one != "run.lock"]
        wrong = damage(path) if os.path.exists(path) else "it is not there"
        results[name] = {
            "attempts": list(came),
            "notes": list(told.notes),
            "ended": ended,
            "damage": wrong,
            "left": others,
        }
        job.comm.Barrier()
    trainer.checkpoints.close()
    everyone = job.comm.gather(results)
    if job.rank == 0:
        print(json.dumps(everyone))


if __name__ == "__main__":
    run(body)
