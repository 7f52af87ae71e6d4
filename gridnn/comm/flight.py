"""The flight recorder's files: what every rank did last, written when a job stalls, is signalled or dies."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from gridnn.comm.peers import LEFT, RUNS, Peers, RankState
from gridnn.errors import UserError
from gridnn.records import read_json, real, shortened, whole

OPERATIONS, ALTOGETHER = 1000, 100_000  # the most of one rank, and of all ranks of a job
KEPT = 8  # jobs
PATIENCE = 0.8  # seconds that writing may take: Open MPI's mpirun kills a second after its SIGTERM
EVENT = 30.0  # seconds in which what is written is of one event: a launcher's signals follow a death
JOB = re.compile(r"\d{8}-\d{6}-[\w.-]{1,80}")
RANK = re.compile(r"rank-(\d{1,7})\.json")
SUMMARY = "job.json"
LONGEST = 2000  # letters of a text that is read
Result = TypeVar("Result")


def name_job() -> str:
    """A name for this job, which sorts by time; told to all ranks by one of them."""
    node = re.sub(r"[^\w.-]", "", os.uname().nodename)[:60]
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{node}-{os.getpid()}"


def folders() -> list[Path]:
    """Where records are written, and searched: the user's folder of state, or if that cannot be the temporary one."""
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return [Path(state, "gridnn"), Path(tempfile.gettempdir(), f"gridnn-{os.geteuid()}")]


class RecordWriter:
    """Writes the records of a job; ``peers`` has them."""

    def __init__(self, job: str, peers: Peers) -> None:
        self.job, self.peers, self._lock = job, peers, threading.Lock()
        self.folder: Path | None = None

    def write(
        self, reason: str, everyone: bool = False, seen: Sequence[RankState] = (), patience: float = PATIENCE
    ) -> Path | None:
        """Write this rank's record, and of its node those that cannot write their own, or ``everyone``'s.

        It takes ``patience`` seconds at the most, and raises nothing.

        Returns
        -------
        path or None
            The folder; None if nothing could be written in time.
        """
        thread = threading.Thread(target=self._write, args=(reason, everyone, seen), daemon=True)
        with contextlib.suppress(RuntimeError):  # no thread can be started any more
            thread.start()
            thread.join(patience)
        return self.folder

    def _write(self, reason: str, everyone: bool, seen: Sequence[RankState]) -> None:
        with contextlib.suppress(Exception), self._lock:
            self.folder = self.folder or self._make()
            self._summarise(reason, seen)
            for rank in [self.peers.rank, *(other for other in self.peers.here if other != self.peers.rank)]:
                one = self.peers.look(rank)
                if one.state == LEFT or (rank != self.peers.rank and one.state == RUNS and not everyone):
                    continue
                if not _is_new(path := self.folder / f"rank-{rank}.json"):
                    _replace(path, self._described(one))

    def _described(self, one: RankState) -> dict[str, Any]:
        record = self.peers.record(one.rank)
        most = min(OPERATIONS, max(10, ALTOGETHER // len(self.peers.places)))
        operations = record.operations(most) if record else []
        return {**_facts(one), "operations": operations}

    def _make(self) -> Path:
        for folder in folders():
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                if not _is_own(folder):
                    continue
                (folder / self.job).mkdir(mode=0o700, exist_ok=True)
            except OSError:
                continue
            for old in _jobs(folder)[KEPT:]:
                shutil.rmtree(old, ignore_errors=True)
            return folder / self.job
        raise OSError

    def _summarise(self, reason: str, seen: Sequence[RankState]) -> None:
        """Why, and what was seen of all ranks."""
        if not _is_new(path := self.folder / SUMMARY):
            about = {"reason": reason, "when": time.time(), "command": shlex.join(sys.argv)}
            _replace(path, {**about, "ranks": len(self.peers.places), "seen": [_facts(one) for one in seen]})


def _facts(one: RankState) -> dict[str, Any]:
    about = {"rank": one.rank, "node": one.node, "state": one.state, "where": one.where, "doing": one.doing}
    return {**about, "waits": one.waits, "seconds": round(one.seconds, 3)}


def _replace(path: Path, data: Any) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(_printable(data)))
    os.replace(partial, path)


def _printable(data: Any) -> Any:
    """Plain data with texts that are lines: names are the user's, and a message may be anything."""
    if isinstance(data, str):
        return "".join(letter if letter.isprintable() else " " for letter in data[:LONGEST])
    if isinstance(data, dict):
        return {key: _printable(value) for key, value in data.items()}
    return [_printable(value) for value in data] if isinstance(data, list | tuple) else data


def _is_new(path: Path) -> bool:
    """Whether a file was written for this end of the job: the first one to write knows best what was before it."""
    return path.exists() and abs(time.time() - path.stat().st_mtime) < EVENT


def _is_own(folder: Path) -> bool:
    """Whether it is a folder of this user's, and no link of somebody else to one."""
    return folder.is_dir() and not folder.is_symlink() and folder.stat().st_uid == os.geteuid()


def _jobs(folder: Path) -> list[Path]:
    """The folders of jobs, the newest first."""
    found: Iterable[Path] = folder.iterdir() if folder.is_dir() and _is_own(folder) else ()
    return sorted((one for one in found if JOB.fullmatch(one.name) and _is_own(one)), reverse=True)


# -- reading ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class JobRecord:
    """What the records of a job say.

    Attributes
    ----------
    folder, reason, when, command, ranks
        Where they are, why and when (seconds since 1970) they were written, of which command, and of how many ranks.
    seen : dict of int to RankState
        What is known of the ranks.
    operations : dict of int to list of (step, seconds, text)
        The last ones of those ranks that wrote, or whose node did.
    """

    folder: Path
    reason: str
    when: float
    command: str
    ranks: int
    seen: dict[int, RankState]
    operations: dict[int, list[tuple[int, float, str]]]


def last_job_record(places: Sequence[Path] | None = None) -> JobRecord:
    """The newest records of this user on this node.

    Raises
    ------
    UserError
        If there are none, or they are damaged: the text names the file.
    """
    places = folders() if places is None else places
    newest = sorted((job for folder in places for job in _jobs(folder)), key=lambda job: job.name)
    if not newest:
        raise UserError(f"no job has left a record in {' or '.join(map(str, places))}: none has stalled or died here")
    folder = newest[-1]
    facts, noted = _read(folder / SUMMARY, _summary)
    seen, operations = {one.rank: one for one in noted}, {}
    for path in sorted(path for path in folder.iterdir() if RANK.fullmatch(path.name)):
        one, operations_of_it = _read(path, lambda data: (_rank_state(data), _list("operations", data, _operation)))
        known = seen.get(one.rank, one)  # one that was stopped writes when it is woken to be ended
        seen[one.rank], operations[one.rank] = replace(one, state=one.state or known.state), operations_of_it
    return JobRecord(folder, *facts, dict(sorted(seen.items())), operations)


def _read(path: Path, make: Callable[[dict[str, Any]], Result]) -> Result:
    """What ``make`` makes of the object in a file that somebody may have changed."""
    data = read_json("record", path)
    try:
        return make(_object(data))
    except UserError as error:
        raise UserError(f"record {path}: {error}; remove {path.parent}") from error


def _summary(data: dict[str, Any]) -> tuple[tuple[str, float, str, int], list[RankState]]:
    said = (
        _text("reason", data.get("reason")),
        real("when", data.get("when"), 0.0),
        _text("command", data.get("command")),
    )
    return (*said, whole("ranks", data.get("ranks"), 1)), _list("seen", data, lambda one: _rank_state(_object(one)))


def _rank_state(data: dict[str, Any]) -> RankState:
    state, where, doing = (_text(name, data.get(name)) for name in ("state", "where", "doing"))
    rank, node = whole("rank", data.get("rank")), _text("node", data.get("node"))
    seconds = real("seconds", data.get("seconds"), 0.0)
    return RankState(rank, node, state, bool(data.get("waits")), where, doing, seconds)


def _operation(value: Any) -> tuple[int, float, str]:
    if not isinstance(value, list) or len(value) != 3:
        raise UserError(f'"operations" has {shortened(value)}, but must have [step, seconds, text]')
    return whole("step", value[0]), real("seconds", value[1], 0.0), _text("operation", value[2])


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{shortened(value)} is no object")
    return value


def _list(name: str, data: dict[str, Any], make: Callable[[Any], Result]) -> list[Result]:
    value = data.get(name)
    if not isinstance(value, list):
        raise UserError(f'"{name}" is {shortened(value)}, but must be a list')
    return [make(one) for one in value]


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or len(value) > LONGEST or not value.isprintable():
        raise UserError(f'"{name}" is {shortened(value)}, but must be a line of text')
    return value
