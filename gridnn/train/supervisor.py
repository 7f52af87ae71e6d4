"""A run over deaths of ranks and changes of its grid: one trainer after the other, with what the last one had."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from gridnn.errors import UserError, within_memory
from gridnn.train.config import RunConfig
from gridnn.train.copies import Copies, Copy, Moment, restore
from gridnn.train.moving import move_tensors
from gridnn.train.report import Reporter
from gridnn.train.resume import go_on
from gridnn.train.session import NOTHING
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
        self.kept = NOTHING
        self.survivors: Any = None
        self.copies: Copies | None = None
        options = config.train
        if options.survive:
            self.survivors = job.survive(respawn=options.survive == "respawn")
            self.copies = Copies(self.survivors.agree, options.copy_every)

    def train(self) -> None:
        """Run to the end.

        Raises
        ------
        UserError
            As `Trainer.train`, and if no plan is found for another grid.
        """
        try:
            trainer = self._train()
        finally:
            if self.kept.lock:
                self.kept.lock.release()
        if self.survivors is None:  # it leaves without a word, which somebody may no longer hear
            trainer.session.grid.free()

    def _train(self) -> Trainer:
        trainer: Trainer | None = None
        while True:
            try:
                trainer = trainer or (self._restored([]) if self.job.joins else self._first())
                trainer.train()
                if not trainer.paused:
                    return trainer
                trainer = self._regridded(trainer)
            except Exception as error:
                if not self._is_death(error):
                    raise
                trainer = None  # its memory is needed
                trainer = self._recovered(error)

    def _is_death(self, error: BaseException) -> bool:
        return self.survivors is not None and self.survivors.explains(error)

    # -- trainers ----------------------------------------------------------------------------------------------

    def _first(self) -> Trainer:
        trainer = self._make(self.config, self.config.train.resume)
        try:
            for step, grid in self.config.train.regrids.items():
                self._check_grid(step, grid)
            self.prepare(trainer)
        except BaseException:
            trainer.close()
            raise
        return trainer

    def _make(self, config: RunConfig, append: bool, bring: Callable[[Trainer], None] | None = None) -> Trainer:
        """The trainer of ``config`` on the ranks that there are; ``bring`` gives it what another one had."""
        self.job.recorder.forget()
        reporter = self.report(append)
        options = {"before": self.kept, "survivors": self.survivors, "goes_on": bring is not None}
        try:
            with within_memory():
                trainer = Trainer(config, self.job, reporter, self.signalled, **options)
        except BaseException:
            if reporter:
                reporter.close()
            raise
        session, lock = trainer.session, self.kept.lock
        if trainer.checkpoints:
            lock = trainer.checkpoints.lend() or lock
        self.kept = self.kept._replace(data=session.data, ledger=session.ledger, lock=lock)
        try:
            if bring:
                bring(trainer)
        except BaseException:
            trainer.close()
            raise
        self.config, self.ranks = config, self.job.size
        if self.copies:
            nodes = [self.survivors.members[rank].node for rank in session.plan.grid.ranks]
            self.copies.attach(config, trainer.tensors, session.grid, nodes)
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
        prepare_run(config, self.job.size, self.kept.data)

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
                raise RuntimeError(f"MPI failed, though no rank has died: {self._cause(error)}") from error
            self.copies.detach()
            traceback.clear_frames(error.__traceback__)  # with the old trainer, whose messages are broken off by now
            died += more
            try:
                with self.job.recorder.doing("going on after a death"):
                    trainer = self._restored(died)
            except Exception as another:
                if not self._is_death(another):
                    raise
                error = another
                continue
            trainer.notes[-1] += f" ({time.perf_counter() - began:.1f} s)"
            return trainer

    def _cause(self, error: BaseException) -> str:
        """What was wrong first: on other ranks it shows as communicators that are revoked."""
        revoked = self.survivors.is_revoked(error)
        return self.survivors.bcast_first(None if revoked else str(error)) or str(error)

    def _restored(self, died: Sequence[str]) -> Trainer:
        """A trainer on the ranks of the job, at the newest copy, the newest checkpoint, or the beginning."""
        self.job.use_threads(self.config.device.threads)
        first = self.survivors.bcast_first  # ranks that are new have seen nothing
        died = first(died or None) or died
        self.kept = self.kept._replace(gone=first(frozenset(self.survivors.gone) or None) or frozenset())
        mine = self.copies.last
        moment = first(mine.moment if mine else None)
        config, ranks = (moment.config, moment.places) if moment else (self.config, self.ranks)
        if began := bool(first(self.kept.data and True)):  # else not even the directory of checkpoints was looked at
            config = _continued(config)

        def bring(trainer: Trainer) -> None:
            told = self._bring(trainer, mine, moment)
            told += f"; goes on with {self.job.size} ranks as {trainer.session.plan.grid}"
            if trainer.options.regrid != config.train.regrid:
                told += f", without --regrid {config.train.regrid}, which is for {ranks}"
            trainer.notes.append(f"{', '.join(died)} died: {told}")

        return self._make(self._fitting(config, ranks), began or config.train.resume, bring)

    def _bring(self, trainer: Trainer, mine: Copy | None, moment: Moment | None) -> str:
        """Set a trainer to the newest that there is; says to what."""
        saved = trainer.checkpoints.newest if trainer.checkpoints else None
        if saved is not None and moment and saved > moment.progress.done:
            with suppress(UserError):  # a damaged one is no reason to give up, while there is a copy
                return "; ".join(trainer.checkpoints.resume(trainer.progress))
        if moment and restore(mine, moment, trainer.tensors, trainer.session.grid):
            go_on(trainer.session, trainer.optimizer, trainer.progress, moment.progress, moment.scale)
            return f"from the copy of step {trainer.done}"
        if saved is not None:
            return "; ".join(trainer.checkpoints.resume(trainer.progress))
        return "no copy is whole and there is no checkpoint, so the run begins again"

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
