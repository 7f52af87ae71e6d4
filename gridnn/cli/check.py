"""``gridnn check``: what a run would find here, and what is wrong with it."""

from __future__ import annotations

import os
import platform
import re
import shutil
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console
from rich.table import Table

from gridnn.cli.check_last import show_last
from gridnn.cli.console import console, refusing
from gridnn.comm.job import FAILED, Job, run
from gridnn.comm.launcher import launch, mpirun_owner, vendor
from gridnn.comm.segments import stale_segments
from gridnn.comm.threads import Blas, affinity, libraries, limit_threads
from gridnn.errors import UserError

LISTED_RANKS = 16
OLDER_KERNELS = ("haswell", "zen", "excavator", "steamroller", "piledriver", "bulldozer", "sandybridge", "nehalem")


class Problem(NamedTuple):
    """Something that is wrong, with its remedy; ``stops`` if nothing can be trained before it is mended."""

    text: str
    stops: bool = False


class Place(NamedTuple):
    """Where one rank runs, and how fast it multiplies matrices on one core (GFLOP/s, float32)."""

    node: str
    local_rank: int
    cores: int
    threads: int
    speed: float


Last = Annotated[bool, typer.Option("--last", help="instead, what the ranks did of the last job that stalled or died")]
Operations = Annotated[int, typer.Option("--operations", metavar="N", min=0, help="with --last: of every rank")]


def check(last: Last = False, operations: Operations = 0) -> None:
    """Show MPI, launcher, ranks, cores, threads, BLAS and GPUs, and what is wrong with each remedy."""
    if not last and not operations:
        run(_check)
    with refusing():
        if not last:
            raise UserError(f"--operations {operations} is of --last: add it")
        if not launch(os.environ).rank:
            show_last(operations, console())


def _check(job: Job) -> int:
    from gridnn.cli.check_gpu import gpu_facts

    limit_threads(1)
    speed = gemm_speed()
    job.use_threads()
    place = Place(platform.node(), job.local_rank, len(affinity()), job.threads, speed)
    places, overload = job.comm.gather(place), job.overload()
    problems = _launch_problems(job)
    gpu, wrong = gpu_facts(job)
    status = FAILED if any(problem.stops for problem in problems) else 0
    if not job.speaks:
        return status
    blas, kernels = libraries(), _kernels()
    problems += [*_cpu_problems(blas, cpu_flags(), os.environ), *_package_problems(kernels)]
    problems += [Problem(overload)] if overload else []
    problems += _segment_problems(stale_segments())
    problems += map(Problem, wrong)
    out = console()
    out.print(_facts(job, places, blas, kernels, gpu))
    out.print(_ranks(places))
    _show_problems(problems, out)
    return status


def _kernels() -> Any:
    """The kernels that a run gets."""
    from gridnn.kernels import get_backend

    return get_backend("numpy", "auto").kernels


def gemm_speed(size: int = 1024, seconds: float = 0.3) -> float:
    """The best GFLOP/s of a square float32 product of ``size``, with the threads that are set."""
    from gridnn.kernels import get_backend

    xp = get_backend("numpy").xp
    a, out = xp.ones((size, size), dtype="float32"), xp.empty((size, size), dtype="float32")
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end or best == float("inf"):
        start = time.perf_counter()
        xp.matmul(a, a, out=out)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best / 1e9


def cpu_flags() -> frozenset[str]:
    """The instruction sets of this CPU; none where the system does not say."""
    try:
        flags = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        return frozenset()
    return frozenset(flags.group(1).split()) if flags else frozenset()


def _segment_problems(stale: list[Path]) -> list[Problem]:
    """Shared memory of jobs that were killed; it is a node's memory until somebody removes it."""
    if not stale:
        return []
    size = sum(path.stat().st_size for path in stale if path.exists())
    named = " ".join(map(str, stale[:4])) + (" ..." if len(stale) > 4 else "")
    return [Problem(f"{len(stale)} segments of shared memory ({size / 1e6:.0f} MB) are of jobs that ended: rm {named}")]


def _launch_problems(job: Job) -> list[Problem]:
    try:
        job.check_ranks()
    except UserError as error:
        return [Problem(str(error), stops=True)]
    return [] if job.launch.launcher else _mpirun_problems(vendor(job.library), os.environ)


def _mpirun_problems(library: str, env: Any) -> list[Problem]:
    """What a later ``mpirun`` would meet; it is only asked where this process was not started by one."""
    path = shutil.which("mpirun")
    if path is None:
        return [Problem(f"no mpirun in PATH: add the directory of {library}'s mpirun, or use srun")]
    owner = mpirun_owner(path)
    if owner and owner != library:
        return [Problem(f"mpirun in PATH ({path}) is {owner}'s, but MPI is {library}: use the mpirun of {library}")]
    allowed = env.get("OMPI_ALLOW_RUN_AS_ROOT") and env.get("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM")
    if owner == "Open MPI" and os.geteuid() == 0 and not allowed:
        remedy = "export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1, or use another user"
        return [Problem(f"Open MPI's mpirun refuses root: {remedy}")]
    return []


def _cpu_problems(blas: list[Blas], flags: frozenset[str], env: Any) -> list[Problem]:
    problems = [] if blas else [Problem("no BLAS whose threads can be set was found: bind each rank to its cores")]
    for library in blas:
        if library.name == "openblas" and "avx512f" in flags and library.kernel.lower() in OLDER_KERNELS:
            pinned = env.get("OPENBLAS_CORETYPE")
            remedy = "unset OPENBLAS_CORETYPE" if pinned else "install a newer NumPy, or try OPENBLAS_CORETYPE=SkylakeX"
            cause = f" because OPENBLAS_CORETYPE={pinned}" if pinned else ""
            problems.append(
                Problem(f"this CPU has AVX-512, but the BLAS uses its {library.kernel} kernel{cause}: {remedy}")
            )
    return problems


def _package_problems(kernels: Any) -> list[Problem]:
    problems = []
    if kernels.name == "reference":
        problems.append(Problem("NumPy computes everything, several times slower: pip install 'gridnn[fast]'"))
    if find_spec("sklearn") is None:
        problems.append(Problem("scikit-learn's digits, the default data set, are missing: pip install 'gridnn[data]'"))
    return problems


def _facts(job: Job, places: list[Place], blas: list[Blas], kernels: Any, gpu: dict[str, str]) -> Table:
    per_node = sorted({sum(other.node == place.node for other in places) for place in places})
    speeds = [place.speed for place in places]
    table = Table(show_header=False, title="gridnn check", title_justify="left")
    rows = {
        "MPI library": job.library,
        "launcher": job.launch.launcher or "none",
        "ranks": f"{job.size} on {job.nodes} node{'s' * (job.nodes > 1)}, {_range(per_node)} a node",
        "threads per rank": _range([place.threads for place in places]),
        "cores of a node": f"{job.cores} usable by its ranks, {os.cpu_count()} hardware threads in all",
        "BLAS": "; ".join(map(str, blas)) or "unknown",
        "kernels": kernels.described("float32"),
        "GEMM, one core": f"{_range([round(speed) for speed in speeds])} GFLOP/s (float32, 1024 x 1024)",
        **gpu,
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _ranks(places: list[Place]) -> Table:
    table = Table("rank", "node", "local rank", "cores", "threads")
    for rank, place in enumerate(places[:LISTED_RANKS]):
        table.add_row(str(rank), place.node, str(place.local_rank), str(place.cores), str(place.threads))
    if len(places) > LISTED_RANKS:
        table.add_row("...", f"{len(places) - LISTED_RANKS} more", "", "", "")
    return table


def _range(values: list[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"


def _show_problems(problems: list[Problem], out: Console) -> None:
    for number, problem in enumerate(sorted(problems, key=lambda problem: not problem.stops), 1):
        weight = "stops training" if problem.stops else "warning"
        out.print(f"{number}. {weight}: {problem.text}", markup=False, soft_wrap=True)
    if not problems:
        out.print("no problems found")
