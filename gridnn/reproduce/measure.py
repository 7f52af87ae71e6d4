"""Plans that are really run on the ranks at hand, and what the cost model said of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from gridnn.comm.ledger import Ledger
from gridnn.cost.count import count
from gridnn.cost.machine import Machine
from gridnn.cost.price import price
from gridnn.data.order import first_batches
from gridnn.errors import within_memory
from gridnn.reproduce.cases import Case
from gridnn.train.session import Session
from gridnn.train.setup import make_optimizer

STEPS = 2  # of a plan in a round, and before the first one


class Measured(NamedTuple):
    """A plan that was run: words of all ranks and steps, and the seconds of a step, by the slowest rank.

    ``words`` is (predicted, measured), equal only if words and messages are so on every rank; ``seconds`` are sorted.
    """

    case: Case
    predicted: float
    seconds: tuple[float, ...]
    words: tuple[int, int]
    equal: bool

    @property
    def median(self) -> float:
        """The middle one of the measured seconds."""
        return statistics.median(self.seconds)

    @property
    def error(self) -> float:
        """How much longer the prediction is, relative to what was measured."""
        return self.predicted / self.median - 1


class PlanRun:
    """A plan while it is measured: a session, and what it has shown so far. All ranks make it and step together."""

    def __init__(self, case: Case, job: Any, machine: Machine) -> None:
        self.case, self.session, self.seconds, self._step = case, Session(case.config, job), [], 0
        session = self.session
        self._state = make_optimizer(case.config.train).start(session.parameters)
        self._batch = next(first_batches(len(session.data.train), session.batch, case.config.train.seed, 1))
        self._schedules = session.schedules(self._batch)
        programs = [schedule.program for schedule in self._schedules]
        slots = len(self._state.arrays)
        self.predicted = price(programs, machine, itemsize=session.parameters.dtype.itemsize, slots=slots).seconds
        self._ledger = Ledger()
        session.ledger.clear()

    def run(self, keep: bool) -> None:
        """`STEPS` steps, their seconds kept or not; words are counted always."""
        session = self.session
        for _ in range(STEPS):
            self._step += 1
            session.grid.all.gather_values(None)  # all start together
            started = time.perf_counter()
            session.step(self._batch, self._step)
            session.update(self._state, self.case.config.train.lr)
            slowest = max(session.grid.all.gather_values(time.perf_counter() - started))
            self._ledger.merge(count(self._schedules))
            if keep:
                self.seconds.append(slowest)

    def result(self) -> Measured:
        """What came out, the same on all ranks."""
        mine = (self._ledger.integers(), self.session.ledger.integers())
        ranks = self.session.grid.all.gather_values(mine)
        predicted, measured = (sum(words for rank in ranks for words, _ in rank[i].values()) for i in (0, 1))
        equal = all(said == moved for said, moved in ranks)
        return Measured(self.case, self.predicted, tuple(sorted(self.seconds)), (predicted, measured), equal)


def measure_plans(job: Any, cases: Sequence[Case], machine: Machine, rounds: int = 5) -> list[Measured]:
    """Run every plan ``rounds`` times `STEPS` steps; those of a network take turns, so that drift meets all alike.

    The cases of one network follow each other. What predicts is best a ``machine`` calibrated with these ranks.
    `UserError` if a case does not fit the ranks.
    """
    job.check_ranks()
    job.use_threads()
    found = []
    for network in dict.fromkeys(case.config.model.model for case in cases):
        with within_memory():
            runs = [PlanRun(case, job, machine) for case in cases if case.config.model.model == network]
        for number in range(rounds + 1):  # the first one warms up
            for one in runs:
                one.run(keep=number > 0)
        found += [one.result() for one in runs]
    return found
