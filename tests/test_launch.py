"""The helper that the other tests start mpirun with."""

from __future__ import annotations

import sys
import time

import pytest
from launch import mpirun, session_members


def test_every_rank_runs():
    code = "from mpi4py import MPI; print('rank', MPI.COMM_WORLD.rank, 'of', MPI.COMM_WORLD.size)"
    done = mpirun(3, sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == [f"rank {rank} of 3" for rank in range(3)]


def test_the_limit_leaves_nothing_running():
    code = "import os, sys, time; print('sid', os.getsid(0), flush=True); time.sleep(600)"
    started = time.monotonic()
    with pytest.raises(TimeoutError, match=r"still ran after 2 s(.|\n)*sid") as caught:
        mpirun(2, sys.executable, "-c", code, timeout=2)
    session = int(str(caught.value).split("sid ")[-1].split()[0])
    assert session_members(session) == []
    assert time.monotonic() - started < 20
