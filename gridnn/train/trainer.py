"""The training loop."""

from __future__ import annotations

import math
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from gridnn.comm.ledger import Where
from gridnn.cost.machine import Machine
from gridnn.data.order import batches, epoch_order
from gridnn.errors import UserError
from gridnn.layout.counts import DIMENSIONS
from gridnn.records import OutputFile
from gridnn.train.checkpoint import Tensor
from gridnn.train.checkpoints import Checkpoints
from gridnn.train.config import RunConfig
from gridnn.train.copies import Copies
from gridnn.train.report import Reporter
from gridnn.train.resume import Progress
from gridnn.train.schedules import make_schedule
from gridnn.train.session import NOTHING, Inherited, Session
from gridnn.train.setup import check_passes, make_optimizer
from gridnn.train.summary import moved, summary, warnings
from gridnn.train.tracing import Tracer, price_runner

CLIP = Where("(clip)", "update")
TRIES, PAUSE = 3, 0.5  # how often a checkpoint is tried, and seconds between
FAILURES = 3  # checkpoints one after the other that cannot be written: the run ends


class Trainer:
    """Trains a network; all ranks make it and run it together.

    Parameters
    ----------
    config : RunConfig
        What to do.
    job : Job
        The ranks.
    reporter : Reporter or None
        Told of every step and epoch; on rank 0 only.
    signalled : callable
        The number of a signal that has reached this rank and asks to stop; 0: none.
    before : Inherited, optional
        What its session takes over.
    survivors : Survivors, optional
        Of ranks whose death is mended.
    goes_on : bool
        Whether it goes on with what another trainer had, which its maker brings here; else with ``--resume`` from a
        checkpoint, or from the beginning.

    Attributes
    ----------
    copies : Copies or None
        Where its tensors are kept a second time.

    Raises
    ------
    UserError
        If the configuration does not fit the data, the network or the ranks, or a checkpoint does not fit the run.
    """

    def __init__(
        self,
        config: RunConfig,
        job: Any,
        reporter: Reporter | None = None,
        signalled: Callable[[], int] = lambda: 0,
        *,
        before: Inherited = NOTHING,
        survivors: Any = None,
        goes_on: bool = False,
    ) -> None:
        self.config, self.options = config, config.train
        self.job, self.reporter, self.signalled = job, reporter, signalled
        asking = (lambda: signalled() != 0) if self.options.checkpoint else None
        self.session = Session(config, job, asking, before=before, survivors=survivors)
        self.samples, self._told_graphs = len(self.session.data.train), False
        self.steps_per_epoch = self.session.steps_per_epoch
        self.total = min(self.options.epochs * self.steps_per_epoch, self.options.steps or math.inf)
        last = max(self.options.regrids, default=0)
        if last >= self.total:
            raise UserError(f"--regrid {last}:{self.options.regrids[last]}: the run ends after {self.total} updates")
        check_passes(self.session.made, self.options, self.total >= self.steps_per_epoch)
        self.schedule = make_schedule(self.options, self.steps_per_epoch, self.total)
        self.optimizer = make_optimizer(self.options).start(self.session.parameters)
        self.tracer: Tracer | None = None
        self.progress, self.notes = Progress(), [*self.session.notes, *warnings(self.session)]
        self._unsaved = 0  # checkpoints one after the other that could not be written
        self.checkpoints: Checkpoints | None = None
        if self.options.checkpoint:
            self.checkpoints = Checkpoints(self.session, self.optimizer, before.lock, before.gone)
        if self.checkpoints and self.checkpoints.left:
            self.notes.append(f"{self.options.checkpoint} was left by {self.checkpoints.left}, which does not run now")
        self.copies: Copies | None = None
        if self.checkpoints and self.options.resume and not goes_on:
            try:
                with job.recorder.waiting("reading the checkpoint"):
                    self.notes += self.checkpoints.resume(self.progress)
            except BaseException:
                self.checkpoints.close()
                raise

    def trace(self, file: OutputFile | None, machine: Machine) -> None:
        """Write a trace of some steps to ``file`` (on rank 0), beside what ``machine`` predicts; before `train`."""
        session = self.session
        predicted = price_runner(session, machine, session.batch, len(self.optimizer.arrays))
        self.tracer = Tracer(session, predicted, file, self.done, self.total)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Everything that changes from step to step, by name."""
        return self.session.tensors(self.optimizer)

    @property
    def paused(self) -> bool:
        """Whether the grid is to be changed now, before anything else is done."""
        step = min(self.options.regrids, default=math.inf)
        return self.done >= step and not self._epoch_is_whole() and not self._finished()

    @property
    def done(self) -> int:
        """The updates made, those before a checkpoint included."""
        return self.progress.done

    def train(self) -> None:
        """Run all epochs, or as many as there is time for: a signal that is held (see `Job.hold_signals`) ends it.

        Raises
        ------
        UserError
            If the loss is not finite, or a checkpoint cannot be written.
        """
        with self.job.recorder.doing("training"):
            self._train()

    def _train(self) -> None:
        if self.reporter:
            self.reporter.started(self.session.resolved, summary(self.session, self.job, self.total))
        try:
            self._tell(*self.notes)
            if self._finished():
                self._tell(f"nothing is left to do: {self.done} of {self.total} steps are made")
            self._copy()
            while not self._finished() and not self.session.asked and not self.paused:
                self._epoch()
            if self.paused and not self.session.asked:
                return
            if self.tracer:
                self._tell(self.tracer.finish())
            if self.checkpoints and self.checkpoints.saved != (self.done, self.progress.epoch):
                self._save(last=True)
            if self.session.asked:
                self._tell(self._why_stopped())
            rows = moved(self.session)
            if self.copies:
                self.copies.agree()  # so that nobody leaves whom the others still need
            if self.reporter:
                self.reporter.finished(rows)
        finally:
            self.close()

    def close(self) -> None:
        """Give the terminal, the log and the directory of the checkpoints back; may be called twice."""
        self.session.reader.close()
        if self.reporter:
            self.reporter.close()
        if self.checkpoints:
            self.checkpoints.close()

    def _finished(self) -> bool:
        """Whether no update is left, and no whole epoch waits for its evaluation."""
        return self.done >= self.total and not self._epoch_is_whole()

    def _epoch_is_whole(self) -> bool:
        return self.done == self.progress.epoch * self.steps_per_epoch

    def _epoch(self) -> None:
        """What is left of the epoch under way, the checkpoint at its end, and its evaluation, which may fail."""
        session, progress, before = self.session, self.progress, self.progress.count
        words, started, talked = session.ledger.words_by_dimension(), time.perf_counter(), session.ledger.seconds
        for indices, upcoming in self._batches():
            self._step(indices, upcoming)
            if session.asked:
                return
            if self._due() or (self._epoch_is_whole() and self.checkpoints and self.options.save_every is None):
                self._save()
            if self.copies and self.copies.due(self.done):
                self._copy()
            if self.paused:
                return
        seconds, talked = time.perf_counter() - started, session.ledger.seconds - talked
        now = session.ledger.words_by_dimension()
        moved = self._sum({dimension: now[dimension] - words[dimension] for dimension in DIMENSIONS})
        test_loss, test_right = session.evaluate(session.data.test)
        if session.asked:
            return
        if self.reporter:
            count = progress.count
            trained, tested = (progress.right / count, test_right) if session.data.train.classes else (None, None)
            speed = ((count - before) / seconds, talked / seconds)
            self.reporter.epoch(progress.epoch, progress.loss / count, trained, test_loss, tested, moved, *speed)
        if self._epoch_is_whole():
            progress.next_epoch()

    def _batches(self) -> Iterator[tuple[Any, Any]]:
        """The batches that are left of the epoch, each with the one after it."""
        progress = self.progress
        order = epoch_order(self.samples, self.options.seed, progress.epoch, True)
        first = self.done - (progress.epoch - 1) * self.steps_per_epoch
        left = list(batches(order, self.session.batch, self.options.drop_last))[first : first + self.total - self.done]
        return zip(left, [*left, None][1:], strict=True)

    def _step(self, indices: Any, upcoming: Any) -> None:
        """One update, while the ``upcoming`` batch is read."""
        session, started = self.session, time.perf_counter()
        talked = session.ledger.seconds
        number = self.done + 1
        if self.tracer:
            self.tracer.begin(number)
        loss, right = session.step(indices, number, upcoming)
        if self.options.clip and session.finite:
            self._clip()
        lr = self.schedule(self.done)
        session.update(self.optimizer, lr)
        if self.tracer:
            self._tell(self.tracer.end(number))
        self.progress.add(loss, right, len(indices))
        if not session.finite:
            value = session.loss_scale.value
            self._tell(f"step {self.done}: a gradient is not finite, so its update is left out; loss scale {value:g}")
        self._tell_graphs()
        seconds = time.perf_counter() - started
        if self.reporter:
            share = (session.ledger.seconds - talked) / seconds
            accuracy = right if session.data.train.classes else None
            speed = len(indices) / seconds
            self.reporter.step(self.done, self.progress.epoch, loss, lr, speed, share, accuracy)

    def _tell_graphs(self) -> None:
        """Say once, when they are recorded, how much of a step CUDA graphs are."""
        regions = [region for capture in self.session.captures for region in capture.regions]
        if regions and not self._told_graphs:
            self._told_graphs = True
            layers = frozenset().union(*(region.layers for region in regions))
            whole = f"{len(layers)} of {len(self.session.network.nodes)} layers"
            self._tell(f"step {self.done}: {len(regions)} CUDA graphs, with work of {whole}, are launched from now on")

    def _copy(self) -> None:
        """Keep what the run has a second time."""
        if self.copies:
            self.copies.take(self.progress, self.session.loss_scale)
            self._tell(self.copies.news())

    def _due(self) -> bool:
        """Whether ``--save-every`` asks for a checkpoint now."""
        return bool(self.checkpoints and self.options.save_every and self.done % self.options.save_every == 0)

    def _save(self, last: bool = False) -> None:
        """Write a checkpoint; one that cannot be written is tried again, and ends the run if it is not the only one."""
        started = time.perf_counter()
        for attempt in range(TRIES):
            try:
                with self.job.recorder.waiting(f"saving the checkpoint of step {self.done}"):
                    path = self.checkpoints.save(self.progress)
                break
            except UserError as error:
                mistake = error
            time.sleep(PAUSE * (attempt + 1 < TRIES))
        else:
            self._unsaved += 1
            if last or self._unsaved >= FAILURES:
                raise mistake
            self._tell(f"{mistake} (tried {TRIES} times); the run goes on without this checkpoint")
            return
        self._unsaved = 0
        if self.reporter:
            self.reporter.saved(self.done, path, time.perf_counter() - started)

    def _why_stopped(self) -> str:
        """Which signal reached whom, and how to go on."""
        everyone = self.session.grid.all.gather_values((self.job.comm.Get_rank(), self.signalled()))
        told = [f"{signal.Signals(number).name} reached rank {rank}" for rank, number in sorted(everyone) if number]
        path = self.checkpoints.path(self.done) if self.checkpoints else "nothing"
        return (
            f"{', '.join(told[:4])}: stopped after step {self.done} of {self.total}, saved {path}; "
            "the same command with --resume goes on from there"
        )

    def _tell(self, *notes: str | None) -> None:
        for text in filter(None, notes if self.reporter else ()):
            self.reporter.note(text)

    def _clip(self) -> None:
        """Scale the gradient so that its norm over all ranks is at most ``--clip``."""
        with self.job.recorder.waiting(f"clipping the gradient of step {self.done + 1}"):
            norm = self.session.parameters.norm(CLIP)
        if norm > self.options.clip:
            self.session.parameters.gradients *= self.options.clip / norm

    def _sum(self, counts: dict[str, int]) -> dict[str, int]:
        """Integers by name, summed over all ranks."""
        total: Counter[str] = Counter()
        for rank in self.session.grid.all.gather_values(counts):
            total.update(rank)
        return dict(total)
