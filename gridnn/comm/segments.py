"""Shared memory that killed jobs have left on this node."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

# Of Open MPI 5, Open MPI 4, MPICH, and records of our own.
PATTERNS = ("sm_segment.*", "vader_segment.*", "mpich_shar_tmp*", "gridnn-record.*")


def stale_segments(folder: Path = Path("/dev/shm"), processes: Path = Path("/proc")) -> list[Path]:
    """The segments of this user's jobs in ``folder`` that no process of the user's has mapped."""
    found = {path for pattern in PATTERNS for path in folder.glob(pattern) if _is_mine(path)}
    for entry in processes.glob("[0-9]*"):
        if not found:
            break
        with contextlib.suppress(OSError):  # the process has ended, or is somebody else's
            maps = (entry / "maps").read_text(errors="replace")
            found = {path for path in found if str(path) not in maps}
    return sorted(found)


def _is_mine(path: Path) -> bool:
    try:
        return path.lstat().st_uid == os.geteuid()
    except OSError:
        return False
