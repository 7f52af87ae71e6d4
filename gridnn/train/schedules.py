"""Learning-rate schedules: pure functions of the step, so that a run can be continued anywhere."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gridnn.errors import unknown


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

    def __call__(self, step: int, steps_per_epoch: int, total: int) -> float:
        """The learning rate of ``step`` (from 1 to ``total``)."""
        warm = self.warmup * steps_per_epoch
        if step <= warm:
            return self.lr * step / warm
        return self.lr * self.factor(step - 1, warm, steps_per_epoch, total)

    def factor(self, done: int, warm: int, steps_per_epoch: int, total: int) -> float:
        """What the rate is multiplied by when ``done`` steps are done, of them ``warm`` in the warm-up."""
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


def get_schedule(name: str, lr: float, *, warmup: int = 0, every: int = 10, gamma: float = 0.1) -> Schedule:
    """The schedule ``name``: ``constant``, ``step`` or ``cosine``.

    Raises
    ------
    ValueError
        If there is none of this name.
    """
    if name == "constant":
        return Schedule(lr, warmup)
    if name == "step":
        return Step(lr, warmup, every, gamma)
    if name == "cosine":
        return Cosine(lr, warmup)
    raise unknown("schedule", name, ("constant", "step", "cosine"))
