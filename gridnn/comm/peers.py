"""What other ranks are seen doing: their records, read from outside."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from gridnn.comm.recorder import (
    FIELDS,
    LONGEST,
    MOST_BYTES,
    PASSES,
    READS,
    RING,
    SIZE,
    TABLE,
    TEXTS,
    VERSION,
    WAITS,
    Cell,
    Entry,
    Note,
    Recorder,
)

QUIET = 3.0  # seconds after which a watcher that has not looked is not answering
RUNS, STOPPED, SILENT, ENDED, LEFT, UNSEEN = "", "stopped", "not answering", "ended", "has left", "not reached"


class Place(NamedTuple):
    """Where a rank and its record are: the node's name, what tells nodes apart, the file and the process."""

    node: str
    node_id: int
    path: str
    pid: int


@dataclass(frozen=True)
class RankState:
    """What a rank was seen doing.

    Attributes
    ----------
    rank, node : int, str
        Which, and where.
    state : str
        "" of a rank that runs, "stopped" (by a signal), "not answering" (native code that holds the interpreter),
        "ended" (no process is left), "has left" (it closed its record), "not reached" (on another node).
    waits : bool
        Whether it waits for other ranks.
    where : str
        Its place, as the beginning of a message: "step 12, layer fc1, all-reduce on the row".
    doing : str
        The same of one that is looked at: "in fc1, forward of step 12", "reading batch 13".
    seconds : float
        Since when.
    progress : (int, int)
        Passes begun, and the place in the last of them: what is smaller is behind.
    reads : bool
        Whether it waits for its own reader.
    """

    rank: int
    node: str
    state: str = UNSEEN
    waits: bool = False
    where: str = ""
    doing: str = ""
    seconds: float = 0.0
    progress: tuple[int, int] = (0, 0)
    reads: bool = False


class Record:
    """A record as it was read from memory or from a file."""

    def __init__(self, data: bytes) -> None:
        if len(data) < SIZE:
            raise ValueError("it is too short")
        self._data, self.cells = data, memoryview(data)[:TEXTS].cast("q")
        if self.cells[Cell.VERSION] != VERSION:
            raise ValueError("it is of another version")
        self._known: dict[int, tuple[str, list[Note]]] = {}

    def passes(self) -> Iterator[Entry]:
        """The passes, the last one first."""
        count = self.cells[Cell.PASSES]
        for back in range(min(count, PASSES)):
            at = RING + (count - 1 - back) % PASSES * FIELDS
            yield Entry(*self.cells[at : at + FIELDS])

    def operations(self, most: int) -> list[tuple[int, float, str]]:
        """The last operations, the last one last: step, seconds since the pass began, and layer and call."""
        found: list[tuple[int, float, str]] = []
        now = time.monotonic_ns()
        for entry in self.passes():
            _, notes = self._schedule(entry.schedule)
            age = round((now - entry.began) / 1e9, 3)
            for note in reversed(notes[: entry.place + 1]):
                if len(found) == most:
                    return found[::-1]
                found.append((entry.step, age, ", ".join(filter(None, note[:2]))))
        return found[::-1]

    def state_of(self, rank: int, node: str) -> RankState:
        """What the rank was doing."""
        cells, entry = self.cells, next(self.passes(), None)
        inside = bool(entry and cells[Cell.INSIDE])
        where, doing, waits, began = self._pass(entry) if inside else self._stage()
        begun = max(cells[Cell.SINCE], began)
        progress = (cells[Cell.PASSES], entry.place if entry else 0)
        seconds = max(0.0, (time.monotonic_ns() - begun) / 1e9)
        reads = not inside and cells[Cell.KIND] == READS
        return RankState(rank, node, RUNS, waits, where, doing, seconds, progress, reads)

    def _pass(self, entry: Entry) -> tuple[str, str, bool, int]:
        kind, notes = self._schedule(entry.schedule)
        step = f"step {entry.step}" if entry.step else kind
        note = notes[entry.place] if entry.place < len(notes) else Note("", f"operation {entry.place}", False)
        layer = [f"layer {note.layer}"] if note.layer else []
        doing = f"in {', '.join(filter(None, note[:2]))} of {step}"
        return ", ".join([step, *layer, note.text]), doing, note.waits, entry.began

    def _stage(self) -> tuple[str, str, bool, int]:
        cells, text = self.cells, self._text(0)
        reads = cells[Cell.KIND] == READS and cells[Cell.READING]
        doing, began = (self._text(1), cells[Cell.READING]) if reads else (text, cells[Cell.BEGUN])
        return text, doing, cells[Cell.KIND] == WAITS, began

    def _text(self, place: int) -> str:
        start = TEXTS + place * LONGEST
        return self._data[start : start + LONGEST].partition(b"\0")[0].decode(errors="replace")

    def _schedule(self, number: int) -> tuple[str, list[Note]]:
        """The kind of a schedule and the notes of its operations; none of one that is not described."""
        if number not in self._known:
            kind, notes = "a pass", []
            with contextlib.suppress(ValueError, TypeError, IndexError):
                start, size = self.cells[TABLE + 2 * number], self.cells[TABLE + 2 * number + 1]
                if number >= 0:
                    kind, notes = json.loads(self._data[start : start + size])
            self._known[number] = kind, [Note(*note) for note in notes]
        return self._known[number]


class Peers:
    """The places of all ranks of a job, and the records of those on the node of rank ``rank``."""

    def __init__(self, places: Sequence[Place], rank: int, recorder: Recorder) -> None:
        self.places, self.rank, self.recorder = places, rank, recorder
        mine = places[rank]
        self.here = [r for r, one in enumerate(places) if r == rank or (one.path and one.node_id == mine.node_id)]
        self.away = [r for r in range(len(places)) if r not in self.here]
        self.order = sorted({one.node_id for one in places}).index(mine.node_id)

    def record(self, rank: int) -> Record | None:
        """The record of a rank of this node; None if it is not there any more."""
        try:
            if rank == self.rank:
                return Record(self.recorder.read())
            with open(self.places[rank].path, "rb") as file:
                return Record(file.read(SIZE + MOST_BYTES))
        except (OSError, ValueError):
            return None

    def look(self, rank: int) -> RankState:
        """What a rank of this node does."""
        place, record = self.places[rank], self.record(rank)
        if record is None:
            return RankState(rank, place.node, LEFT if _process(place.pid) else ENDED)
        seen = record.state_of(rank, place.node)
        if rank == self.rank:
            return seen
        process = _process(place.pid)
        if process in ("", "Z", "X"):
            return replace(seen, state=ENDED)
        if process in ("T", "t"):
            return replace(seen, state=STOPPED)
        quiet = (time.monotonic_ns() - record.cells[Cell.BEAT]) / 1e9
        return replace(seen, state=SILENT) if quiet > QUIET else seen

    def remove_ended(self) -> None:
        """Remove the records of ranks of this node whose processes have ended, while the job goes on."""
        for rank in self.here:
            if rank != self.rank and self.look(rank).state == ENDED:
                with contextlib.suppress(OSError):
                    os.remove(self.places[rank].path)

    def clear(self) -> None:
        """Remove the records of this node, whose ranks learn of it: the job is being ended, and some cannot do it."""
        paths = [self.places[rank].path for rank in self.here]
        for path in paths:
            with contextlib.suppress(OSError), open(path, "r+b", buffering=0) as file:
                os.pwrite(file.fileno(), b"\1", 8 * Cell.ENDING + (sys.byteorder == "big") * 7)
        for path in paths:
            with contextlib.suppress(OSError):
                os.remove(path)

    def unseen(self, rank: int) -> RankState:
        """A rank of another node that has not answered."""
        return RankState(rank, self.places[rank].node)


def _process(pid: int) -> str:
    """The letter of a process's state (see proc(5)); "" if there is none, "?" if the system does not say."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return "" if os.path.isdir("/proc/self") else "?"


def missing(seen: Sequence[RankState]) -> list[RankState]:
    """Who is waited for: the ranks that do not wait themselves, or cannot do anything."""
    return [one for one in seen if not one.waits or one.state not in (RUNS, SILENT)]


def tell(own: RankState, seen: Sequence[RankState], named: int = 4) -> str:
    """One line: where this rank waits, how long, and for whom; ``seen`` are all ranks."""
    begin = f"{own.where}: waiting {own.seconds:.0f} s for"
    if own.reads:
        return f"{begin} {_describe(own)}"
    found = missing(seen)
    if not found:
        last = min(seen, key=lambda one: (one.progress, -one.seconds))
        return f"{begin} others, and so do all {len(seen)} ranks; the farthest behind is {_describe(last)}"
    more = f"; and {len(found) - named} more" * (len(found) > named)
    return f"{begin} {'; '.join(map(_describe, found[:named]))}{more}"


def _describe(one: RankState) -> str:
    states: dict[str, Any] = {
        STOPPED: "stopped by a signal",
        SILENT: "not answering (in native code)",
        ENDED: "whose process has ended",
        LEFT: "which has left the run",
        UNSEEN: "not answering (stopped, or its node is gone)",
    }
    said = [f"rank {one.rank} (node {one.node})", states.get(one.state)]
    said.append(f"last seen {one.doing} (for {one.seconds:.0f} s)" if one.doing else None)
    return ", ".join(filter(None, said))
