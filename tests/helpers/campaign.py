"""A campaign of SIGKILLs: jobs that write checkpoints are killed at random instants, and nothing may be lost."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from launch import ROOT, clean_environment, gridnn, kill, mpirun_command, session_members
from safetensors.numpy import load_file

from gridnn.errors import UserError
from gridnn.kernels import get_backend
from gridnn.kernels.checksum import checksum
from gridnn.train.header import read_header

COMMON = (
    *("train", "--model", "mlp", "--dataset", "synthetic", "--dtype", "float64", "--kernels", "reference"),
    *("--epochs", "100000", "--quiet"),
)
# One that does little but save and evaluate, and one whose checkpoints take longer to write than anything else.
NETWORKS = {
    "small": (
        *COMMON,
        *("--widths", "23,17,9", "--shape", "5x5x3", "--samples", "34", "--batch", "13", "--optimizer", "adamw"),
        *("--lr", "0.003", "--clip", "0.5"),
    ),
    "wide": (
        *COMMON,
        *("--widths", "1024,1024", "--shape", "24x24x1", "--samples", "40", "--batch", "16"),
    ),
}
GRIDS = ((1, "1x1", "grid"), (2, "2x1", "model"), (2, "1x2", "batch"), (3, "3x1", "grid"))
MOMENTS = ("start", "work", "work", "leave")
VICTIMS = ("a rank", "all ranks", "mpirun", "everything")
START, LEAVE = 3.0, 0.2  # seconds of a job's start, and from its last checkpoint to its end, about
LIMIT = 20.0  # seconds after a kill in which all must have ended
JOB = 60.0  # seconds that a job may take that is not killed
CHAIN = 12  # kills, before a run is brought to its end
SURVIVORS = 2  # jobs between two runs whose ranks die, but not all of them
TOLERANCE = 1e-10


@dataclass
class Tally:
    """What came of a campaign: kills by moment and victim, and a line for all that was lost, hung, or is left over."""

    kills: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def lose(self, text: str) -> None:
        self.faults.append(f"lost: {text}")

    def hang(self, text: str) -> None:
        self.faults.append(f"hung: {text}")

    @property
    def count(self) -> int:
        return sum(self.kills.values())

    def __str__(self) -> str:
        lost = sum(text.startswith("lost") for text in self.faults)
        return f"{self.count} kills, {lost} lost, {len(self.faults) - lost} hung, {len(self.left)} left over"


class Run:
    """One run in a directory of its own, whose jobs are killed, each of which goes on from where the last one was.

    Parameters
    ----------
    folder : Path
        Where its checkpoints, logs and messages go.
    network : str
        One of `NETWORKS`.
    rng : random.Random
        Draws grids, instants and victims.
    tally : Tally
        Where it is written down.
    """

    def __init__(self, folder: Path, network: str, rng: random.Random, tally: Tally) -> None:
        self.folder, self.network, self.rng, self.tally, self.jobs = folder, network, rng, tally, 0
        self.directory = folder / "checkpoints"
        (folder / "tmp").mkdir(parents=True)

    def options(self, steps: int) -> tuple[str, ...]:
        """Of the next job, which has a log of its own: a killed one may end in the middle of a line."""
        saving = ("--checkpoint", str(self.directory), "--save-every", "1", "--resume")
        return (*NETWORKS[self.network], *saving, "--log", str(self.log(self.jobs)), "--steps", str(steps))

    def log(self, job: int) -> Path:
        return self.folder / f"log-{job:03d}.jsonl"

    def kill_once(self) -> None:
        """Start a job and kill it, or some of it; if it is too quick, it counts as no kill."""
        self.jobs += 1
        ranks, grid, strategy = self.rng.choice(GRIDS)
        moment, victim, share = self.rng.choice(MOMENTS), self.rng.choice(VICTIMS), self.rng.random()
        first = newest(self.directory)
        last = first + self.rng.randint(1, 3) if moment == "leave" else first + 1000
        where = f"job {self.jobs} ({self.network}, {ranks} ranks, {grid}, {strategy}; {moment}, {victim}, {share:.3f})"
        placed = ("--grid", grid, "--strategy", strategy)
        command = [*mpirun_command(), "-n", str(ranks), sys.executable, "-m", "gridnn", *self.options(last), *placed]
        errors = self.folder / f"errors-{self.jobs:03d}"
        with errors.open("w") as file:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=clean_environment(TMPDIR=str(self.folder / "tmp"), OMP_NUM_THREADS="1"),
                cwd=ROOT,
                start_new_session=True,
            )
        try:
            self._await(process, moment, first, last, share)
            segments = mapped_segments(process.pid)
            was_killed = strike(process, victim, self.rng)
            if not all_ended(process, LIMIT):
                self.tally.hang(f"{where}: {len(session_members(process.pid))} processes after {LIMIT:g} s")
        finally:
            kill(process)
        if was_killed:
            key = f"{moment}: {victim}"
            self.tally.kills[key] = self.tally.kills.get(key, 0) + 1
        elif process.returncode:
            self.tally.lose(f"{where}: ended with status {process.returncode}: {errors.read_text()[-300:]}")
        self._look(where, errors, segments)

    def _await(self, process: subprocess.Popen, moment: str, first: int, last: int, share: float) -> None:
        """Return at the instant to kill: in the start, after a new checkpoint, or after the last one."""
        limit = time.monotonic() + JOB
        if moment == "start":
            limit, share = time.monotonic() + START * share, 0.0
        wanted = {"start": last + 1, "work": first + 1 + int(2 * share), "leave": last}[moment]
        while newest(self.directory) < wanted and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.005)
        if moment != "start" and time.monotonic() > limit:
            self.tally.hang(f"job {self.jobs}: no checkpoint {wanted} after {JOB:g} s")
        time.sleep(LEAVE * (2 * share % 1))

    def _look(self, where: str, errors: Path, segments: set[Path]) -> None:
        """Write down what the killed job has lost, and what it has left of itself outside its directory."""
        told, there = max(self._told(), default=0), newest(self.directory)
        if there < told:
            self.tally.lose(f"{where}: checkpoint {told} was told as saved, the newest one is {there}")
        if there and (why := damage(self.directory / f"step-{there:08d}.safetensors")):
            self.tally.lose(f"{where}: {why}")
        text = errors.read_text()
        if "Traceback" in text or "gridnn: checkpoint" in text or "gridnn: --" in text:
            self.tally.lose(f"{where}: {text[-600:]}")
        for path in filter(Path.exists, segments):
            self.tally.left.append(f"{where}: {path}")
            path.unlink()

    def _told(self) -> list[int]:
        return [event["step"] for job in range(1, self.jobs + 1) for event in events(self.log(job), "checkpoint")]

    def finish(self, reference: Callable[[str, int], dict[int, float]]) -> None:
        """Let a last job end by itself; the losses of all jobs must be those of the uninterrupted run."""
        self.jobs += 1
        ranks, grid, strategy = self.rng.choice(GRIDS)
        last, where = newest(self.directory) + 2, f"last job ({self.network}, {grid})"
        try:
            done = gridnn(ranks, *self.options(last), "--grid", grid, "--strategy", strategy, timeout=JOB)
        except TimeoutError as error:
            self.tally.hang(f"{where}: {error}")
            return
        if done.returncode:
            self.tally.lose(f"{where}: status {done.returncode}: {done.stderr}")
            return
        wanted, found = reference(self.network, last), set()
        for job in range(1, self.jobs + 1):
            for event in events(self.log(job), "step"):
                found.add(event["step"])
                if not np.isclose(event["loss"], wanted[event["step"]], rtol=TOLERANCE, atol=0):
                    self.tally.lose(f"{where}: loss {event} of job {job}, but {wanted[event['step']]}")
        if missing := set(range(1, last + 1)) - found:
            self.tally.lose(f"{where}: no losses of the steps {sorted(missing)}")
        others = [path.name for path in self.directory.iterdir() if path.suffix != ".safetensors"]
        self.tally.left += [f"{where}: {name}" for name in others]


class Campaign:
    """Runs that are killed, one after the other, in a folder; ``tell`` hears how far it is.

    Between two of them come jobs of which only some ranks die: ``outlive(folder, rng, tally, reference)``.
    """

    def __init__(self, folder: Path, seed: int, tell: Callable[[str], None], outlive: Callable[..., None]) -> None:
        self.folder, self.rng, self.tell, self.tally = folder, random.Random(seed), tell, Tally()
        self.outlive = outlive
        self._references: dict[str, dict[int, float]] = {}

    def run(self, kills: int, seconds: float = float("inf"), networks: tuple[str, ...] = tuple(NETWORKS)) -> Tally:
        """Kill so many jobs, or as many as there is time for."""
        began, number, told = time.monotonic(), 0, 0
        while self.tally.count < kills and time.monotonic() - began < seconds:
            run = Run(self.folder / f"run-{number:03d}", networks[number % len(networks)], self.rng, self.tally)
            goal = min(kills, self.tally.count + CHAIN)
            while self.tally.count < goal and time.monotonic() - began < seconds:
                run.kill_once()
            run.finish(self.reference)
            for job in range(SURVIVORS if self.tally.count < kills else 0):
                self.outlive(self.folder / f"survivors-{number:03d}-{job}", self.rng, self.tally, self.reference)
            number += 1
            self.tell(f"{time.monotonic() - began:5.0f} s: {self.tally}")
            for fault in self.tally.faults[told:]:
                self.tell(fault)
            told = len(self.tally.faults)
        return self.tally

    def reference(self, network: str, steps: int) -> dict[int, float]:
        """The losses of an uninterrupted run of at least so many steps."""
        known = self._references.get(network, {})
        if len(known) < steps:
            steps = max(2 * steps, 60)
            log = self.folder / f"{network}-{steps}.jsonl"
            done = gridnn(1, *NETWORKS[network], "--steps", str(steps), "--log", str(log), timeout=2 * JOB)
            assert done.returncode == 0, done.stderr
            known = self._references[network] = {event["step"]: event["loss"] for event in events(log, "step")}
        return known


def newest(directory: Path) -> int:
    """The number of the newest checkpoint; 0 if there is none."""
    return max((int(path.name[5:13]) for path in directory.glob("step-*.safetensors")), default=0)


def events(log: Path, kind: str) -> list[dict]:
    """The events of one kind in a log, which may end in the middle of a line."""
    lines = log.read_text().split("\n")[:-1] if log.exists() else []
    return [event for event in map(json.loads, lines) if event["event"] == kind]


def damage(path: str | Path) -> str:
    """What is wrong with a checkpoint; nothing if every tensor is what was written."""
    try:
        header = read_header(str(path))
    except UserError as error:
        return str(error)
    backend, arrays = get_backend("numpy"), load_file(path)
    sums = {name: checksum(backend, a, tuple((0, n) for n in a.shape), a.shape) for name, a in arrays.items()}
    return "" if sums == header.digests else f"{path}: {[n for n in sums if sums[n] != header.digests[n]]} are damaged"


def command_of(pid: int) -> str:
    """The program of a process; nothing if it has ended, or is a zombie."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().partition("\0")[0]
    return ""


def mapped_segments(session: int) -> set[Path]:
    """The segments of shared memory of the processes of a session."""
    found: set[Path] = set()
    for pid in session_members(session):
        with contextlib.suppress(OSError):
            found.update(map(Path, re.findall(r"/dev/shm/\S+", Path(f"/proc/{pid}/maps").read_text())))
    return found


def strike(process: subprocess.Popen, victim: str, rng: random.Random) -> bool:
    """Kill some of a job's processes; whether there were any."""
    if process.poll() is not None:
        return False
    everything = [process.pid, *(pid for pid in session_members(process.pid) if pid != process.pid)]
    ranks = [pid for pid in everything if command_of(pid) == sys.executable]
    chosen = {"a rank": rng.sample(ranks, min(1, len(ranks))), "all ranks": ranks, "mpirun": [process.pid]}
    for pid in chosen.get(victim, everything) or [process.pid]:  # before the ranks are there: mpirun
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return True


def all_ended(process: subprocess.Popen, seconds: float) -> bool:
    """Whether every process of a job ends in time; zombies whose parent was killed have."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if process.poll() is not None and not any(map(command_of, session_members(process.pid))):
            return True
        time.sleep(0.02)
    return False
