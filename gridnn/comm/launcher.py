"""What the program that started this process says about the job, read from the environment.  Needs no MPI."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gridnn.errors import UserError

# Who started the process, and the variables that tell it apart, the rank and the number of ranks.  The first row whose
# variables are there is believed: a mpirun inside a Slurm job starts the ranks, not Slurm, and srun speaks PMI too. Of
# Slurm's variables only those of a step are about processes: a shell of salloc has those of the job.
OPEN_MPI, HYDRA = "Open MPI's mpirun", "The mpirun of MPICH or Intel MPI"
SOURCES = (
    (OPEN_MPI, "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    (HYDRA, "MPI_LOCALNRANKS", "PMI_RANK", "PMI_SIZE"),
    ("Slurm", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
    ("A PMI launcher", "PMI_SIZE", "PMI_RANK", "PMI_SIZE"),
    ("A PMIx launcher", "PMIX_RANK", "PMIX_RANK", None),
    ("A launcher of PyTorch (torchrun, accelerate, deepspeed)", "LOCAL_RANK", "RANK", "WORLD_SIZE"),
)
# What each says about the rank among those of its node.
LOCAL_RANKS = {OPEN_MPI: "OMPI_COMM_WORLD_LOCAL_RANK", HYDRA: "MPI_LOCALRANKID", "Slurm": "SLURM_LOCALID"}
PMI = {"Open MPI": "pmix", "MPICH": "pmi2", "Intel MPI": "pmi2"}
OWNERS = {"Open MPI": "Open MPI", "Intel": "Intel MPI", "HYDRA": "MPICH"}  # what an mpirun says -> whose it is
TOLERANT = "OMPI_MCA_mpi_ft_enable"  # set by mpirun --with-ft ulfm
JOINING = "GRIDNN_JOINING"  # set by a job for the processes that it starts in the place of ranks that died
MPIRUNS = ("mpirun", "mpiexec", "prterun", "prted", "prte", "orterun", "orted")  # processes that start ranks
STRANGERS = {(OPEN_MPI, "MPICH"), (OPEN_MPI, "Intel MPI"), (HYDRA, "Open MPI")}


@dataclass(frozen=True)
class Launch:
    """The launcher's word."""

    launcher: str | None = None  # who started this process; None for a process started by hand
    # rank, size: its number and how many there are, where the launcher says so
    rank: int | None = None
    size: int | None = None
    local_rank: int | None = None  # its number among the ranks of its node, where the launcher says so


def launch(env: Mapping[str, str]) -> Launch:
    """Who started this process, as the environment ``env`` says."""
    for name, mark, rank, size in SOURCES:
        if env.get(mark, "").isdecimal():
            local = env.get(LOCAL_RANKS.get(name, ""), "")
            place = int(local) if local.isdecimal() else None
            return Launch(name, int(env.get(rank, "0")), int(env[size]) if size in env else None, place)
    return Launch()


def tolerant(env: Mapping[str, str]) -> bool:
    """Whether the launcher lets ranks survive the death of others."""
    return env.get(TOLERANT) == "1"


def at_terminal(env: Mapping[str, str]) -> bool:
    """Whether somebody watches what this process prints.

    Open MPI gives its ranks a pseudo-terminal of their own even where its output goes to a file, so there it is the
    output of mpirun, this process's parent, that is looked at.
    """
    if not sys.stdout.isatty():
        return False
    if launch(env).launcher is None:
        return True
    try:
        return bool(re.match("/dev/(pts/|tty)", os.readlink(f"/proc/{os.getppid()}/fd/1")))
    except OSError:
        return False


def vendor(library: str) -> str:
    """The name of an MPI library from its version text."""
    if library.startswith("Intel"):
        return "Intel MPI"
    return next((name for name in PMI if name in library), library.split(",")[0])


def mpirun_owner(path: str) -> str | None:
    """The name of the MPI library that the mpirun at ``path`` belongs to; None if it does not say."""
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    return next((name for mark, name in OWNERS.items() if mark in said), None)


def short_version(library: str) -> str:
    """Name and version from the version text of an MPI library: its first words."""
    return " ".join(library.strip("\0 \n").splitlines()[0].split(",")[0].split())


def check_library(env: Mapping[str, str], library: str) -> None:
    """Refuse a library that cannot be started by this launcher; it may be asked before MPI is initialised.

    The `UserError` names the launcher that fits.
    """
    said, name = launch(env), vendor(library)
    if (said.launcher, name) in STRANGERS and said.size != 1:
        raise UserError(
            f"{said.launcher} started {said.size} processes, but MPI here is {name}, which it cannot start: "
            f"use the mpirun that belongs to {name} (mpirun -n {said.size} ...)"
        )


def check_launcher(env: Mapping[str, str], parent: int) -> None:
    """Refuse to go on as an orphan: Open MPI would take a process whose mpirun has been killed for a job of its own.

    ``parent`` is the parent process: a process whose own has ended gets the system's first one, or systemd.
    """
    try:
        name = Path(f"/proc/{parent}/comm").read_text().strip()
    except OSError:
        return
    if launch(env).launcher == OPEN_MPI and (parent == 1 or name == "systemd") and name not in MPIRUNS:
        raise UserError(f"{OPEN_MPI} has ended, which started this process: start the job again")


def check_ranks(env: Mapping[str, str], ranks: int, library: str) -> None:
    """Refuse a job whose launcher started more processes than the world communicator has ``ranks``.

    ``library`` is the version text of the MPI library; the `UserError` names the launchers that fit.
    """
    said, name = launch(env), vendor(library)
    if said.size is None or said.size <= ranks:
        return
    fits, one = f"the mpirun that belongs to {name} (mpirun -n {said.size} ...)", "mpirun -n 1"
    if said.launcher == "Slurm":
        fits = f"srun --mpi={PMI.get(name, 'pmix')} (srun --mpi=list names what this site has), or {fits}"
        one = "srun -n 1"
    raise UserError(
        f"{said.launcher} started {said.size} processes, but each sees {ranks} in MPI ({name}): "
        f"they would train {said.size} times beside each other. Use {fits}. For one process on purpose use {one}."
    )
