"""What this rank does at the moment, in memory that the other ranks of its node can read, whatever becomes of it.

A schedule is a fixed list, so what a rank did last follows from the passes that it began and its place in each: one
number is stored before every operation. Outside of passes a text says the stage.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from gridnn.errors import UserError

NAME = "gridnn-record"  # what the files are called first
VERSION = 0x67726E01
PASSES, FIELDS = 128, 5  # that are remembered; numbers of each (`Entry`)
SCHEDULES = 32  # that are described
RING, TABLE = 16, 16 + PASSES * FIELDS  # where passes and the places of the descriptions begin
TEXTS, LONGEST = 8 * (TABLE + 2 * SCHEDULES), 248  # where the texts of stage and reader begin, and their bytes
SIZE = TEXTS + 2 * LONGEST
MOST_BYTES = 4 << 20  # of all descriptions
BUSY, WAITS, READS = 0, 1, 2  # what a stage is: work of this rank, a wait for others, a wait for its own reader


class Cell:
    """The numbers at the start of the memory; times are nanoseconds of `time.monotonic_ns`, equal on a node."""

    VERSION = 0
    PID = 1
    BEAT = 2  # when the watcher last looked
    SINCE = 3  # since when it has seen the main thread where it is
    PASSES = 4  # begun so far
    INSIDE = 5  # whether the main thread is in a pass
    STAGE = 6  # how often the stage has changed
    KIND = 7  # of the stage: `BUSY`, `WAITS` or `READS`
    BEGUN = 8  # when the stage began
    READING = 9  # when the reader began to read; 0: it does not
    SCHEDULES = 10  # described so far
    ENDING = 11  # whether a rank of the node is ending the job


class Entry(NamedTuple):
    """A pass: the number of its schedule, step, pass of the step, when it began, and the last operation's number."""

    schedule: int
    step: int
    number: int
    began: int
    place: int


class Note(NamedTuple):
    """An operation in words: ``text`` is the call of the layer, or the movement; whether it ``waits`` for others."""

    layer: str
    text: str
    waits: bool


class Recorder:
    """The record of this rank; without a ``job`` it is in memory of its own, which nobody else reads.

    Parameters
    ----------
    job : str, optional
        The name of the job, for the name of the file.
    rank : int
        This rank.

    Attributes
    ----------
    path : str
        Of the file; "" if there is none.
    cells : memoryview
        The numbers.
    at : int
        Which of them is the place in the pass under way: ``for cells[at], call in enumerate(calls)`` keeps it.
    """

    def __init__(self, job: str = "", rank: int = 0) -> None:
        self.path, self._file, self._end, self.at = "", -1, SIZE, RING + 4
        memory: Any = (self._share(f"{NAME}.{job}.{rank}.{os.getpid()}") if job else None) or bytearray(SIZE)
        self._bytes = memoryview(memory)
        self.cells = self._bytes[:TEXTS].cast("q")
        self._seen: tuple[int, ...] = ()
        self.cells[Cell.VERSION], self.cells[Cell.PID] = VERSION, os.getpid()
        self._write_stage("setting up", BUSY)
        self.beat()

    def _share(self, name: str) -> mmap.mmap | None:
        """Memory in a file that the node's ranks see; None where there is no place."""
        for folder in ("/dev/shm", tempfile.gettempdir()):
            path = os.path.join(folder, name)
            try:
                file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            except OSError:
                continue
            try:
                os.posix_fallocate(file, 0, SIZE)  # a full file system would be a SIGBUS at some later store
                memory = mmap.mmap(file, SIZE)
            except OSError:
                os.close(file)
                os.remove(path)
                continue
            self.path, self._file = path, file
            return memory
        return None

    def read(self) -> bytes:
        """All of the record, as other ranks read it."""
        described = os.pread(self._file, self._end - SIZE, SIZE) if self._file >= 0 else b""
        return bytes(self._bytes) + described

    def close(self) -> None:
        """Remove the file; what is recorded from now on nobody sees. May be called twice."""
        path, self.path = self.path, ""
        if path:
            with contextlib.suppress(OSError):
                os.remove(path)

    # -- passes ------------------------------------------------------------------------------------------------

    def describe(self, kind: str, notes: Callable[[], Sequence[Note]]) -> int:
        """The number of a schedule of this ``kind`` whose operations have these ``notes``; -1: it is not described."""
        number = self.cells[Cell.SCHEDULES]
        if not self.path or number == SCHEDULES:
            return -1
        text = json.dumps([kind, notes()]).encode()
        if self._end + len(text) > SIZE + MOST_BYTES:
            return -1
        try:
            os.pwrite(self._file, text, self._end)
        except OSError:
            return -1
        self.cells[TABLE + 2 * number], self.cells[TABLE + 2 * number + 1] = self._end, len(text)
        self._end += len(text)
        self.cells[Cell.SCHEDULES] = number + 1
        return number

    def forget(self) -> None:
        """Forget the schedules, and which pass is under way: others come now, and there is room for as many again."""
        for number in range(PASSES):
            self.cells[RING + number * FIELDS] = -1
        self.cells[Cell.SCHEDULES], self.cells[Cell.INSIDE], self._end = 0, 0, SIZE

    def begin(self, schedule: int, step: int, number: int) -> None:
        """A pass begins; `end` follows, unless it fails: then the record keeps the operation that failed."""
        cells, count = self.cells, self.cells[Cell.PASSES]
        at = RING + count % PASSES * FIELDS
        cells[at], cells[at + 1], cells[at + 2], cells[at + 3] = schedule, step, number, time.monotonic_ns()
        cells[at + 4] = 0
        self.at = at + 4
        cells[Cell.PASSES], cells[Cell.INSIDE] = count + 1, 1

    def go_on(self) -> None:
        """The last pass goes on, until `end`."""
        self.cells[Cell.INSIDE] = 1

    def end(self) -> None:
        """The pass has ended."""
        self.cells[Cell.INSIDE] = 0

    # -- stages ------------------------------------------------------------------------------------------------

    def doing(self, text: str, kind: int = BUSY) -> Stage:
        """A context outside of passes, in which the main thread does what ``text`` says; after it what it did before.

        One that is left by an exception that ends the job remains, to be read afterwards.
        """
        return Stage(self, text, kind)

    def waiting(self, text: str | None = None) -> Stage:
        """A context in which the main thread waits for other ranks; without a ``text`` for values of theirs."""
        return Stage(self, text, WAITS)

    def reads(self, text: str) -> None:
        """From now on the reader, mostly a thread of its own, reads what ``text`` says; "": nothing."""
        if text:
            self._write(TEXTS + LONGEST, text)
        self.cells[Cell.READING] = time.monotonic_ns() if text else 0

    def _write_stage(self, text: str, kind: int) -> None:
        cells, self.text = self.cells, text
        self._write(TEXTS, text)
        cells[Cell.KIND], cells[Cell.BEGUN], cells[Cell.INSIDE] = kind, time.monotonic_ns(), 0
        cells[Cell.STAGE] += 1

    def _write(self, start: int, text: str) -> None:
        said = text.encode(errors="replace")[: LONGEST - 1] + b"\0"
        self._bytes[start : start + len(said)] = said

    # -- the watcher's -----------------------------------------------------------------------------------------

    @property
    def since(self) -> int:
        """Since when the main thread is where it is, as `beat` has seen it."""
        return self.cells[Cell.SINCE]

    def beat(self) -> None:
        """The watcher has looked: it is now, and the main thread is where it was at the last look or elsewhere."""
        cells, now = self.cells, time.monotonic_ns()
        seen = (cells[Cell.PASSES], cells[self.at], cells[Cell.INSIDE], cells[Cell.STAGE])
        if seen != self._seen:
            self._seen, cells[Cell.SINCE] = seen, now
        cells[Cell.BEAT] = now


class Stage:
    """See `Recorder.doing`."""

    __slots__ = ("_before", "_kind", "_recorder", "_text")

    def __init__(self, recorder: Recorder, text: str | None, kind: int) -> None:
        self._recorder, self._text, self._kind = recorder, text, kind

    def __enter__(self) -> None:
        recorder = self._recorder
        self._before = recorder.text, recorder.cells[Cell.KIND], recorder.cells[Cell.INSIDE]
        recorder._write_stage(self._text or f"{recorder.text}, exchanging values", self._kind)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or issubclass(kind, UserError):  # which is told by its text, or made good
            text, stage, inside = self._before
            self._recorder._write_stage(text, stage)
            self._recorder.cells[Cell.INSIDE] = inside
