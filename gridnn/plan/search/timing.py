"""Seconds of many movements at once: `gridnn.cost.machine.Machine` on arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gridnn.cost.machine import Machine

Strides = Sequence[tuple[np.ndarray, np.ndarray]]


class Seconds(NamedTuple):
    """The time of movements: what their number and what their size costs."""

    latency: np.ndarray
    bandwidth: np.ndarray

    @property
    def total(self) -> np.ndarray:
        """Both."""
        return self.latency + self.bandwidth


def movement_seconds(
    machine: Machine, kind: str, size: np.ndarray, messages: np.ndarray, strides: Strides, ranks: int
) -> Seconds:
    """The seconds of movements of ``size`` bytes in ``messages`` messages over groups of ranks.

    Parameters
    ----------
    strides : sequence of (sizes, strides)
        The groups: so many ranks, so far apart, along every digit. They are those of ``--order column``, and all groups
        like them are active at once.
    """
    number, load = reach(machine, strides, ranks)
    alpha, beta = np.zeros(np.shape(size)), np.zeros(np.shape(size))
    for place, level in enumerate(machine.levels):
        at = np.flatnonzero(number == place)
        ranges = level.movements.get(kind)
        if not len(at):
            continue
        if not ranges:
            alpha[at], beta[at] = level.alpha, level.beta
            continue
        each = load[at] * size[at] / np.maximum(1, np.broadcast_to(messages, size.shape)[at])
        row = np.maximum(np.searchsorted([one.start for one in ranges], each, "right") - 1, 0)
        alpha[at], beta[at] = (np.array([getattr(r, name) for r in ranges])[row] for name in ("alpha", "beta"))
    return Seconds(alpha * messages, beta * load * size)


def reach(machine: Machine, strides: Strides, ranks: int) -> tuple[np.ndarray, np.ndarray]:
    """The level that joins every group, and the load of its links; see `gridnn.cost.machine.Machine.reach`."""
    last = sum((size - 1) * stride for size, stride in strides)
    number, load = np.zeros(np.shape(last), np.int64), np.ones(np.shape(last))
    left, below = np.ones(np.shape(last), bool), 1
    for place, level in enumerate(machine.levels):
        joined = left if level.ranks is None else left & (last < level.ranks)
        inside = np.ones(np.shape(last))
        for size, stride in strides:
            inside = inside * np.minimum(size, np.maximum(1, below // stride))
        flows = np.maximum(1.0, min(below, ranks) / inside)
        number = np.where(joined, place, number)
        load = np.where(joined, np.maximum(1.0, flows * level.shared / below), load)
        left, below = left & ~joined, level.ranks or below
    return number, load
