"""The training loop."""

from __future__ import annotations

import math
import time
from collections import Counter
from typing import Any

from gridnn.comm.counts import DIMENSIONS
from gridnn.comm.ledger import PHASES, Where
from gridnn.train.config import RunConfig
from gridnn.train.data.order import batches, epoch_order
from gridnn.train.optimizers import make_optimizer
from gridnn.train.report import Moved, Reporter, Summary
from gridnn.train.schedules import make_schedule
from gridnn.train.session import Session

CLIP = Where("(clip)", "update")


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

    Raises
    ------
    ValueError
        If the configuration does not fit the data, the network or the ranks.
    """

    def __init__(self, config: RunConfig, job: Any, reporter: Reporter | None = None) -> None:
        self.config, self.job, self.reporter = config, job, reporter
        self.session = Session(config, job)
        self.samples = len(self.session.data.train)
        batch = self.session.batch
        self.steps_per_epoch = self.samples // batch if config.drop_last else math.ceil(self.samples / batch)
        self.total = min(config.epochs * self.steps_per_epoch, config.steps or math.inf)
        self.schedule = make_schedule(config, self.steps_per_epoch, self.total)
        parameters = self.session.parameters
        self.optimizer = make_optimizer(config).start(parameters.backend, parameters.values.size, config.dtype)
        self.done = 0

    def train(self) -> None:
        """Run all epochs.

        Raises
        ------
        UserError
            If the loss is not finite.
        """
        if self.reporter:
            self.reporter.started(self.session.resolved, self._summary())
        try:
            for epoch in range(1, math.ceil(self.total / self.steps_per_epoch) + 1):
                self._epoch(epoch)
            rows = self._moved()
            if self.reporter:
                self.reporter.finished(rows)
        finally:
            if self.reporter:
                self.reporter.close()

    def _epoch(self, epoch: int) -> None:
        session, loss, right, count = self.session, 0.0, 0.0, 0
        words, started, talked = session.ledger.words_by_dimension(), time.perf_counter(), session.ledger.seconds
        order = epoch_order(self.samples, self.config.seed, epoch, True)
        for indices in batches(order, session.batch, self.config.drop_last):
            if self.done == self.total:
                break
            mean, share = self._step(indices, epoch)
            loss, right, count = loss + mean * len(indices), right + share * len(indices), count + len(indices)
        seconds, talked = time.perf_counter() - started, session.ledger.seconds - talked
        now = session.ledger.words_by_dimension()
        moved = self._sum({dimension: now[dimension] - words[dimension] for dimension in DIMENSIONS})
        test_loss, test_right = session.evaluate(session.data.test)
        if self.reporter:
            trained, tested = (right / count, test_right) if session.data.train.classes else (None, None)
            speed = (count / seconds, talked / seconds)
            self.reporter.epoch(epoch, loss / count, trained, test_loss, tested, moved, *speed)

    def _step(self, indices: Any, epoch: int) -> tuple[float, float]:
        """One update; the mean loss and share of right answers of its batch."""
        session, started = self.session, time.perf_counter()
        talked = session.ledger.seconds
        loss, right = session.step(indices, self.done + 1)
        if self.config.clip:
            self._clip()
        lr = self.schedule(self.done)
        session.update(self.optimizer, lr)
        self.done += 1
        seconds = time.perf_counter() - started
        if self.reporter:
            share = (session.ledger.seconds - talked) / seconds
            accuracy = right if session.data.train.classes else None
            self.reporter.step(self.done, epoch, loss, lr, len(indices) / seconds, share, accuracy)
        return loss, right

    def _clip(self) -> None:
        """Scale the gradient so that its norm over all ranks is at most ``--clip``."""
        norm = self.session.parameters.norm(CLIP)
        if norm > self.config.clip:
            self.session.parameters.gradients *= self.config.clip / norm

    def _sum(self, counts: dict[str, int]) -> dict[str, int]:
        """Integers by name, summed over all ranks."""
        total: Counter[str] = Counter()
        for rank in self.session.grid.all.gather_values(counts):
            total.update(rank)
        return dict(total)

    def _moved(self) -> list[Moved]:
        """The ledgers of all ranks in one table."""
        mine = [(key.dimension, key.phase, t.words, t.messages, t.seconds) for key, t in self.session.ledger.steps()]
        everyone = [row for rank in self.session.grid.all.gather_values(mine) for row in rank]
        rows = []
        for dimension in DIMENSIONS:
            for phase in PHASES:
                found = [row[2:] for row in everyone if row[:2] == (dimension, phase) and row[2]]
                if found:
                    words, messages, seconds = (sum(values) for values in zip(*found, strict=True))
                    rows.append(Moved(dimension, phase, words, messages, seconds / self.job.size))
        return rows

    def _summary(self) -> Summary:
        session, job = self.session, self.job
        rows, columns = session.plan.divided()
        facts = {
            "ranks": job.size,
            "nodes": job.nodes,
            "threads": job.threads,
            "mpi": job.library,
            "parameters": session.network.parameter_count,
            "train-samples": self.samples,
            "test-samples": len(session.data.test),
            "steps-per-epoch": self.steps_per_epoch,
        }
        return Summary(session.plan.grid, rows, columns, self.total, self.config.epochs, facts)
