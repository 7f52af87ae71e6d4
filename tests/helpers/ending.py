"""A job that ends as its first argument says; started under mpirun by test_job.py."""

from __future__ import annotations

import os
import sys
import time

from gridnn.comm.job import Job, run
from gridnn.errors import UserError


def wait_for_nobody(job: Job) -> None:
    """Be inside MPI, where Python sees no signal, until somebody ends the job."""
    if job.size == 1:
        time.sleep(60)
    job.comm.recv(source=(job.rank + 1) % job.size, tag=99)


class SlowEnd:
    """MPI that says when it is to be left, and takes its time before and after."""

    def __init__(self, job: Job) -> None:
        self.job, self.known = job, job._mpi

    def __getattr__(self, name: str) -> object:
        return getattr(self.known, name)

    def Finalize(self) -> None:
        print("pid", os.getpid(), "rank", self.job.rank, flush=True)
        time.sleep(1.0)
        self.known.Finalize()
        time.sleep(0.5)


def body(job: Job) -> int | None:
    how = sys.argv[1]
    if how == "status":
        return int(sys.argv[2])
    if how == "mistake of all":
        raise UserError("grid 3x2 needs 6 ranks")
    if how == "mistake of rank 1" and job.rank == 1:
        raise UserError("sample 7 is NaN")
    if how == "mistake of rank 0 told to all":
        job.on_root(refuse)
    if how == "mistake while sums are under way":
        gradients, sums = bytearray(1 << 20), bytearray(1 << 20)
        pending = [job.comm.Iallreduce(gradients, sums)]
        raise UserError(f"{len(pending)} sum was started")
    if how == "defect of all" or (how == "defect of rank 1" and job.rank == 1):
        raise ValueError("operands do not fit")
    if how == "rank 1 leaves" and job.rank == 1:
        sys.exit(0)
    if how == "unseen ranks":
        job.check_ranks()
    if how == "threads":
        job.use_threads(int(sys.argv[2]) if len(sys.argv) > 2 else None)
        print("threads", job.threads, "warning", job.overload(), flush=True)
        return None
    if how == "held signals":
        return hold(job)
    if how == "leaving slowly":
        job._mpi = SlowEnd(job)
        return None
    print("pid", os.getpid(), "rank", job.rank, flush=True)
    wait_for_nobody(job)
    return None


def hold(job: Job) -> None:
    """Go on until a signal has come, and a little longer."""
    signalled = job.hold_signals()
    print("pid", os.getpid(), "rank", job.rank, flush=True)
    while not signalled():
        time.sleep(0.01)
    print("signal", signalled(), flush=True)
    time.sleep(float(sys.argv[2]))


def refuse() -> None:
    raise UserError("the log cannot be written")


if __name__ == "__main__":
    run(body)
