"""Queues of work that run as late as CUDA allows: the streams and events under the stand-in.

An operation is a closure over raw memory. Nothing runs before something waits for it; then exactly what that needs
runs: its stream up to there, and across waits for events what they need of other streams. ``STANDIN_ORDER=eager``
runs everything at once instead. No lock is held while an operation runs, so that it may wait for another rank.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from cupy import _record
from cupy._errors import CUDARuntimeError

COND = threading.Condition(threading.RLock())
DEPTH = 1024  # as many launches wait in a stream of CUDA before the host does
PATIENCE = 0.02  # seconds after which work that other ranks need runs, though nobody here waits for it

INVALID, NOT_READY = 1, 600
UNSUPPORTED, INVALIDATED, UNJOINED, ISOLATION, CAPTURED = 900, 901, 904, 905, 907


@dataclass(eq=False)
class Mark:
    """A point in a queue: it is reached once the queue has done ``number`` operations."""

    queue: Queue
    number: int
    capture: Capture | None = None
    time: float = 0.0

    @property
    def reached(self) -> bool:
        return self.queue.done >= self.number


@dataclass(eq=False)
class Operation:
    """What a queue holds: something to run, or a mark of another queue to wait for."""

    name: str
    run: Callable[[], None] | None
    needs: Mark | None = None


@dataclass(eq=False)
class Capture:
    """A graph being made: a queue per stream that takes part; the first is the one that was asked to capture."""

    lanes: dict[Queue, Queue] = field(default_factory=dict)
    valid: bool = True

    def lane(self, queue: Queue) -> Queue:
        return self.lanes.setdefault(queue, Queue(queue.handle))


class Queue:
    """The operations of one stream, in order.

    Parameters
    ----------
    handle : int
        The ``cudaStream_t`` it stands for; 0 is the legacy default stream.
    blocking : bool
        Whether it and the legacy default stream wait for each other.
    """

    def __init__(self, handle: int, blocking: bool = False):
        self.handle, self.blocking = handle, blocking
        self.pending: deque[Operation] = deque()
        self.asked = self.done = 0
        self.busy = False
        self.failed: BaseException | None = None
        self.capture: Capture | None = None
        self.watcher: Watcher | None = None

    def push(self, name: str, run: Callable[[], None], prompt: bool = False) -> None:
        """Ask for an operation; a ``prompt`` one runs soon even if nobody here waits, as other ranks may."""
        if name:
            _record.note(self.handle, name)
        self._add(Operation(name, run))
        if prompt and not self.capture:
            self.watcher = self.watcher or Watcher(self)
            self.watcher.expect(self.asked)

    def mark(self) -> Mark:
        """An event after everything asked of this queue so far."""
        queue, capture = (self, None) if self.capture is None else (self.capture.lane(self), self.capture)
        mark = Mark(queue, 0, capture)

        def stamp() -> None:
            mark.time = time.perf_counter()

        with COND:
            self._add(Operation("record", stamp))
            mark.number = queue.asked
        return mark

    def hold(self, mark: Mark) -> None:
        """Go on only after ``mark``."""
        if self.capture is None and mark.capture is not None:
            if not any(queue.capture is mark.capture for queue in mark.capture.lanes):
                raise CUDARuntimeError(CAPTURED)
            self.capture = mark.capture  # this stream takes part in the capture from here on
        elif self.capture is not None and mark.capture is not self.capture:
            self.capture.valid = False
            raise CUDARuntimeError(ISOLATION)
        self._add(Operation("wait", None, mark))

    def wait(self, number: int | None = None) -> None:
        """Run everything asked so far, or the first ``number`` operations."""
        if self.capture is not None:
            self.capture.valid = False
            raise CUDARuntimeError(UNSUPPORTED)
        run_to(self, self.asked if number is None else number)

    def _add(self, operation: Operation) -> None:
        with COND:
            queue = self if self.capture is None else self.capture.lane(self)
            if queue is self:
                self._legacy()
            queue.pending.append(operation)
            queue.asked += 1
        if queue is self:
            if EAGER:
                run_to(self, self.asked)
            elif len(self.pending) > DEPTH:
                run_to(self, self.asked - DEPTH)

    def _legacy(self) -> None:
        """The legacy default stream and the blocking streams wait for each other."""
        others = [ALL[0]] if self.blocking else [q for q in list(ALL.values()) if q.blocking] if not self.handle else []
        for other in others:
            if other.done < other.asked:
                self.pending.append(Operation("wait", None, Mark(other, other.asked)))
                self.asked += 1


def run_to(queue: Queue, number: int) -> None:
    """Run ``queue`` until ``number`` of its operations are done, and what that needs of other queues."""
    while True:
        with COND:
            while queue.busy and queue.done < number:
                COND.wait()
            if queue.failed:
                error, queue.failed = queue.failed, None
                raise error
            if queue.done >= number:
                return
            operation = queue.pending[0]
            if operation.needs is None:
                queue.busy = True
        if operation.needs is not None:
            run_to(operation.needs.queue, operation.needs.number)
            with COND:
                if queue.pending and queue.pending[0] is operation:
                    _next(queue)
            continue
        try:
            with np.errstate(all="ignore"):
                operation.run()
        finally:
            with COND:
                _next(queue)


def _next(queue: Queue) -> None:
    queue.pending.popleft()
    queue.done += 1
    queue.busy = False
    COND.notify_all()


def synchronize() -> None:
    """Run everything that was asked of the device."""
    queues = list(ALL.values())
    for queue in queues:
        if queue.capture is not None:
            queue.wait()  # refuses
    for queue in queues:
        run_to(queue, queue.asked)


class Graph:
    """What a capture recorded; every launch runs it again on the same memory."""

    def __init__(self, capture: Capture, origin: Queue):
        self._origin = capture.lanes.get(origin)
        self._lanes = list(capture.lanes.values())
        self._operations = [(lane, list(lane.pending)) for lane in self._lanes]

    def run(self) -> None:
        """Run it, as late as its own waits allow."""
        fresh = {lane: Queue(lane.handle) for lane in self._lanes}
        for lane, operations in self._operations:
            for operation in operations:
                needs = operation.needs and Mark(fresh[operation.needs.queue], operation.needs.number)
                fresh[lane].pending.append(Operation(operation.name, operation.run, needs))
                fresh[lane].asked += 1
        for lane in ([self._origin] if self._origin else []) + self._lanes:
            run_to(fresh[lane], fresh[lane].asked)


def begin_capture(queue: Queue) -> None:
    """Let the operations asked of ``queue`` go to a graph instead."""
    if queue.capture is not None:
        raise CUDARuntimeError(UNSUPPORTED)
    queue.capture = Capture()
    queue.capture.lane(queue)


def end_capture(queue: Queue) -> Graph:
    """The graph of what was asked of ``queue``, and of the streams that took part, since `begin_capture`."""
    capture = queue.capture
    if capture is None:
        raise CUDARuntimeError(INVALID)
    joined = {queue}
    todo = [operation for operation in capture.lane(queue).pending if operation.needs]
    reached: dict[Queue, int] = {}
    while todo:
        mark = todo.pop().needs
        if reached.get(mark.queue, 0) < mark.number:
            reached[mark.queue] = mark.number
            todo += [operation for operation in list(mark.queue.pending)[: mark.number] if operation.needs]
    for stream, lane in capture.lanes.items():
        waited = [i for i, operation in enumerate(lane.pending, 1) if operation.name not in ("record", "wait")]
        if not waited or waited[-1] <= reached.get(lane, 0):
            joined.add(stream)
        stream.capture = None
    if not capture.valid:
        raise CUDARuntimeError(INVALIDATED)
    if joined != set(capture.lanes):
        raise CUDARuntimeError(UNJOINED)
    return Graph(capture, queue)


class Watcher:
    """A thread that runs what other ranks need of a queue, if nobody here has waited for it after a while."""

    def __init__(self, queue: Queue):
        self._queue = queue
        self._due: deque[tuple[float, int]] = deque()
        threading.Thread(target=self._watch, name="standin", daemon=True).start()

    def expect(self, number: int) -> None:
        with COND:
            self._due.append((time.monotonic() + PATIENCE, number))
            COND.notify_all()

    def _watch(self) -> None:
        while True:
            with COND:
                while not self._due:
                    COND.wait()
                due, number = self._due.popleft()
            time.sleep(max(0.0, due - time.monotonic()))
            try:
                run_to(self._queue, number)
            except Exception as error:  # whoever waits for the stream next gets it
                self._queue.failed = error


EAGER = os.environ.get("STANDIN_ORDER", "late") == "eager"
ALL: dict[int, Queue] = {0: Queue(0)}  # by handle
