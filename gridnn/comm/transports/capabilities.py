"""Which calls of which MPI library take pointers to GPU memory, and what a library says of itself.

What a library was built with is its site's choice: this table holds for a library that has CUDA support, and whether
it has is measured (`gridnn.comm.transports.probe`).
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gridnn.comm.launcher import vendor


@dataclass(frozen=True)
class Capabilities:
    """What one MPI library does with device pointers beyond the blocking forms of what all of them do.

    docs/transports.md has those, the other calls, and where each is said.
    """

    library: str  # its name, with the versions that are meant
    vector_reduce_scatter: bool  # Reduce_scatter into parts that are not all equal; False: or not stated


# The first row whose pattern is found in the library's version text is believed; Cray's names MPICH too.
TABLE = (
    (r"Open MPI v?(?:[5-9]|\d\d)\.", Capabilities("Open MPI 5", True)),
    (r"Open MPI v?4\.", Capabilities("Open MPI 4.1", True)),
    (r"(?i)cray mpich", Capabilities("Cray MPICH", False)),
    (r"MPICH (?:Version:? *)?(?:[4-9]|\d\d)\.", Capabilities("MPICH 4 and 5", True)),
    (r"MVAPICH", Capabilities("MVAPICH", False)),
    (r"Intel(?:\(R\))? MPI", Capabilities("Intel MPI", True)),
)


def capabilities_of(library: str) -> Capabilities:
    """The row of an MPI library by its version text; one that the table does not name does no more than all do."""
    return next((row for pattern, row in TABLE if re.search(pattern, library)), Capabilities(library, False))


def says(env: Mapping[str, str], library: str) -> bool | None:
    """Whether the loaded MPI library says of itself that it takes device pointers; None if it says nothing.

    Open MPI and MPICH have a query (``MPIX_Query_cuda_support``, after MPI is initialised), Cray MPICH, Intel MPI and
    MVAPICH2 environment variables.
    """
    loaded = _loaded()
    if "CRAY" in library.upper():
        return env.get("MPICH_GPU_SUPPORT_ENABLED", "0") == "1" and "libmpi_gtl_cuda" in loaded
    if vendor(library) == "Intel MPI":
        return env.get("I_MPI_OFFLOAD", "0") not in ("0", "")
    if "MVAPICH2" in library:
        return env.get("MV2_USE_CUDA", "0") == "1"
    found = re.search(r"/\S*/libmpi\.so\S*", loaded)
    try:
        return bool(ctypes.CDLL(found.group()).MPIX_Query_cuda_support()) if found else None
    except (OSError, AttributeError):
        return None


def beside_library() -> Path | None:
    """The directory in which an installation of the loaded MPI library keeps its commands."""
    found = re.search(r"/\S*/libmpi\w*\.so\S*", _loaded())
    return Path(found.group()).resolve().parent.parent / "bin" if found else None


def _loaded() -> str:
    """The shared libraries of this process."""
    try:
        return Path("/proc/self/maps").read_text()
    except OSError:
        return ""
