"""Every MPI call on device data passes here: contiguity, large counts, the ledger, the way to host memory and back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from mpi4py import MPI

from gridnn.comm.counts import Count, all_reduce, all_to_all, bucket, dimension_of, joining, messages
from gridnn.comm.ledger import CONTROL, Ledger, Where
from gridnn.errors import UserError

LARGEST_COUNT = 2**31 - 1  # what the C int of MPI's calls holds; counts above it fail in Open MPI 5
OPERATIONS = {"sum": MPI.SUM, "max": MPI.MAX}
Array = Any


class Pending:
    """A sum or an exchange that was started; `wait` ends it."""

    def __init__(self, requests: list[MPI.Request], finish: Callable[[float], None]) -> None:
        self.requests, self.finish = requests, finish

    def wait(self) -> None:
        """Return when the arrays hold what was asked for."""
        started = time.perf_counter()
        MPI.Request.Waitall(self.requests)
        self.finish(time.perf_counter() - started)


class Communicator:
    """A group of ranks of the grid, host transport.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
        Its ranks are in the order of ``members``.
    members : sequence of int
        The grid indices of the group.
    rows : int
        Pr, for the grid dimension of every movement.
    backend : arrays.Backend
        Whose arrays are moved.
    ledger : Ledger
        Where everything is entered.
    limit : int
        The largest count that one MPI call may have. Longer arrays are sent in pieces, or refused by name.
    """

    def __init__(self, comm, members: Sequence[int], rows: int, backend, ledger: Ledger, limit: int = LARGEST_COUNT):
        self.comm, self.members, self.rows = comm, tuple(members), rows
        self.backend, self.ledger, self.limit = backend, ledger, limit
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        self.dimension = dimension_of(self.members, rows)

    # -- collectives -----------------------------------------------------------------------------------------

    def all_gather(self, send: Array, receive: Array, sizes: Sequence[int], where: Where) -> None:
        """Join the flat parts of all members, ``sizes`` elements each, into ``receive``."""
        self._refuse("all-gather", sum(sizes), where)
        count = joining("all-gather", self.dimension, self.size, sizes[self.rank], sum(sizes))
        with self._entered(where, count, send.itemsize):
            target = self._host(receive)
            self.comm.Allgatherv(self._host(send), [target, list(sizes)])
            self._deliver(target, receive)

    def reduce_scatter(self, send: Array, receive: Array, sizes: Sequence[int], where: Where) -> None:
        """Sum the flat ``send`` over the members; each keeps its part of ``sizes`` elements in ``receive``."""
        self._refuse("reduce-scatter", sum(sizes), where)
        count = joining("reduce-scatter", self.dimension, self.size, sizes[self.rank], sum(sizes))
        with self._entered(where, count, send.itemsize):
            target = self._host(receive)
            self.comm.Reduce_scatter(self._host(send), target, list(sizes))
            self._deliver(target, receive)

    def all_reduce(self, array: Array, where: Where, operation: str = "sum") -> None:
        """Sum (or take the maximum of) ``array`` over the members, in place."""
        count = all_reduce(self.dimension, self.size, self.rank, array.size)
        with self._entered(where, count, array.itemsize):
            host = self._host(array)
            for piece in self._pieces(host):
                self.comm.Allreduce(MPI.IN_PLACE, piece, OPERATIONS[operation])
            self._deliver(host, array)

    def start_all_reduce(self, array: Array, shares: Sequence[tuple[Where, int]]) -> Pending:
        """Start to sum a flat ``array`` over the members, in place; it belongs to the caller again after ``wait``.

        ``shares`` says how many of its elements belong to whom, in order. The words are entered for each, the
        messages (there is one call) for the first, the seconds in proportion.
        """
        started = time.perf_counter()
        host = self._host(array)
        requests = [self.comm.Iallreduce(MPI.IN_PLACE, piece, MPI.SUM) for piece in self._pieces(host)]
        before = time.perf_counter() - started

        def finish(waited: float) -> None:
            self._deliver(host, array)
            counts = bucket(self.dimension, self.size, self.rank, [size for _, size in shares])
            for (where, size), count in zip(shares, counts, strict=True):
                seconds = (before + waited) * size / max(1, array.size)
                self.ledger.add(where, count, itemsize=array.itemsize, seconds=seconds)

        return Pending(requests, finish)

    def all_to_all(
        self, send: Array, sent: Sequence[int], receive: Array, received: Sequence[int], where: Where
    ) -> None:
        """Send every member its piece of the flat ``send``, and receive one of each."""
        self._refuse("all-to-all", max(sum(sent), sum(received)), where)
        count = all_to_all(self.dimension, (size for member, size in enumerate(sent) if member != self.rank))
        with self._entered(where, count, send.itemsize):
            target = self._host(receive)
            self.comm.Alltoallv([self._host(send), list(sent)], [target, list(received)])
            self._deliver(target, receive)

    # -- messages --------------------------------------------------------------------------------------------

    def start_exchange(
        self, sends: Sequence[tuple[int, Array]], receives: Sequence[tuple[int, Array]], where: Where
    ) -> Pending:
        """Start to send flat arrays to members and to receive flat arrays from members, all at once.

        Empty arrays are left out. All arrays belong to the caller again after ``wait``.
        """
        me = self.members[self.rank]
        started = time.perf_counter()
        targets = [(peer, array, self._host(array)) for peer, array in receives]
        requests = [self.comm.Irecv(p, source=peer) for peer, _, room in targets for p in self._pieces(room)]
        requests += [self.comm.Isend(p, dest=peer) for peer, a in sends for p in self._pieces(self._host(a))]
        before = time.perf_counter() - started

        def finish(waited: float) -> None:
            for _, array, room in targets:
                self._deliver(room, array)
            seconds = before + waited
            for peer, array in sends:
                for count in messages(me, [(self.members[peer], array.size)], self.rows):
                    self.ledger.add(where, count, itemsize=array.itemsize, seconds=seconds / len(sends))
            if not sends and receives:
                heard = Count("neighbours", dimension_of((me, self.members[receives[0][0]]), self.rows), 0, 0)
                self.ledger.add(where, heard, calls=0, seconds=seconds)

        return Pending(requests, finish)

    # -- small values ----------------------------------------------------------------------------------------

    def gather_values(self, value: Any) -> list[Any]:
        """A small Python value of every member, on every member."""
        with self._entered(Where(CONTROL, "update"), Count("values", self.dimension, 0, 0), 0):
            return self.comm.allgather(value)

    def sub(self, members: Sequence[int]) -> Communicator:
        """The communicator of a smaller group; every member of this one calls it, with its own group."""
        me = self.members[self.rank]
        comm = self.comm.Split(min(members), list(members).index(me))
        return Communicator(comm, members, self.rows, self.backend, self.ledger, self.limit)

    def free(self) -> None:
        """Give the MPI communicator back; every member calls it."""
        self.comm.Free()

    # -- helpers ---------------------------------------------------------------------------------------------

    def _host(self, array: Array):
        """``array`` where MPI can read and write it: itself if it lies in host memory, else a copy (see `_deliver`)."""
        self.backend.synchronize()
        return self.backend.host_view(array)

    def _deliver(self, host, array: Array) -> None:
        if host is not array:
            self.backend.from_host(host, array)

    def _pieces(self, host):
        """``host`` in flat pieces of at most ``limit`` elements; none if it is empty."""
        flat = host.reshape(-1)
        return [flat[start : start + self.limit] for start in range(0, flat.size, self.limit)]

    def _refuse(self, kind: str, size: int, where: Where) -> None:
        if size > self.limit:
            raise UserError(
                f"layer {where.layer!r}, {where.phase}: the {kind} of {size:,} elements over {self.size} ranks is "
                f"longer than the {self.limit:,} that one MPI call counts; divide the batch further (--grid with more "
                "columns, a smaller --batch, or --accumulate)"
            )

    @contextmanager
    def _entered(self, where: Where, count: Count, itemsize: int) -> Iterator[None]:
        """Enter a call with the seconds that its ``with`` block takes."""
        started = time.perf_counter()
        yield
        self.ledger.add(where, count, itemsize=itemsize, seconds=time.perf_counter() - started)
