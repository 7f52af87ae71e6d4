"""Part of the campaign of SIGKILLs: ranks die at random instants of a job that survives them (ULFM)."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from campaign import JOB, NETWORKS, TOLERANCE, Tally, all_ended, command_of, events
from launch import ROOT, clean_environment, kill, mpirun_command, session_members

STEPS = 120
GRIDS = ((3, "3x1"), (3, "1x3"), (4, "2x2"), (4, "4x1"))


def outlive(folder: Path, rng: random.Random, tally: Tally, reference: Callable[[str, int], dict[int, float]]) -> None:
    """Run one job whose ranks die, all but one at the most; it must end well, with the curve of the serial run."""
    ranks, grid = rng.choice(GRIDS)
    deaths, saves = rng.randint(1, ranks - 1), rng.random() < 0.5
    where, log = f"survivors ({ranks} ranks, {grid}, {deaths} deaths, saves: {saves})", folder / "log.jsonl"
    folder.mkdir()
    options = [*NETWORKS["small"], "--grid", grid, "--survive", "--log", str(log), "--steps", str(STEPS)]
    options += ["--checkpoint", str(folder / "checkpoints"), "--save-every", "1"] if saves else []
    command = [*mpirun_command(), "--with-ft", "ulfm", "-n", str(ranks), sys.executable, "-m", "gridnn", *options]
    with (folder / "errors").open("w") as file:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=clean_environment(OMP_NUM_THREADS="1"),
            cwd=ROOT,
            start_new_session=True,
        )
    try:
        limit = time.monotonic() + JOB
        while not log.exists() and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 1.5))
        for _ in range(deaths):
            if _strike(process, rng):
                tally.kills["survivors: a rank"] = tally.kills.get("survivors: a rank", 0) + 1
            time.sleep(rng.choice((0, 0.01, 0.1, 0.5)))
        if not all_ended(process, JOB):
            tally.hang(f"{where}: after {JOB:g} s")
            return
    finally:
        kill(process)
    text, wanted = (folder / "errors").read_text(), reference("small", STEPS)
    found = {event["step"]: event["loss"] for event in events(log, "step")}
    if process.returncode or "Traceback" in text:
        tally.lose(f"{where}: status {process.returncode}: {text[-600:]}")
    elif len(found) != STEPS or not all(np.isclose(found[n], wanted[n], rtol=TOLERANCE, atol=0) for n in found):
        tally.lose(f"{where}: {len(found)} steps of {STEPS}, or another curve")


def _strike(process: subprocess.Popen, rng: random.Random) -> bool:
    """Kill a rank; whether there was one besides another."""
    ranks = [pid for pid in session_members(process.pid) if command_of(pid) == sys.executable]
    if len(ranks) < 2:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(rng.choice(ranks), signal.SIGKILL)
    return True
