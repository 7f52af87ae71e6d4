"""Dynamic loss scaling: gradients that float16 would round to zero are kept in its range."""

from __future__ import annotations

from dataclasses import dataclass

START = 2.0**16
PATIENCE = 2000  # good steps, after which the scale is doubled
LOSES_SMALL = ("float16",)  # types whose least exponent is reached by gradients; bfloat16 has that of float32


@dataclass
class LossScale:
    """By what the loss is multiplied before its gradient is taken; the gradients of the weights are divided by it.

    A step with a gradient that is not finite is skipped and halves the scale; `PATIENCE` good steps in a row double it
    (Micikevicius et al. 2018, section 3.2, with the numbers of PyTorch). It is a power of two, so that nothing is
    rounded, and at least 1.

    Attributes
    ----------
    value : float
        The scale.
    good : int
        Steps without overflow since it changed.
    skipped : int
        Steps whose update was left out, from the beginning of the run.
    """

    value: float = START
    good: int = 0
    skipped: int = 0

    @property
    def least(self) -> bool:
        """Whether it cannot be made smaller."""
        return self.value <= 1

    def adjust(self, finite: bool) -> None:
        """Follow a step whose gradients were ``finite`` on all ranks or not."""
        if not finite:
            self.value, self.good, self.skipped = max(1.0, self.value / 2), 0, self.skipped + 1
            return
        self.good += 1
        if self.good == PATIENCE:
            self.value, self.good = 2 * self.value, 0


def make_loss_scale(dtype: str) -> LossScale | None:
    """The loss scale of a run whose activations have this type; None where none is needed."""
    return LossScale() if dtype in LOSES_SMALL else None
