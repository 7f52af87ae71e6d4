"""``gridnn train``."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gridnn.cli.console import console
from gridnn.cli.options import PredictOn, configured
from gridnn.comm.job import Job, run
from gridnn.comm.launcher import launch
from gridnn.errors import UserError
from gridnn.records import OutputFile
from gridnn.train.config import RunConfig

if TYPE_CHECKING:
    from gridnn.train.report import Reporter

Log = Annotated[str | None, typer.Option("--log", metavar="FILE.jsonl", help="one JSON object a step and an epoch")]
TraceFile = Annotated[
    str | None, typer.Option("--trace", metavar="FILE.json", help="some steps of all ranks, for ui.perfetto.dev")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="show nothing but errors")]


@configured("train")
def train(
    config: RunConfig, log: Log = None, trace: TraceFile = None, predict_on: PredictOn = None, quiet: Quiet = False
) -> None:
    """Train a network on a Pr x Pc grid of ranks."""
    before_mpi(config)
    run(lambda job: _train(job, config, log, trace, predict_on, quiet))


def _train(
    job: Job, config: RunConfig, log: str | None, trace: str | None, predict_on: str | None, quiet: bool
) -> None:
    from gridnn.cost.machines import load_machine
    from gridnn.train.report import Reporter
    from gridnn.train.supervisor import Supervisor

    prepare(job, config)
    signalled = job.hold_signals() if config.train.checkpoint else lambda: 0
    if config.train.survive and config.device.backend != "numpy":
        raise UserError("--survive is for --backend numpy: what a GPU has under way when a rank dies is not mended yet")
    if predict_on and not trace:
        raise UserError(f"--predict-on {predict_on} is of --trace FILE: add it")
    if trace and (config.train.survive or config.train.regrid):
        raise UserError("--trace is of one grid, from the first step on: leave it out, or --survive and --regrid")
    warning = None if job.joins else job.overload()

    def report(append: bool) -> Reporter | None:
        return job.on_root(lambda: Reporter(console(quiet, goes_on=True), log, append))

    def begin(trainer: Any) -> None:
        if warning:
            trainer.notes.append(warning)
        if trace:
            machine = load_machine(predict_on or config.plan.machine)
            trainer.trace(job.on_root(lambda: OutputFile("--trace", trace)), machine)

    Supervisor(config, job, report, signalled, begin).train()


def before_mpi(config: RunConfig) -> None:
    """What must be there when MPI starts: the context of this rank's GPU, where the launcher says which that is."""
    local_rank = launch(os.environ).local_rank
    if config.device.backend == "cupy" and local_rank is not None:
        from gridnn.kernels.cuda.setup import make_context

        make_context(local_rank)


def prepare(job: Job, config: RunConfig) -> None:
    """Refuse what can be refused before anything is allocated, and share the cores out."""
    job.check_ranks()
    config.validate()
    job.use_threads(config.device.threads)
    job.watch(config.device.stall_warn or math.inf, config.device.stall_exit or math.inf)
