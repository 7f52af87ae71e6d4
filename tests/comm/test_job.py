"""Every way in which a job ends: in time, with one message and the right status, and nothing left running."""

from __future__ import annotations

import os
import signal
import time

import pytest
from launch import ENDING, clean_environment, gone, mpirun, mpirun_command, run, waiting

from gridnn.comm.threads import share


def ended(ranks: int, *how: str, **options):
    return mpirun(ranks, *ENDING, *how, timeout=30, **options)


def alone(*how: str, **env: str):
    return run([*ENDING, *how], 30, clean_environment(**env))


@pytest.mark.parametrize(
    ("mine", "everyone", "threads"),
    [
        ({0, 1}, [{0, 1}], 2),  # one rank has its node
        ({0, 1, 2, 3}, [{0, 1, 2, 3}] * 2, 2),  # not bound
        ({0, 1, 2, 3}, [{0, 1, 2, 3}] * 3, 1),  # not bound, uneven
        ({2, 3}, [{0, 1}, {2, 3}], 2),  # bound
        ({0, 1, 2}, [{0}, {0, 1, 2}, {0}], 2),  # bound to sets that overlap
        ({0}, [{0}] * 4, 1),  # more ranks than cores
        (range(6), [range(6)] * 3, 2),  # thirds add up exactly
    ],
)
def test_share_of_the_cores(mine, everyone, threads):
    assert share(mine, everyone) == threads


def test_threads_are_shared_and_can_be_given():
    cores = len(os.sched_getaffinity(0))
    done = ended(1, "threads")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("threads ")
    done = ended(2, "threads", str(cores))
    assert done.stdout.count(f"2 ranks x {cores} threads = {2 * cores} on the ") == 2


def test_a_mistake_of_all_is_told_once_with_status_2():
    done = ended(3, "mistake of all")
    assert done.returncode == 2
    assert done.stderr.count("grid 3x2 needs 6 ranks") == 1
    assert "Traceback" not in done.stderr
    assert "MPI_ABORT" not in done.stderr  # every rank left MPI by itself


def test_a_mistake_of_one_rank_ends_the_job_in_time():
    start = time.monotonic()
    done = ended(3, "mistake of rank 1")
    assert done.returncode == 2
    assert done.stderr.count("gridnn: rank 1 of 3: sample 7 is NaN") == 1
    assert "Traceback" not in done.stderr
    assert time.monotonic() - start < 15  # 5 s, and the start of three interpreters on busy cores


def test_a_mistake_found_by_rank_0_is_everybodys():
    done = ended(3, "mistake of rank 0 told to all")
    assert done.returncode == 2
    assert done.stderr.count("the log cannot be written") == 1
    assert "MPI_ABORT" not in done.stderr


def test_a_mistake_while_messages_are_under_way():
    done = ended(2, "mistake while sums are under way")
    assert done.returncode == 2
    assert done.stderr.count("1 sum was started") == 1
    assert "Segmentation" not in done.stderr


@pytest.mark.parametrize("whose", ["rank 1", "all"])
def test_a_defect_is_shown_with_one_traceback(whose):
    start = time.monotonic()
    done = ended(3, f"defect of {whose}")
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1
    assert done.stderr.count("ValueError: operands do not fit") == 1
    assert ("rank 1 of 3" in done.stderr) == (whose == "rank 1")
    assert time.monotonic() - start < 15


def test_a_rank_that_just_leaves_does_not_keep_the_others_waiting():
    start = time.monotonic()
    done = ended(3, "rank 1 leaves")
    assert done.returncode == 1
    assert "gridnn: rank 1 of 3: Traceback" in done.stderr
    assert "SystemExit: 0" in done.stderr
    assert time.monotonic() - start < 15


@pytest.mark.parametrize("status", [0, 1])
def test_the_status_of_the_body_is_that_of_the_job(status):
    assert ended(2, "status", str(status)).returncode == status


def test_ranks_that_do_not_see_each_other_are_refused_once():
    done = [alone("unseen ranks", SLURM_STEP_NUM_TASKS="3", SLURM_PROCID=str(rank)) for rank in range(3)]
    assert [one.returncode for one in done] == [2, 2, 2]
    assert "srun --mpi=pmix" in done[0].stderr
    assert done[1].stderr == done[2].stderr == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_one_process_with_one_line(number):
    with waiting([*ENDING, "wait"], 1) as (process, _):
        process.send_signal(number)
        out, err = process.communicate(timeout=10)
    assert process.returncode == 128 + number, out + err
    assert err == f"gridnn: stopped by {number.name}\n"


def test_ctrl_c_to_mpirun_ends_all_ranks():
    with waiting([*mpirun_command(), "-n", "3", *ENDING, "wait"], 3) as (process, _):
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10)
        assert gone(process.pid)
    assert process.returncode != 0
    assert "Traceback" not in out + err


def test_a_signal_to_one_rank_ends_the_others_too():
    with waiting([*mpirun_command(), "-n", "3", *ENDING, "wait"], 3) as (process, printed):
        words = next(line.split() for line in printed if line.endswith("rank 1\n"))
        os.kill(int(words[1]), signal.SIGTERM)
        out, err = process.communicate(timeout=15)
        assert gone(process.pid)
    assert process.returncode == 143
    assert (out + err).count("gridnn: rank 1 of 3: stopped by SIGTERM") == 1
    assert "Traceback" not in out + err


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_while_mpi_is_left_changes_nothing(ranks, number):
    """All is done by then: the status is that of the job, and MPI is not asked for anything any more."""
    start = [*mpirun_command(), "-n", "2"] if ranks == 2 else []
    with waiting([*start, *ENDING, "leaving slowly"], ranks) as (process, printed):
        for line in printed:
            os.kill(int(line.split()[1]), number)
        out, err = process.communicate(timeout=15)
    assert (process.returncode, out, err) == (0, "", "")
