"""The links of a machine whose devices are numbered, and which elements of a tensor go over them, from boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gridnn.cost.machine import Machine
from gridnn.layout.split import Split


class Links:
    """The links of a machine: the devices are in units (nodes), and at every level some share a link.

    Parameters
    ----------
    duplex : bool
        Whether a link carries bytes in and bytes out at once, or one after the other.
    """

    def __init__(self, machine: Machine, ranks: int, duplex: bool = False) -> None:
        self.ranks, self.duplex = ranks, duplex
        self.levels: list[tuple[int, int, float]] = []  # devices of a unit below, of which so many share a link; beta
        below = 1
        for level in machine.levels:
            self.levels.append((below, math.gcd(level.shared, below), level.beta))
            below = min(level.ranks or ranks, ranks)
            if below == ranks:
                break

    @property
    def units(self) -> list[int]:
        """How many devices the units of every level join, a single device and all of them included."""
        return [below for below, _, _ in self.levels] + [self.ranks]

    @property
    def slots(self) -> int:
        """P, and the idle devices that fill the last unit."""
        unit = math.lcm(*self.units[:-1])
        return -(-self.ranks // unit) * unit

    def seconds(self, inside: list[np.ndarray]) -> np.ndarray:
        """The time of a movement.

        Parameters
        ----------
        inside : list of arrays [2, ..., slots]
            Bytes in and bytes out of every device that come from its unit, and go there; for each of `units`.
        """
        times = []
        for place, (_, shared, beta) in enumerate(self.levels):
            crossing = inside[place + 1] - inside[place]
            links = crossing.reshape(*crossing.shape[:-1], -1, shared).sum(axis=-1)
            busy = links.max(axis=0) if self.duplex else links.sum(axis=0)
            times.append(beta * busy.max(axis=-1))
        return np.max(times, axis=0)


def volume(boxes: np.ndarray) -> np.ndarray:
    """The elements of boxes [dimensions, 2, ...]."""
    return np.prod(np.maximum(boxes[:, 1] - boxes[:, 0], 0), axis=0, dtype=float)


def near(have: np.ndarray, need: np.ndarray, unit: int) -> tuple[np.ndarray, np.ndarray]:
    """The elements that a device reads from its unit of devices, and that its unit reads from it: [C_u, C_v, P]."""
    ranks = have.shape[-1]
    by_unit = (*have.shape[:3], ranks // unit, unit)
    source = have.reshape(by_unit)[:, :, :, None, :, :, None]
    by_unit = (*need.shape[:3], ranks // unit, unit)
    target = need.reshape(by_unit)[:, :, None, :, :, None, :]
    shared = 1.0
    for (start, stop), (first, last) in zip(source, target, strict=True):
        shared = shared * np.maximum(np.minimum(stop, last) - np.maximum(start, first), 0)
    shape = (*shared.shape[:2], ranks)
    return shared.sum(axis=-2).reshape(shape), shared.sum(axis=-1).reshape(shape)


def sent(have: np.ndarray, need: np.ndarray, splits: Sequence[Split]) -> np.ndarray:
    """The elements of every device's part that all devices together read: [C_u, C_v, P].

    The devices in use have every combination of parts once, and a dimension depends on the part of one axis, so that
    the mean over them of the product is the product of the means.
    """
    out = np.tile(np.array([float(split.ranks) for split in splits])[:, None], (have.shape[2], 1, have.shape[3]))
    for (start, stop), target in zip(have[..., None], need, strict=True):
        known: dict[tuple, np.ndarray] = {}
        for column, split in enumerate(splits):
            first, last = target[:, column, : split.ranks]
            key = tuple(sorted(zip(first.tolist(), last.tolist(), strict=True)))
            if key not in known:
                known[key] = np.maximum(np.minimum(stop, last) - np.maximum(start, first), 0).mean(axis=-1)
            out[:, column] *= known[key]
    return out
