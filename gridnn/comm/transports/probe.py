"""Measuring whether this MPI takes device pointers, in child processes that may crash, hang or compute nonsense."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from gridnn.comm.launcher import mpirun_owner, short_version, vendor
from gridnn.comm.transports.capabilities import beside_library
from gridnn.comm.transports.probe_calls import LIMIT, PASSED, SAYS, STARTED, TRYING

CHILD = (sys.executable, "-m", "gridnn.comm.transports.probe_calls")
RANKS = 2

# What a launcher has told this process must not be told to the child's: it would take itself for one of our ranks.
LAUNCHERS = re.compile(r"OMPI_|OPAL_USER|PMIX_|PMI|PRTE_(?!MCA_)|SLURM_|MPI_LOCAL|HYD|PALS_|FLUX_|ALPS_")
# The user's own settings, which the test is to have too, and where an installation lies that was moved.
KEPT = re.compile(r"OMPI_ALLOW_|OMPI_MCA_(?!initial_wdir|num_procs|cpu_type|PREFIXES|orte_|ess|pmix)|\w+_PREFIX$")
# Two processes wherever this one may run: Open MPI counts cores, others ignore these.
ANYWHERE = {
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "PRTE_MCA_hwloc_default_binding_policy": "none",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMPI_MCA_hwloc_base_binding_policy": "none",
}
AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}  # this job runs as root already


class Verdict(NamedTuple):
    """What was found out."""

    passed: bool | None  # whether device pointers came through with right numbers; None: it could not be tested
    text: str  # how it is known, or why not, in one line


def probe(library: str, child: Sequence[str] = CHILD, limit: float = LIMIT) -> Verdict:
    """Let two processes of this node, started by the library's own mpirun, move device memory; else one alone.

    They have ``limit`` seconds; ``child`` makes the calls and tells how far it came (see `probe_calls`).
    """
    started, env, name = time.monotonic(), child_environment(os.environ), short_version(library)
    launcher, verdict = own_mpirun(library), Verdict(None, "")
    if launcher:
        verdict = _attempt([launcher, "-n", str(RANKS), *child], RANKS, limit, env, name)
    left = started + limit - time.monotonic()
    if verdict.passed is None and left > 0:
        verdict = _attempt(list(child), 1, left, env, name)
    return verdict


def own_mpirun(library: str) -> str | None:
    """An mpirun that starts processes with this MPI library: the one installed with it, or that of PATH."""
    beside = beside_library()
    for path in (shutil.which("mpirun", path=str(beside)) if beside else None, shutil.which("mpirun")):
        if path and mpirun_owner(path) == vendor(library):
            return path
    return None


def child_environment(env: Mapping[str, str]) -> dict[str, str]:
    """``env`` without what this job's launcher put there, so that a launcher can be started inside."""
    kept = {name: value for name, value in env.items() if KEPT.match(name) or not LAUNCHERS.match(name)}
    return {**kept, **ANYWHERE, **(AS_ROOT if os.geteuid() == 0 else {})}


def _attempt(command: list[str], ranks: int, limit: float, env: dict[str, str], name: str) -> Verdict:
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=env,
            start_new_session=True,  # so that all of it can be ended
        )
    except OSError as error:
        return Verdict(None, f"not tested: {Path(command[0]).name} cannot be started ({error.strerror})")
    try:
        output, errors = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        output, errors = _kill(process)
        return judge(None, output, errors, ranks, name, limit)
    return judge(process.returncode, output, errors, ranks, name, limit)


def _kill(process: subprocess.Popen) -> tuple[str, str]:
    """End a launcher and all of its processes; what they have said."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)  # mpirun passes it on to ranks in groups of their own
    try:
        return process.communicate(timeout=3)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        for stream in (process.stdout, process.stderr):
            stream.close()
        process.wait()
        return "", ""


def judge(status: int | None, output: str, errors: str, ranks: int, name: str, limit: float = LIMIT) -> Verdict:
    """What a child's end says about MPI: its exit status (None: ended at the limit), and what its processes said."""
    said = [line.split(SAYS, 1)[1].strip() for line in output.splitlines() if SAYS in line]
    where = f"a test of {name} in {ranks} process{'es' * (ranks > 1)}"
    tried = [line.removeprefix(TRYING) for line in said if line.startswith(TRYING)]
    found = [line for line in said if line != PASSED and not line.startswith((TRYING, STARTED))]
    if any(line != f"{STARTED}{ranks}" for line in said if line.startswith(STARTED)):
        return Verdict(None, f"not tested: {ranks} processes were started that do not see each other")
    if status == 0 and said.count(PASSED) == ranks and not found:
        return Verdict(True, f"{where} moved device memory")
    if not tried:
        last = (found or [line for line in errors.splitlines() if line.strip()] or [_ended(status, limit)])[-1]
        return Verdict(None, f"not tested: {where} did not come to its first call ({last.strip()[:200]})")
    if found:
        return Verdict(False, f"{where} failed: {found[0]}")
    return Verdict(False, f"{where} {_ended(status, limit)} in {tried[-1]}")


def _ended(status: int | None, limit: float) -> str:
    if status is None:
        return f"did not end within {limit:.0f} s"
    number = -status if status < 0 else status - 128  # shells and launchers add 128
    with contextlib.suppress(ValueError):
        return f"was ended by {signal.Signals(number).name}"
    return f"ended with status {status}"
