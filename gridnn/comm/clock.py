"""One clock for all ranks: how far a rank's own is from that of rank 0; and values that are collected there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from gridnn.comm.communicator import Communicator

EXCHANGES = 24  # of which the quickest counts: the others met a busy rank
PING, PONG, VALUE = 101, 102, 103  # tags


def clock_offset(group: Communicator) -> float:
    """The seconds to add to this rank's ``time.perf_counter()`` to have that of the first rank of ``group``.

    Cristian's algorithm (1989): the first rank answers with its time, and half of the quickest round trip is taken off;
    the error is at most that half. Every rank of the group calls it.
    """
    return group.transport.in_order(lambda: _offset(group.comm))


def _offset(comm: Any) -> float:
    if comm.rank == 0:
        for peer in range(1, comm.size):
            for _ in range(EXCHANGES):
                comm.recv(source=peer, tag=PING)
                comm.send(time.perf_counter(), dest=peer, tag=PONG)
        return 0.0
    found = []
    for _ in range(EXCHANGES):
        start = time.perf_counter()
        comm.send(None, dest=0, tag=PING)
        there, stop = comm.recv(source=0, tag=PONG), time.perf_counter()
        found.append((stop - start, there - (start + stop) / 2))
    return min(found)[1]


def collect(group: Communicator, value: Any) -> Iterator[Any]:
    """The values of all ranks of ``group``, one after the other, on its first rank, which holds one at a time.

    Every rank of the group calls it and iterates; elsewhere there is nothing to iterate over.
    """
    if group.rank:
        group.transport.in_order(lambda: group.comm.send(value, dest=0, tag=VALUE))
        return
    yield value
    for peer in range(1, group.comm.size):
        yield group.transport.in_order(lambda peer=peer: group.comm.recv(source=peer, tag=VALUE))
