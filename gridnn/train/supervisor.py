"""A run over deaths of ranks and changes of its grid: one trainer after the other, with what the last one had."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from gridnn.errors import UserError, within_memory
from gridnn.train.config import RunConfig
from gridnn.train.copies import Copies, restore
from gridnn.train.moving import move_tensors
from gridnn.train.report import Reporter
from gridnn.train.resume import go_on
from gridnn.train.session import Inherited
from gridnn.train.setup import prepare_run
from gridnn.train.trainer import Trainer

# What a strategy may be given up for where it has no plan for the ranks that are left.
FALLBACKS: tuple[dict[str, Any], ...] = (
    {},
    {"replicas": True},
    {"strategy": "grid", "replicas": True, "domain": None, "memory": None},
)


class Supervisor:
    """Trains a network, whatever becomes of its ranks; all ranks make it and run it together.

    Parameters
    ----------
    config : RunConfig
        What to do.
    job : Job
        The ranks.
    report : callable
        Makes the reporter of this rank: ``report(append)``, None where it shows nothing. All ranks call it together.
    signalled : callable
        As of `Trainer`.
    prepare : callable
        Called with the first trainer before it trains.
    """

    def __init__(
        self,
        config: RunConfig,
        job: Any,
        report: Callable[[bool], Reporter | None],
        signalled: Callable[[], int] = lambda: 0,
        prepare: Callable[[Trainer], None] = lambda trainer: None,
    ) -> None:
        self.config, self.job, self.report, self.signalled = config, job, report, signalled
        self.prepare, self.ranks = prepare, job.size
        self.kept: Inherited | None = None
        self.survivors: Any = None
        self.copies: Copies | None = None
        self._died: tuple[type[BaseException], ...] = ()
        options = config.train
        if options.survive:
            self.survivors = job.survive(respawn=options.survive == "respawn")
            self.copies = Copies(self.survivors.agree, options.copy_every)
            self._died = (self.survivors.error,)

    def train(self) -> None:
        """Run to the end.

        Raises
        ------
        UserError
            As `Trainer.train`, and if no plan is found for another grid.
        """
        trainer: Trainer | None = None
        while True:
            try:
                trainer = trainer or (self._restored([]) if self.job.joins else self._first())
                trainer.train()
                if not trainer.paused:
                    break
                trainer = self._regridded(trainer)
            except self._died as error:
                trainer = self._recovered(error)
        if self.survivors is None:  # it leaves without a word, which somebody may no longer hear
            trainer.session.grid.free()

    # -- trainers ----------------------------------------------------------------------------------------------

    def _first(self) -> Trainer:
        for step, grid in self.config.train.regrids.items():
            self._check_grid(step, grid)
        trainer = self._make(self.config, self.config.train.resume)
        self.prepare(trainer)
        return trainer

    def _make(self, config: RunConfig, append: bool, bring: Callable[[Trainer], None] | None = None) -> Trainer:
        """The trainer of ``config`` on the ranks that there are; ``bring`` gives it what another one had."""
        with within_memory():
            options = {"before": self.kept, "survivors": self.survivors, "goes_on": bring is not None}
            trainer = Trainer(config, self.job, self.report(append), self.signalled, **options)
        try:
            if bring:
                bring(trainer)
        except BaseException:
            trainer.close()
            raise
        session, self.config, self.ranks = trainer.session, config, self.job.size
        self.kept = Inherited(session.data, session.ledger)
        if self.copies:
            shape, members = session.plan.grid, self.survivors.members
            ranks = (shape.rank(place % shape.rows, place // shape.rows) for place in range(shape.size))
            self.copies.follow(config, trainer.tensors, session.grid, [members[rank].node for rank in ranks])
            trainer.copies = self.copies
        return trainer

    def _check_grid(self, step: int, grid: str) -> None:
        """Refuse a change of the grid that has no plan, before the first step."""
        try:
            self._try_plan(self._on(grid))
        except UserError as error:
            raise UserError(f"--regrid {step}:{grid}: {error}") from error

    def _try_plan(self, config: RunConfig) -> None:
        """Refuse a configuration that has no plan for the ranks that there are."""
        prepare_run(config, self.job.size, self.kept and self.kept.data)

    def _on(self, grid: str) -> RunConfig:
        """The configuration with another grid; a plan of a file, or a group of ranks, is of the one before."""
        return self.config.replaced(grid=grid, plan=None, group=None)

    def _regridded(self, before: Trainer) -> Trainer:
        """A trainer on the grid that is asked for now, which goes on with what ``before`` has."""
        (_, grid), *later = before.options.regrids.items()
        left = ",".join(f"{step}:{grid}" for step, grid in later)
        session = before.session

        def bring(trainer: Trainer) -> None:
            move_tensors(before.tensors, session.grid, trainer.tensors, trainer.session.grid)
            go_on(trainer.session, trainer.optimizer, trainer.progress, before.progress, session.loss_scale)
            grids = session.plan.grid, trainer.session.plan.grid
            trainer.notes.append(f"after step {trainer.done} from grid {grids[0]} to grid {grids[1]}")

        trainer = self._make(_continued(self._on(grid).replaced(regrid=left or None)), True, bring)
        session.grid.free()
        return trainer

    # -- deaths ------------------------------------------------------------------------------------------------

    def _recovered(self, error: BaseException) -> Trainer:
        """A trainer on the ranks that live, which goes on from the newest copy; ``error`` if nobody has died."""
        began, died = time.perf_counter(), []
        while True:
            more = self.survivors.mend()
            if not more:
                raise error
            died += more
            try:
                trainer = self._restored(died)
            except self._died as another:
                error = another
                continue
            trainer.notes[-1] += f" ({time.perf_counter() - began:.1f} s)"
            return trainer

    def _restored(self, died: Sequence[str]) -> Trainer:
        """A trainer on the ranks of the job, at the newest copy, the newest checkpoint, or the beginning."""
        self.job.use_threads(self.config.device.threads)
        died = self.survivors.share(died or None) or died  # ranks that are new have not seen it
        mine = self.copies.last
        moment = self.survivors.share(mine.moment if mine else None)
        config, ranks = (moment.config, moment.places) if moment else (self.config, self.ranks)
        if self.survivors.share(self.kept and True):  # else not even the directory of the checkpoints was looked at
            config = _continued(config)

        def bring(trainer: Trainer) -> None:
            if moment and restore(mine, moment, trainer.tensors, trainer.session.grid):
                go_on(trainer.session, trainer.optimizer, trainer.progress, moment.progress, moment.scale)
                told = f"from the copy of step {trainer.done}"
            elif trainer.checkpoints and trainer.checkpoints.newest is not None:
                told = "; ".join(trainer.checkpoints.resume(trainer.progress))
            else:
                told = "no copy is whole and there is no checkpoint, so the run begins again"
            told += f"; goes on with {self.job.size} ranks as {trainer.session.plan.grid}"
            if trainer.options.regrid != config.train.regrid:
                told += f", without --regrid {config.train.regrid}, which is for {ranks}"
            trainer.notes.append(f"{', '.join(died)} died: {told}")

        return self._make(self._fitting(config, ranks), True, bring)

    def _fitting(self, config: RunConfig, ranks: int) -> RunConfig:
        """The configuration of so many ``ranks`` on those that there are: with a grid, and a strategy that has one."""
        if self.job.size == ranks:
            return config
        config = config.replaced(grid="auto", plan=None, group=None, strategy=config.plan.divider, regrid=None)
        for changes in FALLBACKS:
            try:
                other = config.replaced(**changes)
                self._try_plan(other)
                return other
            except UserError as error:
                mistake = error
        raise mistake


def _continued(config: RunConfig) -> RunConfig:
    """The configuration of a run that goes on: its directory holds checkpoints that are its own."""
    return config.replaced(resume=bool(config.train.checkpoint))
