"""Whether the MPI library takes pointers to GPU memory."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Mapping
from pathlib import Path


def cuda_aware(env: Mapping[str, str], vendor: str) -> bool | None:
    """What the loaded MPI library says of itself; None if it says nothing.

    Open MPI and MPICH have a query (``MPIX_Query_cuda_support``), Intel MPI an environment variable.
    """
    if vendor == "Intel MPI":
        return env.get("I_MPI_OFFLOAD", "0") not in ("0", "")
    try:
        maps = Path("/proc/self/maps").read_text()
        library = re.search(r"/\S*/libmpi\.so\S*", maps)
        return bool(ctypes.CDLL(library.group()).MPIX_Query_cuda_support()) if library else None
    except (OSError, AttributeError):
        return None
