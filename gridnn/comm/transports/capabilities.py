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

# What every library with CUDA support does: the blocking forms, with contiguous buffers.
PORTABLE = (
    "Allreduce",
    "Reduce",
    "Reduce_scatter_block",
    "Allgather",
    "Allgatherv",
    "Alltoall",
    "Alltoallv",
    "Bcast",
    "Isend",
    "Irecv",
)
NOT_STATED = "not stated: taken as no"
OPEN_MPI_5 = "docs.open-mpi.org, v5.0.x, Tuning, CUDA"
OPEN_MPI_4 = "open-mpi.org, FAQ, Running CUDA-aware Open MPI"
TRIED = "tried with a stand-in CUDA driver"


@dataclass(frozen=True)
class Capabilities:
    """What one MPI library does with device pointers beyond `PORTABLE`.

    A transport asks for ``vector_reduce_scatter`` alone. The other two are why it makes blocking calls in a thread, and
    are kept beside it for whoever wants to change that; docs/transports.md shows them.

    Attributes
    ----------
    library : str
        Its name, with the versions that are meant.
    nonblocking_reductions : bool
        Iallreduce, Ireduce, Ireduce_scatter.
    vector_reduce_scatter : bool
        Reduce_scatter into parts that are not all equal.
    nonblocking_collectives : bool
        Iallgather(v), Ialltoall(v), Ibcast.
    sources : dict of str to str
        Where each of the three is said, by its name.
    """

    library: str
    nonblocking_reductions: bool
    vector_reduce_scatter: bool
    nonblocking_collectives: bool
    sources: Mapping[str, str]


def _row(library: str, **said: tuple[bool, str]) -> Capabilities:
    return Capabilities(
        library,
        **{name: value for name, (value, _) in said.items()},
        sources={name: source for name, (_, source) in said.items()},
    )


def _unknown(library: str) -> Capabilities:
    no = (False, NOT_STATED)
    return _row(library, nonblocking_reductions=no, vector_reduce_scatter=no, nonblocking_collectives=no)


# The first row whose pattern is found in the library's version text is believed; Cray's names MPICH too.
TABLE = (
    (
        r"Open MPI v?(?:[5-9]|\d\d)\.",
        _row(
            "Open MPI 5",
            nonblocking_reductions=(False, f"{OPEN_MPI_5}; crashes, github.com/open-mpi/ompi issues 9845 and 12045"),
            vector_reduce_scatter=(True, f"{OPEN_MPI_5}; {TRIED}"),
            nonblocking_collectives=(False, f"{OPEN_MPI_5}: over UCX only"),
        ),
    ),
    (
        r"Open MPI v?4\.",
        _row(
            "Open MPI 4.1",
            nonblocking_reductions=(False, f"{OPEN_MPI_4}; crashes, github.com/open-mpi/ompi issue 9845"),
            vector_reduce_scatter=(True, OPEN_MPI_4),
            nonblocking_collectives=(False, f"{OPEN_MPI_4}: over UCX only"),
        ),
    ),
    (
        r"(?i)cray mpich",
        _unknown("Cray MPICH"),
    ),
    (
        r"MPICH (?:Version:? *)?(?:[4-9]|\d\d)\.",
        _row(
            "MPICH 4 and 5",
            nonblocking_reductions=(True, "its source: maint/gen_coll.py stages device buffers in all of them"),
            vector_reduce_scatter=(True, "its source: maint/gen_coll.py stages device buffers in all of them"),
            nonblocking_collectives=(False, "github.com/pmodels/mpich/wiki/GPU-Support-Matrix speaks of no forms"),
        ),
    ),
    (
        r"MVAPICH",
        _row(
            "MVAPICH",
            nonblocking_reductions=(False, NOT_STATED),
            vector_reduce_scatter=(False, NOT_STATED),
            nonblocking_collectives=(True, "mvapich.cse.ohio-state.edu/userguide/gdr/2.3a: from GPU buffers"),
        ),
    ),
    (
        r"Intel(?:\(R\))? MPI",
        _row(
            "Intel MPI",
            nonblocking_reductions=(True, f"2021.18, {TRIED}"),
            vector_reduce_scatter=(True, f"2021.18, {TRIED}"),
            nonblocking_collectives=(True, f"2021.18, {TRIED}"),
        ),
    ),
)


def capabilities_of(library: str) -> Capabilities:
    """The row of an MPI library by its version text; of one that the table does not name, `PORTABLE` and no more."""
    return next((row for pattern, row in TABLE if re.search(pattern, library)), None) or _unknown(library)


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
