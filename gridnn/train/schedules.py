"""Learning-rate schedules: pure functions of the step, so that a run can be continued anywhere."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from gridnn.errors import unknown
from gridnn.train.sections import TrainOptions


@dataclass(frozen=True)
class Schedule:
    """A constant learning rate after a linear warm-up.

    Attributes
    ----------
    lr : float
        The rate after the warm-up.
    warmup : int
        Epochs of the warm-up, in which the rate grows by the same amount each step up to ``lr`` (Goyal et al. 2017).
    """

    lr: float
    warmup: int = 0

    def __call__(self, done: int, steps_per_epoch: int, total: int) -> float:
        """The learning rate of the update that follows ``done`` others, of ``total`` in all."""
        warm = self.warmup * steps_per_epoch
        if done < warm:
            return self.lr * (done + 1) / warm
        return self.lr * self.factor(done, warm, steps_per_epoch, total)

    def factor(self, done: int, warm: int, steps_per_epoch: int, total: int) -> float:
        """What the rate is multiplied by after a warm-up of ``warm`` updates."""
        return 1.0


@dataclass(frozen=True)
class Step(Schedule):
    """Multiplied by ``gamma`` after every ``every`` epochs, those of the warm-up included."""

    every: int = 10
    gamma: float = 0.1

    def factor(self, done: int, warm: int, steps_per_epoch: int, total: int) -> float:
        return self.gamma ** (done // steps_per_epoch // self.every)


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from ``lr`` after the warm-up to 0 after the last step (Loshchilov and Hutter 2017, eq 5)."""

    def factor(self, done: int, warm: int, steps_per_epoch: int, total: int) -> float:
        return 0.5 * (1.0 + math.cos(math.pi * (done - warm) / (total - warm)))


def make_schedule(options: TrainOptions, steps_per_epoch: int, total: int) -> Callable[[int], float]:
    """The schedule of a run of ``total`` updates: a function of the updates done.

    Raises
    ------
    UserError
        If there is no schedule of this name.
    """
    schedules = {
        "constant": Schedule(options.lr, options.warmup),
        "step": Step(options.lr, options.warmup, options.step_every, options.gamma),
        "cosine": Cosine(options.lr, options.warmup),
    }
    if options.schedule not in schedules:
        raise unknown("schedule", options.schedule, schedules)
    return partial(schedules[options.schedule], steps_per_epoch=steps_per_epoch, total=total)
