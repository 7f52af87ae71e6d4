"""Everything that moves between ranks passes here: contiguity, large counts, the ledger."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from gridnn.comm.ledger import CONTROL, Ledger, Stopwatch, Where
from gridnn.comm.recorder import Recorder
from gridnn.comm.transports.base import Work
from gridnn.comm.transports.host import HostTransports
from gridnn.errors import UserError
from gridnn.kernels.backend import require_contiguous
from gridnn.layout.counts import Count, all_to_all, bucket, dimension_of, joining, messages

Array = Any


class Pending:
    """A sum or an exchange that was started; `wait` ends it."""

    def __init__(self, works: Sequence[Work], watch: Stopwatch, finish: Callable[[], None], started: set) -> None:
        self._works, self._watch, self._finish, self._started = works, watch, finish, started
        started.add(self)

    def wait(self) -> None:
        """Return when the arrays hold what was asked for: for everything that is asked of the backend from now on."""
        with self._watch:
            for work in self._works:
                work.wait()
        self._finish()
        self._started.discard(self)
        del self._works, self._finish  # and with them the buffers

    def abandon(self, until: float) -> bool:
        """Whether all of it has ended, however, now that its communicator is revoked: the arrays are free of it."""
        ended = [work.abandon(until) for work in self._works]
        return all(ended)


class Communicator:
    """A group of ranks of the grid. What is summed has a type that MPI adds: see `layout.messages.message_dtype`.

    The ranks of the MPI communicator ``comm`` are in the order of ``members``, their grid indices. ``rows`` is Pr, for
    the grid dimension of every movement. One call counts ``limit`` elements at the most (None: what the transport can);
    longer arrays are sent in pieces, or refused by name. ``transports`` makes the transport of a group, by
    ``make(comm, members)``; None: MPI on host memory.
    """

    def __init__(
        self,
        comm: Any,
        members: Sequence[int],
        rows: int,
        backend: Any,
        ledger: Ledger,
        limit: int | None = None,
        transports: Any = None,
        recorder: Recorder | None = None,
    ) -> None:
        self.comm, self.members, self.rows = comm, tuple(members), rows
        self.backend, self.ledger = backend, ledger
        self.recorder = recorder or Recorder()
        self._given = (limit, transports or HostTransports(backend), self.recorder)
        self.transport = self._given[1].make(comm, self.members)
        self.limit = limit or self.transport.limit
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        self.dimension = dimension_of(self.members, rows)
        self._started: set[Pending] = set()  # and not ended yet

    # -- collectives -----------------------------------------------------------------------------------------

    def start_all_gather(
        self, send: Array, receive: Array, sizes: Sequence[int], where: Where, at_once: bool = False
    ) -> Pending:
        """Start to join the flat parts of all members, ``sizes`` elements each, in ``receive``.

        The arrays belong to the caller again after ``wait``, which comes next if ``at_once``.
        """
        self._refuse("all-gather", sum(sizes), where)
        count = joining("all-gather", self.dimension, self.size, sizes[self.rank], sum(sizes))
        with (watch := self._watch()):
            work = self.transport.all_gather(_words(send), _words(receive), sizes, at_once)
        return Pending([work], watch, lambda: self._enter(watch, where, count, send.itemsize), self._started)

    def start_reduce_scatter(
        self, send: Array, receive: Array, sizes: Sequence[int], where: Where, at_once: bool = False
    ) -> Pending:
        """Start to sum the flat ``send`` over the members; each keeps its part of ``sizes`` elements in ``receive``."""
        self._refuse("reduce-scatter", sum(sizes), where)
        count = joining("reduce-scatter", self.dimension, self.size, sizes[self.rank], sum(sizes))
        with (watch := self._watch()):
            work = self.transport.reduce_scatter(_flat(send), _flat(receive), sizes, at_once)
        return Pending([work], watch, lambda: self._enter(watch, where, count, send.itemsize), self._started)

    def all_reduce(self, array: Array, where: Where, operation: str = "sum") -> None:
        """Sum (or take the maximum of) ``array`` over the members, in place."""
        self.start_all_reduce(array, [(where, array.size)], operation, at_once=True).wait()

    def start_all_reduce(
        self, array: Array, shares: Sequence[tuple[Where, int]], operation: str = "sum", at_once: bool = False
    ) -> Pending:
        """Start to sum ``array`` over the members, in place; it belongs to the caller again after ``wait``.

        ``shares`` says how many of its elements belong to whom, in order. The words are entered for each, the
        messages (there is one call) for the first, the seconds in proportion.
        """
        with (watch := self._watch()):
            works = self._sums(array, operation, at_once)

        def finish() -> None:
            counts = bucket(self.dimension, self.size, self.rank, [size for _, size in shares])
            entries = zip(shares, counts, strict=True)
            rows = [
                (self.ledger.add(where, count, itemsize=array.itemsize), size / max(1, array.size))
                for (where, size), count in entries
            ]
            self.ledger.time(watch, rows)

        return Pending(works, watch, finish, self._started)

    def start_all_to_all(
        self,
        send: Array,
        sent: Sequence[int],
        receive: Array,
        received: Sequence[int],
        where: Where,
        at_once: bool = False,
    ) -> Pending:
        """Start to send every member its piece of the flat ``send``, and to receive one of each."""
        self._refuse("all-to-all", max(sum(sent), sum(received)), where)
        count = all_to_all(self.dimension, (size for member, size in enumerate(sent) if member != self.rank))
        with (watch := self._watch()):
            work = self.transport.all_to_all(_words(send), sent, _words(receive), received, at_once)
        return Pending([work], watch, lambda: self._enter(watch, where, count, send.itemsize), self._started)

    # -- messages --------------------------------------------------------------------------------------------

    def start_exchange(
        self, sends: Sequence[tuple[int, Array]], receives: Sequence[tuple[int, Array]], where: Where
    ) -> Pending:
        """Start to send flat arrays to members and to receive flat arrays from members, all at once.

        Empty arrays are left out. All arrays belong to the caller again after ``wait``.
        """
        with (watch := self._watch()):
            work = self.transport.exchange(self._messages(sends), self._messages(receives))
        return Pending([work], watch, lambda: self._enter_messages(sends, receives, where, watch), self._started)

    def _enter_messages(self, sends: Sequence, receives: Sequence, where: Where, watch: Stopwatch) -> None:
        me, rows = self.members[self.rank], []
        for peer, array in sends:
            for count in messages(me, [(self.members[peer], array.size)], self.rows):
                rows.append((self.ledger.add(where, count, itemsize=array.itemsize), 1 / len(sends)))
        if not sends and receives:
            heard = Count("neighbours", dimension_of((me, self.members[receives[0][0]]), self.rows), 0, 0)
            rows.append((self.ledger.add(where, heard, calls=0), 1.0))
        self.ledger.time(watch, rows)

    # -- small values ----------------------------------------------------------------------------------------

    def gather_values(self, value: Any) -> list[Any]:
        """A small Python value of every member, on every member."""
        with self.recorder.waiting(), (watch := Stopwatch()):  # of the host: no device has a part in it
            values = self.transport.in_order(lambda: self.comm.allgather(value))
        self._enter(watch, Where(CONTROL, "update"), Count("values", self.dimension, 0, 0), 0)
        return values

    def sub(self, members: Sequence[int]) -> Communicator:
        """The communicator of a smaller group; every member of this one calls it, with its own group."""
        me = self.members[self.rank]
        with self.recorder.waiting("making the groups of the grid"):
            comm = self.transport.in_order(lambda: self.comm.Split(min(members), list(members).index(me)))
            return Communicator(comm, members, self.rows, self.backend, self.ledger, *self._given)

    def free(self) -> None:
        """Give the transport and the MPI communicator back; every member calls it."""
        self.transport.free()
        self.comm.Free()

    def revoke(self) -> None:
        """Let no member wait any more in what it has asked for: it is an error, as is all that follows."""
        with suppress(Exception):  # where another member has done so
            self.comm.Revoke()

    def abandon(self, until: float) -> list[Pending]:
        """End what was started, after `revoke`; gives what has not ended by ``until``, and whose arrays must stay."""
        return [pending for pending in self._started if not pending.abandon(until)]

    # -- helpers ---------------------------------------------------------------------------------------------

    def _sums(self, array: Array, operation: str, at_once: bool) -> list[Work]:
        """All-reduce ``array`` in pieces; nothing is to do for one rank."""
        pieces = self._pieces(_flat(array)) if self.size > 1 else []
        return [self.transport.all_reduce(piece, operation, at_once) for piece in pieces]

    def _messages(self, arrays: Sequence[tuple[int, Array]]) -> list[tuple[int, Array]]:
        return [(peer, piece) for peer, array in arrays for piece in self._pieces(_words(array))]

    def _pieces(self, flat: Array) -> list[Array]:
        """``flat`` in pieces of at most ``limit`` elements; none if it is empty."""
        if 0 < flat.size <= self.limit:
            return [flat]
        return [flat[start : start + self.limit] for start in range(0, flat.size, self.limit)]

    def _refuse(self, kind: str, size: int, where: Where) -> None:
        if size > self.limit:
            raise UserError(
                f"layer {where.layer!r}, {where.phase}: the {kind} of {size:,} elements over {self.size} ranks is "
                f"longer than the {self.limit:,} that one MPI call counts; divide the batch further (--grid with more "
                "columns, a smaller --batch, or --accumulate)"
            )

    def _watch(self) -> Stopwatch:
        return Stopwatch(self.backend.device)

    def _enter(self, watch: Stopwatch, where: Where, count: Count, itemsize: int) -> None:
        """Enter a call with the seconds that it took."""
        self.ledger.time(watch, [(self.ledger.add(where, count, itemsize=itemsize), 1.0)])


def _flat(array: Array) -> Array:
    """``array`` as one run of memory; `ValueError` if it is none."""
    require_contiguous(array)
    return array.reshape(-1)


def _words(array: Array) -> Array:
    """``array`` as it is only moved: flat, and 16-bit numbers as words of 16 bits, for which MPI has a type."""
    flat = _flat(array)
    return flat.view("uint16") if flat.itemsize == 2 else flat
