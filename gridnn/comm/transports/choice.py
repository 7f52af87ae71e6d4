"""Which transport each group of ranks uses, decided once for a run, by all ranks alike, and why."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from gridnn.comm.transports.base import Transport
from gridnn.comm.transports.capabilities import capabilities_of, says
from gridnn.comm.transports.cuda_aware import CudaAwareTransport
from gridnn.comm.transports.host import HostTransport
from gridnn.comm.transports.nccl import NcclTransport, load_nccl
from gridnn.comm.transports.probe import Verdict, probe
from gridnn.errors import UserError
from gridnn.layout.counts import DIMENSIONS
from gridnn.layout.gridshape import GridShape

AUTO, CUDA_AWARE, NCCL, HOST = "auto", "cuda-aware", "nccl", "host"
UNTRIED = Verdict(None, "not tested: nobody needs it")


class Place(NamedTuple):
    """Where a rank computes."""

    rank: int  # its number in the job
    node: int  # the first rank of its node, which stands for the node
    host: str  # the node's name, for people
    device: str  # `Device.identity`
    nccl: str  # what is said where NCCL is missing; "" if it is there, or nobody wants it


@dataclass(frozen=True)
class Transports:
    """The transports of a run; a `Grid` asks it for that of each group."""

    shape: GridShape  # the grid
    asked: str  # {"auto", "cuda-aware", "nccl", "host"}: what the user wants
    places: tuple[Place, ...]  # of all ranks, by grid index
    verdict: Verdict  # of the test of CUDA-aware MPI; `UNTRIED` where no group would use it
    library: str  # the MPI library's name and version
    device: Any = field(repr=False)  # this rank's

    @classmethod
    def choose(
        cls, asked: str, job: Any, device: Any, shape: GridShape, test: Callable[[str], Verdict] = probe
    ) -> Transports:
        """Look at the devices of all ranks and test what ``asked`` needs; all ranks of ``job`` call it together.

        Raises
        ------
        UserError
            On all ranks, if what is asked for cannot work.
        """
        ranks = job.comm.allgather(_place(job, device, asked == NCCL or (asked == AUTO and job.size > 1)))
        places = tuple(sorted(ranks, key=lambda place: shape.index(place.rank)))
        if asked == NCCL:
            _refuse_nccl(places)
        verdict = UNTRIED
        if job.size > 1 and (asked == CUDA_AWARE or (asked == AUTO and _why_not_nccl(places))):
            verdict = _agreed(job, _measure(asked, job, test))
        if asked == CUDA_AWARE and job.size > 1 and not verdict.passed:
            raise UserError(
                f"--transport cuda-aware: {verdict.text}: load or build an MPI library with CUDA support "
                "(docs/cuda-aware-mpi.md), or use --transport nccl or --transport host"
            )
        return cls(shape, asked, places, verdict, job.library, device)

    def make(self, comm: Any, members: Sequence[int]) -> Transport:
        """The transport of the group ``members`` (grid indices), whose communicator is ``comm``; all members ask."""
        name, _ = self.chosen(members)
        if name == NCCL:
            return NcclTransport(comm, self.device)
        if name == CUDA_AWARE:
            return CudaAwareTransport(comm, self.device, capabilities_of(self.library))
        return HostTransport(comm, self.device)

    def chosen(self, members: Sequence[int]) -> tuple[str, str]:
        """The name of the transport of a group, and why it is this one."""
        if len(members) == 1:
            return HOST, "one rank"  # nothing moves
        if self.asked == CUDA_AWARE and self.verdict.passed:
            return CUDA_AWARE, f"asked for; {self.verdict.text}"
        if self.asked != AUTO:
            return self.asked, "asked for"
        cause = _why_not_nccl([self.places[member] for member in members])
        if not cause and not _why_not_nccl(self.places):
            return NCCL, "each rank has a GPU of its own"
        if self.verdict.passed:
            # For all groups then: NCCL's guide warns of deadlocks where MPI moves device memory beside NCCL.
            return CUDA_AWARE, self.verdict.text
        if not cause:
            return NCCL, "each of its ranks has a GPU of its own"
        return HOST, f"{cause}; {self.verdict.text}"

    def described(self) -> dict[str, str]:
        """The transport of every grid dimension that moves something, with the reason, for people."""
        rows, cols = self.shape.rows, self.shape.cols
        groups = {
            "column": [range(c * rows, (c + 1) * rows) for c in range(cols)],
            "row": [range(r, rows * cols, rows) for r in range(rows)],
            "world": [range(rows * cols)] if min(rows, cols) > 1 else [],
        }
        texts = {}
        for dimension in DIMENSIONS:
            chosen = dict(self.chosen(members) for members in reversed(groups[dimension]) if len(members) > 1)
            if chosen:  # of the groups that take one for different reasons, the first
                texts[dimension] = ", or ".join(f"{name} ({why})" for name, why in sorted(chosen.items()))
        return texts

    def __str__(self) -> str:
        texts = self.described()
        if not texts:
            return "none (one rank)"
        if len(set(texts.values())) == 1:
            return next(iter(texts.values()))
        return "; ".join(f"{dimension}: {text}" for dimension, text in texts.items())


def _place(job: Any, device: Any, with_nccl: bool) -> Place:
    missing = ""
    try:
        if with_nccl:
            load_nccl()
    except UserError as error:
        missing = str(error)
    return Place(job.rank, job.node, platform.node(), device.identity, missing)


def _shared(places: Sequence[Place]) -> tuple[Place, Place] | None:
    """Two ranks with one device; None if there are none."""
    seen: dict[tuple[int, str], Place] = {}
    for place in sorted(places):
        other = seen.setdefault((place.node, place.device), place)
        if other is not place:
            return other, place
    return None


def _why_not_nccl(places: Sequence[Place]) -> str:
    """Why ranks at ``places`` cannot use NCCL among themselves; "" if they can."""
    missing = next((place for place in sorted(places) if place.nccl), None)
    if missing:
        return f"rank {missing.rank} on {missing.host}: {missing.nccl}"
    pair = _shared(places)
    if pair is None:
        return ""
    first, second = pair
    return f"ranks {first.rank} and {second.rank} share GPU {first.device} of {first.host}, which NCCL refuses"


def _refuse_nccl(places: Sequence[Place]) -> None:
    cause = _why_not_nccl(places)
    if cause:
        remedy = "" if any(place.nccl for place in places) else ": start one rank per GPU"
        raise UserError(f"--transport nccl: {cause}{remedy}, or use --transport cuda-aware or --transport host")


def _measure(asked: str, job: Any, test: Callable[[str], Verdict]) -> Verdict | None:
    """What the first rank of each node finds out; None on the others, which wait."""
    if job.local_rank:
        return None
    word = says(os.environ, job.library)
    if asked == AUTO and word is False:
        return Verdict(False, f"{job.library} says it has no CUDA support")
    found = test(job.library)
    if asked == CUDA_AWARE and word and found.passed is None:  # srun may be all that can start processes
        return Verdict(True, f"{job.library} says it has CUDA support; {found.text}")
    return found


def _agreed(job: Any, mine: Verdict | None) -> Verdict:
    """The first verdict, in rank order, that is no pass; else the first one."""
    verdicts = [verdict for verdict in job.comm.allgather(mine) if verdict is not None]
    return next((verdict for verdict in verdicts if not verdict.passed), verdicts[0])
