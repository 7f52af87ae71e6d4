"""Samples brought to the range that networks like."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class Scaling:
    """x becomes ``(scale * x - mean) / std``, in place.

    ``channels`` are those of a whole sample; ``mean`` and ``std`` those of the scaled samples, one for all or each.
    """

    def __init__(
        self, channels: int, scale: float = 1.0, mean: Sequence[float] = (0.0,), std: Sequence[float] = (1.0,)
    ):
        self._factor = scale / np.broadcast_to(std, channels).astype(np.float64)
        self._shift = np.broadcast_to(np.divide(mean, std), channels).astype(np.float64)

    def apply(self, values: np.ndarray, channels: tuple[int, int]) -> None:
        """Scale ``values``, the last dimension of which are the channels from ``channels[0]`` to ``channels[1]``."""
        within = slice(*channels)
        if (self._factor != 1).any():
            values *= self._factor[within].astype(values.dtype)
        if self._shift.any():
            values -= self._shift[within].astype(values.dtype)
