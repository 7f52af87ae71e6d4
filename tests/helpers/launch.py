"""Starting commands under mpirun from a test, with a limit that holds for all their ranks."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

HELPERS = Path(__file__).resolve().parent
ROOT = HELPERS.parent.parent
BIN = Path(sys.executable).parent
ENDING = (sys.executable, str(HELPERS / "ending.py"))
NOT_STARTED = "The PMIx server's listener thread failed to start."
LAUNCHER_VARIABLES = ("OMPI_", "PMIX_", "PMI_", "PRTE_", "SLURM_")

# Open MPI: more ranks than cores, not bound to any, also as root. Other MPIs ignore these.
OVERSUBSCRIBED = {
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "PRTE_MCA_hwloc_default_binding_policy": "none",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMPI_MCA_hwloc_base_binding_policy": "none",
    "OMPI_MCA_threads_pthreads_yield_strategy": "nanosleep",  # who waits leaves the core to who works
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
}


# Where jobs that die leave their records.
STATE = {"XDG_STATE_HOME": str(Path(tempfile.gettempdir(), f"gridnn-tests-state-{os.getuid()}"))}


def mpirun_command() -> list[str]:
    """The mpirun beside this Python, unless the variable MPIRUN names another."""
    beside = BIN / "mpirun"
    return shlex.split(os.environ.get("MPIRUN") or str(beside if beside.exists() else shutil.which("mpirun")))


def clean_environment(**changes: str) -> dict[str, str]:
    """This process's environment without what a launcher (or an MPI initialised in this process) put there."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHER_VARIABLES)}
    return {**kept, **OVERSUBSCRIBED, **STATE, **changes}


def run(command: list[str], timeout: float, env: dict[str, str]) -> subprocess.CompletedProcess:
    """Run ``command`` in a session of its own; at the limit all of its processes are killed.

    Where Open MPI's mpirun cannot start its own listener, as happens once in a hundred times on a machine with much
    else to do, it is started again: no rank has run.

    Raises
    ------
    TimeoutError
        At the limit; the text holds the output so far.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
        cwd=ROOT,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        kill(process)
        out, err = process.communicate()
        text = f"{shlex.join(command)} still ran after {timeout} s\n--- stdout\n{out}\n--- stderr\n{err}"
        raise TimeoutError(text) from None
    except BaseException:
        kill(process)
        raise
    if process.returncode and NOT_STARTED in err:
        return run(command, timeout, env)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def mpirun(
    ranks: int, *args: str, timeout: float = 60, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess:
    """Run ``args`` on ``ranks`` ranks: its return code, standard output and standard error (all ranks').

    Raises
    ------
    TimeoutError
        If it takes longer than ``timeout`` seconds; nothing of it is left running.
    """
    return run([*mpirun_command(), "-n", str(ranks), *map(str, args)], timeout, clean_environment(**(env or {})))


def gridnn(ranks: int, *args: str, **options) -> subprocess.CompletedProcess:
    """Run the command ``gridnn`` on ``ranks`` ranks; options as in `mpirun`."""
    return mpirun(ranks, sys.executable, "-m", "gridnn", *args, **options)


def kill(process: subprocess.Popen) -> None:
    """End the launcher, which ends its ranks, and kill what is left of its session after five seconds."""
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5)
    for pid in session_members(process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    limit = time.monotonic() + 5
    while session_members(process.pid) and time.monotonic() < limit:
        time.sleep(0.05)


def session_members(session: int) -> list[int]:
    """The processes of a session: mpirun gives each rank a process group of its own, the session stays."""
    members = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(ProcessLookupError):
            if os.getsid(int(entry.name)) == session:
                members.append(int(entry.name))
    return members


def gone(session: int, seconds: float = 3.0) -> bool:
    """Whether no process of the session is left after a moment: mpirun ends just before its last ranks."""
    end = time.monotonic() + seconds
    while session_members(session) and time.monotonic() < end:
        time.sleep(0.05)
    return not session_members(session)


@contextlib.contextmanager
def waiting(
    command: list[str], lines: int = 1, env: dict[str, str] | None = None
) -> Iterator[tuple[subprocess.Popen, list[str]]]:
    """``command`` in a session of its own, once it has printed ``lines`` lines; with these."""
    made = clean_environment(**(env or {}))
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=made, cwd=ROOT, start_new_session=True, **options) as process:
        try:
            printed = [process.stdout.readline() for _ in range(lines)]
            assert all(printed), process.stderr.read()
            time.sleep(0.5)  # from the line into MPI
            yield process, printed
        finally:
            if process.poll() is None:
                kill(process)
