"""Signals to a run that writes checkpoints: all ranks save after the same step and leave with status 0."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from launch import ENDING, gone, gridnn, mpirun_command, session_members, waiting
from running import LENET, folder, same, trained

HELD = [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU]


@pytest.mark.mpi
@pytest.mark.parametrize("step", [2, 3])
def test_a_signal_to_any_rank_stops_all_after_the_same_step(comm, step):
    """In the middle of an epoch, and at its end, where the evaluation is left to the resumed run."""
    for rank in sorted({0, comm.size // 2, comm.size - 1}):
        with folder(comm) as directory:
            config = LENET.replaced(checkpoint=str(directory), epochs=2)
            seen = iter(range(1, 100))

            def signalled(seen=seen, rank=rank):
                return signal.SIGUSR1 if comm.rank == rank and next(seen) >= step else 0

            first = trained(config, comm, signalled)
            assert list(first.losses) == list(range(1, step + 1))
            assert first.epochs == {}
            assert first.paths == [f"step-{step:08d}.safetensors"]
            assert f"SIGUSR1 reached rank {rank}: stopped after step {step} of 6, saved {directory}" in first.notes[-1]
            later = trained(config.replaced(resume=True), comm)
            same(first.join(later), trained(config.replaced(checkpoint=None), comm))


@pytest.mark.mpi
def test_a_signal_during_evaluation(comm):
    with folder(comm) as directory:
        config = LENET.replaced(checkpoint=str(directory), epochs=2, samples=80, batch=9, steps=None)
        steps = 9  # of an epoch; then the first pass of its evaluation
        seen = iter(range(1, 100))
        first = trained(config, comm, lambda: signal.SIGTERM if next(seen) > steps else 0)
        assert (list(first.losses), first.epochs) == (list(range(1, 10)), {})  # not at the end of the evaluation
        assert first.paths == ["step-00000009.safetensors"]
        later = trained(config.replaced(resume=True), comm)
        same(first.join(later), trained(config.replaced(checkpoint=None), comm))


# -- the job -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", HELD)
def test_a_held_signal_lets_the_job_end_by_itself(number):
    with waiting([*ENDING, "held signals", "0"]) as (process, _):
        process.send_signal(number)
        out, err = process.communicate(timeout=10)
    assert (process.returncode, out, err) == (0, f"signal {number}\n", "")


def test_a_signal_that_comes_twice_at_once_is_one():
    """Slurm's own and the one that srun passes on."""
    with waiting([*ENDING, "held signals", "1"]) as (process, _):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_a_second_sigterm_ends_at_once():
    with waiting([*ENDING, "held signals", "60"]) as (process, _):
        process.send_signal(signal.SIGUSR1)
        process.send_signal(signal.SIGTERM)
        time.sleep(1.5)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=10)
    assert (process.returncode, err) == (143, "gridnn: stopped by SIGTERM\n")


def test_ctrl_c_is_never_held():
    with waiting([*ENDING, "held signals", "60"]) as (process, _):
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=10)
    assert (process.returncode, err) == (130, "gridnn: stopped by SIGINT\n")


def test_sigusr1_that_nobody_holds_ends_the_job_with_a_line():
    with waiting([*ENDING, "wait"]) as (process, _):
        process.send_signal(signal.SIGUSR1)
        _, err = process.communicate(timeout=10)
    assert (process.returncode, err) == (138, "gridnn: stopped by SIGUSR1\n")


# -- gridnn train ----------------------------------------------------------------------------------------------

SMALL = ("--model", "mlp", "--widths", "16,12", "--dataset", "synthetic", "--shape", "6x6x1", "--samples", "96")
RUN = ("train", *SMALL, "--classes", "4", "--batch", "32", "--epochs", "1000000", "--kernels", "reference")


def pid_of(rank: int, session: int) -> int:
    """The process of a rank of the job that was started in ``session``."""
    for pid in session_members(session):
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        if any(f"{name}={rank}".encode() in environment for name in ("OMPI_COMM_WORLD_RANK", "PMI_RANK")):
            return pid
    raise AssertionError(f"no rank {rank}")


def losses(log: Path) -> dict[int, float]:
    events = [json.loads(line) for line in log.read_text().splitlines()]
    return {event["step"]: event["loss"] for event in events if event["event"] == "step"}


def stopped(tmp_path, number: int, whom: int | str) -> tuple[str, int]:
    """What a run told whose rank (or mpirun) got a signal, and after how many steps it stopped."""
    log, directory = tmp_path / "log.jsonl", tmp_path / "checkpoints"
    options = (*RUN, "--checkpoint", str(directory), "--save-every", "1000000", "--log", str(log), "--grid", "2x2")
    with waiting([*mpirun_command(), "-n", "4", sys.executable, "-m", "gridnn", *options]) as (process, _):
        os.kill(process.pid if whom == "mpirun" else pid_of(whom, process.pid), number)
        out, err = process.communicate(timeout=20)
        assert gone(process.pid)
    assert (process.returncode, err) == (0, ""), out + err
    steps = list(losses(log))
    assert steps == list(range(1, len(steps) + 1))
    assert [path.name for path in directory.iterdir()] == [f"step-{len(steps):08d}.safetensors"]
    return out, len(steps)


def test_sigusr1_to_mpirun_reaches_all_ranks(tmp_path):
    out, steps = stopped(tmp_path, signal.SIGUSR1, "mpirun")
    assert "SIGUSR1 reached rank 0, SIGUSR1 reached rank 1, " in out
    assert f"SIGUSR1 reached rank 3: stopped after step {steps} of " in out


def test_sigterm_to_one_rank_saves_and_the_run_goes_on_elsewhere(tmp_path):
    out, steps = stopped(tmp_path, signal.SIGTERM, 1)
    assert f"SIGTERM reached rank 1: stopped after step {steps} of " in out
    log, last = tmp_path / "log.jsonl", steps + 5
    options = ("--checkpoint", str(tmp_path / "checkpoints"), "--resume", "--log", str(log), "--steps", str(last))
    done = gridnn(3, *RUN, *options, "--grid", "3x1", "--quiet")
    assert done.returncode == 0, done.stderr
    assert list(losses(log)) == list(range(1, last + 1))
