"""A run of which one rank hangs: ``stalling.py HOW RANK WARN END SECONDS``, in step 3 (or before the first one)."""

from __future__ import annotations

import ctypes
import math
import os
import platform
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from running import MLP

from gridnn.comm.job import Job, run
from gridnn.layers.linear import Linear
from gridnn.models.mlp import mlp
from gridnn.network import Network
from gridnn.records import fingerprint
from gridnn.train.trainer import Trainer

HOW, WHO = sys.argv[1], int(sys.argv[2])
WARN, END, SECONDS = (float(word) for word in sys.argv[3:6])
STEP = 3
CONFIG = MLP.replaced(strategy="batch", kernels="reference", samples=40, batch=12, epochs=2, grid="auto")


def sleepy(shape: tuple[int, ...], classes: int) -> Network:
    """A model of a file that takes its time on one rank."""
    if int(os.environ["OMPI_COMM_WORLD_RANK"]) == WHO:
        time.sleep(SECONDS)
    return mlp(shape, classes, widths=(6,))


def hang(owner: Any, name: str, condition: Callable[..., bool], sleep: Callable[[], Any]) -> None:
    """Replace a function by one that sleeps first, once, when the condition holds."""
    known, left = getattr(owner, name), [1]

    def slow(*args: Any, **options: Any) -> Any:
        if left and condition(*args):
            left.clear()
            sleep()
        return known(*args, **options)

    setattr(owner, name, slow)


def prepare(job: Job, trainer: Trainer) -> None:
    """Let this rank hang."""
    session = trainer.session
    nap = lambda: time.sleep(SECONDS)  # noqa: E731

    def now(*_: Any) -> bool:
        return trainer.done == STEP - 1 and bool(session.grid.recorder.cells[5])

    if HOW in ("reading", "all reading"):
        hang(type(session.data.train), "read", lambda _, indices, box, out, step=0: step == STEP, nap)
    if HOW in ("kernel", "nodes"):
        hang(Linear, "forward", now, nap)
    if HOW == "native":
        hang(Linear, "forward", now, lambda: ctypes.PyDLL(None).sleep(int(SECONDS)))
    if HOW == "mismatch":
        hang(Linear, "forward", now, lambda: session.grid.all.gather_values(1))
    if HOW == "fails":
        hang(Linear, "forward", now, lambda: 1 // 0)
    if HOW in ("killed", "node stopped"):
        number = signal.SIGKILL if HOW == "killed" else signal.SIGSTOP
        hang(Linear, "forward", now, lambda: os.kill(os.getpid(), number))


def body(job: Job) -> None:
    if HOW in ("nodes", "node stopped"):
        job.node = job.rank  # as if each rank had a node for itself
        platform.node = lambda: f"n{job.rank}"
    if HOW != "unwatched":
        job.watch(WARN or math.inf, END or math.inf)
    own = {"model": f"{__file__}:sleepy", "widths": "128,128"} if HOW == "model" else {}
    trainer = Trainer(CONFIG.replaced(**own), job)
    if job.rank == WHO or HOW == "all reading":
        prepare(job, trainer)
    trainer.train()
    rows = trainer.session.ledger.rows.items()
    calls = sorted((*key, tally.words, tally.messages, tally.calls) for key, tally in rows)
    sent = job._watcher.sent if job._watcher else 0
    print(f"rank {job.rank}: {trainer.done} steps, {sent} messages, ledger {fingerprint(calls)}", flush=True)


if __name__ == "__main__":
    run(body)
