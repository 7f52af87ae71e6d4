"""``gridnn calibrate``."""

from __future__ import annotations

import math
import os
import platform
import statistics
import time
from datetime import datetime, timezone
from functools import partial
from types import SimpleNamespace
from typing import Annotated, Any

import typer

from gridnn.cli.console import console, table
from gridnn.comm.job import Job, run
from gridnn.errors import UserError
from gridnn.records import OutputFile

Output = Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="the machine file")]
Shape = Annotated[str, typer.Option("--grid", metavar="PRxPC", help="rows x columns of ranks: 4x2, 4x-1, auto")]
Order = Annotated[str, typer.Option(metavar="NAME", help="which groups have neighbouring ranks: column, row")]
Name = Annotated[str | None, typer.Option(metavar="NAME", help="of the machine; default: that of the file")]
Plot = Annotated[str | None, typer.Option(metavar="FILE.png", help="draw points and fit")]
Seconds = Annotated[float, typer.Option(metavar="N", help="how long to measure, about")]
Memory = Annotated[str | None, typer.Option(metavar="16GB", help="bytes that a rank may use; default: its share")]
Links = Annotated[int, typer.Option(metavar="N", help="network links of a node that its ranks share")]
Kernels = Annotated[str, typer.Option(metavar="NAME", help="local mathematics: auto, reference, numba, onednn")]
Threads = Annotated[int | None, typer.Option(metavar="N", help="BLAS threads per rank; default: its share")]

BUSY = 0.5  # processes a core in the last minute
LINKS = 0.5  # the share of the time that the movements get
TINY = {"model": "mlp", "shape": "4x4x1", "widths": ",".join(["8"] * 12), "dataset": "synthetic", "lr": 1e-4}
STEPS = 40  # of the tiny network; the first ones warm up


def calibrate(
    output: Output,
    grid: Shape = "auto",
    order: Order = "column",
    name: Name = None,
    plot: Plot = None,
    seconds: Seconds = 75.0,
    memory: Memory = None,
    links: Links = 1,
    kernels: Kernels = "auto",
    threads: Threads = None,
) -> None:
    """Measure movements and compute rates on the ranks at hand, all of them busy, and write a machine file."""
    asked = SimpleNamespace(**locals())
    run(lambda job: _calibrate(job, asked))


def _calibrate(job: Job, asked: Any) -> None:
    from gridnn.calibrate.calibrate import assemble, compute_of, doubted
    from gridnn.calibrate.links import measure_links, measure_overlap
    from gridnn.calibrate.rates import measure_rates
    from gridnn.cost.machine import Compute, Machine
    from gridnn.cost.machines import save_machine

    started, out = time.perf_counter(), console(quiet=job.rank > 0)
    job.check_ranks()
    job.use_threads(asked.threads)
    limit, levels, grid = _prepared(job, asked)
    job.on_root(lambda: _writable(asked))
    tell = partial(out.print, markup=False, soft_wrap=True)
    for warning in filter(None, (job.overload(), _busy(job))):
        tell(f"warning: {warning}")
    shell = Machine("measured", levels, Compute({}, 1.0))
    share = LINKS if job.size > 1 else 0.0
    points = measure_links(grid, shell, job.local_size, share * asked.seconds, limit / 8, tell)
    timed = measure_rates(grid, 0.85 * (1 - share) * asked.seconds, tell)
    tell("sums of gradients behind products")
    overlap = measure_overlap(grid)
    tell("small layers: what a call costs whatever its size")
    overhead = _overhead(job, grid, asked.kernels)
    if job.rank == 0:
        facts = _facts(job, asked, grid, timed)
        name = asked.name or _stem(asked.output)
        device = "gpu" if grid.backend.device else "cpu"
        machine, errors = assemble(name, levels, points, compute_of(timed, overhead), limit, overlap, device, facts)
        facts["seconds"] = round(time.perf_counter() - started, 1)
        machine.provenance["seconds"] = facts["seconds"]
        machine, poor = doubted(machine, points, errors, limit / 8)
        save_machine(machine, asked.output)
        show(machine, errors, out)
        for warning in poor:
            tell(f"warning: {warning}")
        if asked.plot:
            _draw(machine, points, asked.plot)
        out.print(f"{asked.output} written; calibrated in {facts['seconds']:.0f} s", markup=False)
    job.comm.Barrier()


def _busy(job: Job) -> str | None:
    """A warning if somebody else computes on a node: the fit would be of what they leave."""
    load = max(job.comm.allgather(os.getloadavg()[0] / job.cores))
    return f"the nodes are busy already ({load:.1f} processes a core): the fit will be poor" if load > BUSY else None


def _prepared(job: Job, asked: Any) -> tuple[float, tuple, Any]:
    """Bytes of a rank, levels and grid; refuses what does not fit together, on every rank alike."""
    from gridnn.calibrate.calibrate import Place, levels_of, node_memory
    from gridnn.comm.grid import Grid, GridShape
    from gridnn.kernels import get_backend
    from gridnn.units import parse_memory

    if not (math.isfinite(asked.seconds) and asked.seconds > 0):
        raise UserError(f"--seconds {asked.seconds}: must be larger than 0")
    shape = GridShape.parse(asked.grid, job.size, asked.order)
    backend = get_backend("numpy", asked.kernels)
    places = job.comm.allgather(Place(platform.node(), job.local_rank, job.local_size))
    levels = levels_of(places, asked.links)
    known = None if asked.memory is None else parse_memory(asked.memory)
    shares = job.comm.allgather((node_memory() or math.nan) / job.local_size)
    limit = known or min(shares)
    if math.isnan(limit):
        raise UserError("this system does not say how much memory it has: give --memory, the bytes of a rank")
    return limit, levels, Grid(job.comm, shape.rows, shape.cols, order=shape.order, backend=backend)


def _writable(asked: Any) -> None:
    """Refuse files that cannot be written, and libraries that are missing, before anything is measured."""
    from gridnn.calibrate.fit import solver

    solver()
    for option, path in (("--output", asked.output), ("--plot", asked.plot)):
        if path:
            OutputFile(option, path)


def _overhead(job: Job, grid: Any, kernels: str) -> float:
    """Seconds a call of a layer takes whatever its size: steps of a network whose arrays are tiny, on every rank.

    All that a step does beside its mathematics is in it, divided by the calls that the cost model counts.
    """
    from gridnn.cost.machine import Compute, Level, Machine
    from gridnn.cost.price import price
    from gridnn.train.config import RunConfig
    from gridnn.train.session import Session

    alone = SimpleNamespace(
        comm=job.comm.Split(job.rank, 0), size=1, local_rank=job.local_rank, node=job.node, recorder=job.recorder
    )
    session = Session(RunConfig.of(**TINY, batch=4, samples=4, strategy="batch", grid="1x1", kernels=kernels), alone)
    batch, times = session.grid.backend.xp.arange(4), []
    grid.all.gather_values(None)  # all start together
    for step in range(1, STEPS + 1):
        started = time.perf_counter()
        session.step(batch, step)
        times.append(time.perf_counter() - started)
    one = ((1.0, 1e30),)
    counting = Machine("calls", (Level("node", None, 0.0, 0.0),), Compute({"gemm": one, "conv": one}, 1e30, 1.0))
    calls = price([session.program], counting).compute
    return max(grid.all.gather_values(statistics.median(times[STEPS // 4 :]))) / calls


def _facts(job: Job, asked: Any, grid: Any, timed: list) -> dict[str, Any]:
    from gridnn.calibrate.calibrate import as_listed, cpu
    from gridnn.comm.threads import libraries

    return {
        "machine": f"{cpu()}, {job.cores} cores for the {job.local_size} ranks of a node",
        "host": platform.node(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "mpi": job.library,
        "launcher": job.launch.launcher or "none",
        "ranks": job.size,
        "nodes": job.nodes,
        "grid": str(grid.shape),
        "order": grid.shape.order,
        "threads": job.threads,
        "blas": "; ".join(map(str, libraries())),
        "kernels": grid.backend.kernels.described("float32"),
        "python": platform.python_version(),
        "timed": as_listed(timed),
    }


def show(machine: Any, errors: list, out: Any) -> None:
    """Print the fitted constants, how far they are from the points, and the rates."""
    rows = table(
        "fit: seconds = alpha x messages + beta x bytes (of a link)",
        ("movement", "along", "level"),
        ("from B a message: alpha us, 1/beta GB/s", "points", "median error", "largest"),
    )
    levels = {level.name: level for level in machine.levels}
    for one in errors:
        ranges = levels[one.level].movements[one.kind]
        text = "; ".join(f"{r.start:,}: {1e6 * r.alpha:.3g}, {_speed(r.beta)}" for r in ranges)
        rows.add_row(*one[:3], text, str(one.points), f"{one.median:.0%}", f"{one.largest:.0%}")
    out.print(rows)
    compute = machine.compute
    rates = table("compute rates of a rank, all ranks busy", ("work",), ("flops a call", "GFLOP/s"))
    for kind, points in compute.rates.items():
        for flops, rate in points:
            rates.add_row(kind, f"{flops:.2g}", f"{rate / 1e9:.1f}")
    out.print(rates)
    out.print(f"streams {compute.memory / 1e9:.1f} GB/s, a call {1e6 * compute.overhead:.1f} us", markup=False)
    out.print(f"{machine.overlap:.0%} of a sum of gradients goes on behind products", markup=False)
    if machine.estimates:
        why = f" ({machine.provenance['links']})" if "links" in machine.provenance else ""
        out.print(f"{machine.estimated()}{why}", markup=False)


def _speed(beta: float) -> str:
    return f"{1e-9 / beta:.3g}" if beta else "unlimited"


def _draw(machine: Any, points: list, path: str) -> None:
    from gridnn.plots.calibration import draw
    from gridnn.plots.style import save

    facts = machine.provenance
    nodes = f"{facts['nodes']} node{'s' * (facts['nodes'] > 1)}"
    title = f"{machine.name}: grid {facts['grid']} of {facts['ranks']} ranks on {nodes}"
    save(lambda figure: draw(figure, machine, points), path, title, (11.0, 6.5), f"{facts['machine']}; {facts['mpi']}")


def _stem(path: str) -> str:
    from pathlib import Path

    return Path(path).stem
