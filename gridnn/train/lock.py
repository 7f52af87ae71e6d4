"""One run at a time in a directory of checkpoints."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import time
from collections.abc import Collection
from typing import Any

from gridnn.errors import UserError
from gridnn.records import parse_json, shortened

NAME = "run.lock"
LONGEST = 4096  # bytes of a lock that is read
LEASE = 120.0  # seconds after which a server of files gives back what a node that is gone has locked


class Lock:
    """A directory that one run owns: a file that says whose it is, locked (flock) as long as its process lives.

    The kernel gives the lock back when a process dies, however it dies; what is then left of the file is told in
    `left`. Where the file system has no locks the file alone counts.

    Parameters
    ----------
    gone : collection of (node, process)
        Owners that are known to have died: of these it takes the directory over, for which a server of files may need
        a moment.

    Raises
    ------
    UserError
        If another run owns the directory; the text says which.
    """

    def __init__(self, directory: str, gone: Collection[tuple[str, int]] = ()) -> None:
        self.path, self.left = os.path.join(directory, NAME), ""
        self._file = self._own(directory, gone)

    def _own(self, directory: str, gone: Collection[tuple[str, int]]) -> int:
        limit = time.monotonic() + LEASE
        while True:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
            content = os.pread(file, LONGEST, 0)
            owner, has_died = _described(content), _owner(content) in gone
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                locks = True
            except BlockingIOError:
                os.close(file)
                if has_died and time.monotonic() < limit:
                    time.sleep(0.5)
                    continue
                raise UserError(
                    f"--checkpoint {directory} is that of a run that goes on, {owner}: wait for it, end it, or name "
                    "another directory"
                ) from None
            except OSError:  # a file system without locks
                locks = False
            if not locks and owner and not has_died:
                os.close(file)
                raise UserError(
                    f"--checkpoint {directory} is that of {owner}, and its file system cannot tell whether that run "
                    f"goes on: if it does not, remove {self.path}"
                )
            if self._is_here(file):
                break
            os.close(file)  # its owner has just removed it
        self.left = owner
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps(_mine()).encode(), 0)
        return file

    def _is_here(self, file: int) -> bool:
        try:
            return os.path.samestat(os.fstat(file), os.lstat(self.path))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Give the directory back; may be called twice."""
        if self._file < 0:
            return
        with contextlib.suppress(OSError):
            if self._is_here(self._file):
                os.remove(self.path)
        os.close(self._file)
        self._file = -1


def _mine() -> dict[str, Any]:
    job = next((os.environ[name] for name in ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID") if name in os.environ), None)
    began = time.strftime("%Y-%m-%d %H:%M:%S")
    return {"host": platform.node(), "process": os.getpid(), **({"job": job} if job else {}), "began": began}


def _owner(content: bytes) -> tuple[str, int] | None:
    """The node and the process that a lock names."""
    try:
        said = parse_json(NAME, content)
        return said["host"], said["process"]
    except (UserError, TypeError, KeyError):
        return None


def _described(content: bytes) -> str:
    """Whose a lock is, in words; "" if it says nothing."""
    try:
        said = {name: shortened(value).strip("'") for name, value in parse_json(NAME, content).items()}
        job = f" of job {said['job']}" if "job" in said else ""
        return f"process {said['process']}{job} on {said['host']}, begun {said['began']}"
    except (UserError, AttributeError, KeyError):
        return "an unknown process" if content.strip() else ""
