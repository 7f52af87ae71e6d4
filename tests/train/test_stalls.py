"""Ranks that hang: one line says who is missing, where, and what it did; ``--stall-exit`` ends the job."""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path

import pytest
from launch import HELPERS, gone, gridnn, mpirun, mpirun_command, waiting
from test_signals import RUN, pid_of

from gridnn.comm.flight import last_job_record

NODE = os.uname().nodename
SUM = "step 3, layer fc1, all-reduce of gradients on the row"


def stalling(how: str, rank: int, *limits: float, ranks: int = 3, status: int = 0, told: int = 2, **options):
    """The ``told`` lines of a run of which ``rank`` hangs, and its output; limits: to tell, to end, and how long."""
    done = mpirun(ranks, sys.executable, str(HELPERS / "stalling.py"), how, rank, *limits, **options)
    assert done.returncode == status, done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("gridnn: ")]
    assert len(lines) == told, done.stderr
    return lines, sorted(done.stdout.splitlines())


def records() -> set[str]:
    """The records of jobs that have ended on this node."""
    names = {name for name in os.listdir("/dev/shm") if name.startswith("gridnn-record.")}
    return {name for name in names if not Path("/proc", name.rpartition(".")[2]).exists()}


@pytest.fixture(autouse=True)
def _no_records_are_left():
    before = records()
    yield
    assert records() <= before


@pytest.fixture
def state(tmp_path):
    return {"XDG_STATE_HOME": str(tmp_path / "state")}


def shown(state, *options: str) -> str:
    """What ``gridnn check --last`` prints."""
    done = gridnn(1, "check", "--last", *options, env=state)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "how, doing", [("reading", "reading batch 3"), ("kernel", "in fc1, forward of step 3")], ids=["reading", "kernel"]
)
def test_one_line_says_for_whom_the_others_wait_and_one_that_it_went_on(how, doing):
    (told, ended), out = stalling(how, 1, 1, 0, 3)
    assert re.fullmatch(
        rf"gridnn: {SUM}: waiting \d+ s for rank 1 \(node {NODE}\), last seen {doing} \(for \d+ s\)", told
    )
    assert re.fullmatch(rf"gridnn: {SUM}: went on after [23] s", ended)
    assert [line.split(",")[:2] for line in out] == [[f"rank {r}: 8 steps", " 0 messages"] for r in range(3)]


def test_a_kernel_that_holds_the_interpreter():
    (told, _), _ = stalling("native", 0, 4, 0, 6)
    said = (
        rf"rank 0 \(node {NODE}\), not answering \(in native code\), last seen in fc1, forward of step 3 \(for [45] s\)"
    )
    assert re.fullmatch(rf"gridnn: {SUM}: waiting 4 s for {said}", told)


def test_all_ranks_hang_in_reading():
    """As when a file system hangs: nobody waits for another rank, and it is told all the same."""
    (told, last), _ = stalling("all reading", 0, 1, 0, 4)
    assert re.match(rf"gridnn: .*: waiting \d+ s for rank \d \(node {NODE}\), last seen reading batch 3 \(for", told)
    assert "went on after" in last


def test_a_model_file_that_loops_on_one_rank():
    (told, _), _ = stalling("model", 2, 1, 0, 3)
    doing = rf"making the network \({HELPERS}/stalling\.py:sleepy\)"
    assert re.match(
        rf"gridnn: making the grid: waiting \d+ s for rank 2 \(node {NODE}\), last seen {doing} \(for", told
    )


def test_ranks_that_wait_for_each_other(state):
    (told, last), _ = stalling("mismatch", 1, 1, 2, 0, status=3, env=state)
    behind = rf"rank 1 \(node {NODE}\), last seen making step 3, exchanging values"
    where = f"({SUM}|making step 3, exchanging values)"  # whoever was the first to wait
    said = rf"gridnn: {where}: waiting \d+ s for others, and so do all 3 ranks; the farthest behind is {behind} \(for"
    assert re.match(said, told) and re.match(said, last)
    assert "; --stall-exit 2 ends the job; gridnn check --last shows what all ranks did (" in last
    assert str(last_job_record([Path(state["XDG_STATE_HOME"], "gridnn")]).folder) in last


def test_ranks_of_other_nodes_are_asked(state):
    """As if each rank had a node for itself: nothing is read, and rank 0, which is stopped, does not answer."""
    (told, last), _ = stalling("node stopped", 0, 1, 3, 0, status=3, env=state)
    who = r"rank 0 \(node n0\), not answering \(stopped, or its node is gone\)"
    assert re.fullmatch(rf"gridnn: {SUM}: waiting \d+ s for {who}", told)
    assert re.match(rf"gridnn: {SUM}: waiting \d+ s for {who}; --stall-exit 3 ends the job; ", last)
    found = last_job_record([Path(state["XDG_STATE_HOME"], "gridnn")])
    assert [(one.node, one.state) for one in found.seen.values()] == [("n0", "not reached"), ("n1", ""), ("n2", "")]
    assert {1, 2} <= set(found.operations)


def test_ranks_of_other_nodes_answer():
    lines, out = stalling("nodes", 1, 1, 0, 5)
    who = r"rank 1 \(node n1\), last seen in fc1, forward of step 3"
    assert re.fullmatch(rf"gridnn: {SUM}: waiting \d+ s for {who} \(for \d+ s\)", lines[0])
    assert "went on after" in lines[1]
    assert sum(int(re.search(r"(\d+) messages", line)[1]) for line in out) <= 6  # two questions and answers, two ends


def test_a_run_that_does_not_stall_sends_nothing():
    _, watched = stalling("nodes", 0, 60, 0, 0, told=0)
    assert all(", 0 messages, " in line for line in watched)
    assert stalling("unwatched", 0, 0, 0, 0, told=0) == ([], watched)  # and the ledgers are equal


def test_one_rank_that_waits_for_its_data(state):
    (told, last), _ = stalling("reading", 0, 1, 2, 5, ranks=1, status=3, env=state)
    assert re.search(rf": waiting \d+ s for rank 0 \(node {NODE}\), last seen reading batch 3 \(for \d+ s\)$", told)
    assert "--stall-exit 2 ends the job" in last


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_stopped(state, rank):
    options = (*RUN, "--grid", "3x1", "--stall-warn", "1", "--stall-exit", "2.5", "--quiet", "--log", "/dev/stdout")
    with waiting([*mpirun_command(), "-n", "3", sys.executable, "-m", "gridnn", *options], 3, state) as (process, _):
        os.kill(pid_of(rank, process.pid), signal.SIGSTOP)
        _, err = process.communicate(timeout=30)
        assert gone(process.pid)
    assert process.returncode == 3
    told, last = (line for line in err.splitlines() if line.startswith("gridnn: "))
    who = rf"rank {rank} \(node {NODE}\), stopped by a signal, last seen [\w ,-]+ \(for \d s\)"
    where = r"(step \d+, |evaluation, layer|evaluating|training)[\w ,-]*"  # wherever it was then
    assert re.fullmatch(rf"gridnn: {where}: waiting \d+ s for {who}", told)
    assert re.match(rf"gridnn: {where}: waiting [23] s for {who}; --stall-exit 2.5 ends the job; ", last)
    text = shown(state, "--operations", "4")
    assert re.search(rf"^{rank} +{NODE} +stopped ", text, re.MULTILINE)
    assert text.count("the last operations of rank") == 3


def test_a_program_of_ones_own_may_be_watched():
    code = "import gridnn as gn, os; job = gn.init(); job.watch(60); print(os.path.exists(job.recorder.path))"
    done = mpirun(2, sys.executable, "-c", code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n" * 2, "")  # and nothing is left: see above


# -- what remains of a job that dies -----------------------------------------------------------------------------


@pytest.mark.parametrize("how, rank, state_of", [("killed", 1, "ended"), ("fails", 2, "works")])
def test_a_death_leaves_the_records_of_all(state, how, rank, state_of):
    done = mpirun(3, sys.executable, str(HELPERS / "stalling.py"), how, rank, 60, 0, 0, env=state)
    assert done.returncode != 0
    text = shown(state, "--operations", "2")
    assert re.search(rf"^{rank} +{NODE} +{state_of} +in fc1, forward of step 3 ", text, re.MULTILINE), text
    assert text.count("all-reduce of gradients on the row of step 3 ") == 2
    assert f"the last operations of rank {rank}\n" in text
    why = "rank 2 failed: ZeroDivisionError: integer division" if how == "fails" else "SIGTERM reached rank "
    assert why in text


def test_a_held_signal_leaves_records_and_a_mistake_none(state, tmp_path):
    options = (*RUN, "--checkpoint", str(tmp_path / "c"), "--grid", "2x1", "--quiet", "--log", "/dev/stdout")
    with waiting([*mpirun_command(), "-n", "2", sys.executable, "-m", "gridnn", *options], 3, state) as (process, _):
        os.kill(pid_of(1, process.pid), signal.SIGUSR1)
        _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, "")
    assert "SIGUSR1 reached rank 1" in shown(state)
    other = {"XDG_STATE_HOME": str(tmp_path / "other")}
    assert gridnn(2, *RUN, "--grid", "3x1", env=other).returncode == 2
    done = gridnn(1, "check", "--last", env=other)
    assert done.returncode == 2
    assert re.fullmatch(r"gridnn: no job has left a record in .*: none has stalled or died here\n", done.stderr)


def test_check_refuses_operations_without_a_record():
    done = gridnn(1, "check", "--operations", "3")
    assert (done.returncode, done.stderr) == (2, "gridnn: --operations 3 is of --last: add it\n")
