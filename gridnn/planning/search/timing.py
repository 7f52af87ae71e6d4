"""Seconds of many movements at once: `gridnn.cost.machine.Machine` on arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gridnn.cost.machine import Machine
from gridnn.planning.search.arrays import Integers, Numbers

Strides = Sequence[tuple[Integers, Integers]]


class Seconds(NamedTuple):
    """The time of movements: what their number and what their size costs."""

    latency: Numbers
    bandwidth: Numbers


def movement_seconds(
    machine: Machine, kind: str, size: Numbers, messages: Integers | Numbers, strides: Strides, ranks: int
) -> Seconds:
    """The seconds of movements of ``size`` bytes in ``messages`` messages over groups of ranks.

    The groups have (sizes, strides): so many ranks, so far apart, along every mesh axis. They are those of ``--order
    column``, and all groups like them are active at once.
    """
    number, contention = levels_of(machine, strides, ranks)
    alpha, beta = np.zeros(np.shape(size)), np.zeros(np.shape(size))
    for place, level in enumerate(machine.levels):
        at = np.flatnonzero(number == place)
        ranges = level.movements.get(kind)
        if not len(at):
            continue
        if not ranges:
            alpha[at], beta[at] = level.alpha, level.beta
            continue
        each = contention[at] * size[at] / np.maximum(1, np.broadcast_to(messages, size.shape)[at])
        row = np.maximum(np.searchsorted([one.start for one in ranges], each, "right") - 1, 0)
        alpha[at], beta[at] = (np.array([getattr(r, name) for r in ranges])[row] for name in ("alpha", "beta"))
    return Seconds(alpha * messages, beta * contention * size)


def levels_of(machine: Machine, strides: Strides, ranks: int) -> tuple[Integers, Numbers]:
    """The level that joins every group, and the contention of its links; see `gridnn.cost.machine.Machine.level_of`."""
    last = sum((size - 1) * stride for size, stride in strides)
    number, contention = np.zeros(np.shape(last), np.int64), np.ones(np.shape(last))
    left = np.ones(np.shape(last), bool)
    for place, (level, unit) in enumerate(zip(machine.levels, machine.units, strict=True)):
        joined = left if level.ranks is None else left & (last < level.ranks)
        inside = np.ones(np.shape(last))
        for size, stride in strides:
            inside = inside * np.minimum(size, np.maximum(1, unit // stride))
        flows = np.maximum(1.0, min(unit, ranks) / inside)
        number = np.where(joined, place, number)
        contention = np.where(joined, np.maximum(1.0, flows * level.shared / unit), contention)
        left = left & ~joined
    return number, contention


def link_units(machine: Machine, ranks: int) -> list[int]:
    """How many devices the units of every level join that ``ranks`` devices use: from a single one to all of them."""
    return [1, *(unit for unit in machine.units[1:] if unit < ranks), ranks]


def device_slots(machine: Machine, ranks: int) -> int:
    """P, and the idle devices that fill the last unit."""
    unit = math.lcm(*link_units(machine, ranks)[:-1])
    return -(-ranks // unit) * unit


def link_seconds(machine: Machine, ranks: int, inside: Sequence[Numbers], duplex: bool = False) -> Numbers:
    """The time of a movement between devices: what the link with most bytes carries, over its bandwidth; no latency.

    ``inside`` has, for each of `link_units`, the bytes in and out [2, ..., slots] of every device that come from its
    unit, and go there. With ``duplex`` a link carries bytes in and bytes out at once, else one after the other.
    """
    times = []
    for place, (level, unit) in enumerate(zip(machine.levels, link_units(machine, ranks)[:-1], strict=False)):
        crossing = inside[place + 1] - inside[place]
        links = crossing.reshape(*crossing.shape[:-1], -1, math.gcd(level.shared, unit)).sum(axis=-1)
        carried = links.max(axis=0) if duplex else links.sum(axis=0)
        times.append(level.beta * carried.max(axis=-1))
    longest: Numbers = np.max(times, axis=0)
    return longest
