"""What users get wrong, through the command, on several ranks: refused once, with values and remedy, and status 2."""

from __future__ import annotations

import signal
import sys
import time

import numpy as np
import pytest
from launch import clean_environment, gone, gridnn, mpirun_command, run, waiting

SMALL = ("--model", "mlp", "--widths", "16", "--dataset", "synthetic", "--shape", "6x6x1", "--samples", "96")
TRAIN = ("train", *SMALL, "--batch", "32", "--epochs", "1", "--quiet")


def refused(ranks: int, *args: str, text: str, by_all: bool = True, **env: str) -> None:
    """The command must end with status 2 and say ``text`` once and nothing else of its own."""
    started = time.monotonic()
    done = gridnn(ranks, *args, timeout=60, env=env)
    said = [line for line in done.stderr.splitlines() if line.startswith("gridnn: ")]
    assert done.returncode == 2, done.stdout + done.stderr
    assert len(said) == 1, done.stderr
    assert text in said[0]
    assert "Traceback" not in done.stderr
    assert ("MPI_ABORT" not in done.stderr) or not by_all
    assert time.monotonic() - started < 30


def test_a_grid_of_another_size_than_the_job():
    refused(4, *TRAIN, "--grid", "3x2", text="grid 3x2 needs 6 ranks, this job has 4: mpirun -n 6 ... or --grid 2x2")


def test_a_grid_that_does_not_divide_the_job():
    refused(3, *TRAIN, "--grid", "2x-1", text="grid 2x-1: 3 ranks are not a multiple of 2")


def test_a_grid_that_cannot_be_read():
    refused(2, *TRAIN, "--grid", "2by1", text="grid '2by1': write rows x columns as 4x2")


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("--model", "lenett"), "lenet"),
        (("--dataset", "digit"), "digits"),
        (("--strategy", "grdi"), "grid"),
        (("--optimizer", "sdg"), "sgd"),
        (("--order", "columns"), "column"),
        (("--dtype", "float31"), "float32"),
        (("--backend", "numpi"), "numpy"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(args, text):
    done = run([sys.executable, "-m", "gridnn", "train", *args, "--quiet"], 30, clean_environment())
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("gridnn: ") == 1
    assert f"'{args[1]}'" in done.stderr
    assert text in done.stderr.replace(f"'{args[1]}'", "")


def test_more_parts_than_features():
    refused(4, *TRAIN, "--widths", "3", "--strategy", "model", text="there are 3")


def test_more_parts_than_samples():
    refused(4, *TRAIN, "--batch", "3", "--strategy", "batch", text="there are 3")


def test_an_option_that_does_nothing():
    refused(2, *TRAIN, "--gamma", "0.5", text="--gamma 0.5 has no effect with --schedule constant")


def test_a_log_that_cannot_be_written(tmp_path):
    refused(2, *TRAIN, "--log", str(tmp_path / "none" / "log.jsonl"), text="cannot be written: No such file")


def test_an_audit_that_cannot_be_written(tmp_path):
    refused(2, "audit", *SMALL, "--json", str(tmp_path / "none" / "a.json"), text="cannot be written: No such file")


def test_a_plan_that_is_not_there():
    refused(2, *TRAIN, "--plan", "none.json", text="plan none.json: No such file")


def test_data_that_is_not_there(tmp_path):
    args = ("train", "--dataset", "cifar10", "--data-dir", str(tmp_path), "--quiet")
    refused(2, *args, text="data_batch_1")


def dataset(path, **changes) -> str:
    """A data set of 32 images of 4x4x1 in two classes, with ``changes``."""
    arrays = {
        "x_train": np.ones((32, 4, 4, 1), np.float32),
        "y_train": np.arange(32) % 2,
        "x_test": np.ones((8, 4, 4, 1), np.float32),
        "y_test": np.arange(8) % 2,
    }
    file = path / "data.npz"
    np.savez(file, **{**arrays, **changes})
    return str(file)


def from_file(file: str, *more: str) -> tuple[str, ...]:
    return ("train", "--model", "mlp", "--dataset", file, "--classes", "2", "--batch", "8", "--quiet", *more)


def test_data_without_samples(tmp_path):
    file = dataset(tmp_path, x_train=np.ones((0, 4, 4, 1), np.float32), y_train=np.zeros(0, int))
    refused(2, *from_file(file), text="the samples have the shape (0, 4, 4, 1); give at least one")


def test_data_with_fewer_labels_than_samples(tmp_path):
    refused(2, *from_file(dataset(tmp_path, y_train=np.zeros(31, int))), text="31")


def test_a_truncated_file(tmp_path):
    file = tmp_path / "data.npz"
    dataset(tmp_path)
    file.write_bytes(file.read_bytes()[:500])
    refused(2, *from_file(str(file)), text="data.npz")


def test_a_label_out_of_range(tmp_path):
    labels = np.arange(32) % 2
    labels[5] = 7
    refused(2, *from_file(dataset(tmp_path, y_train=labels)), text="7")


@pytest.mark.parametrize("strategy", ["batch", "grid"])
def test_nan_in_the_input_is_found_by_the_ranks_that_read_it(tmp_path, strategy):
    images = np.ones((32, 4, 4, 1), np.float32)
    images[5, 0, 0, 0] = np.nan
    file = dataset(tmp_path, x_train=images)
    refused(4, *from_file(file, "--strategy", strategy), text="sample 5 holds a number that is not finite")


def test_a_loss_that_is_not_finite_stops_with_step_and_layer():
    args = (*TRAIN, "--lr", "1e30", "--grid", "2x2")
    done = gridnn(4, *args)
    assert done.returncode == 2
    assert done.stderr.count("gridnn: the loss is") == 1
    assert "at step 2" in done.stderr
    assert "layer '" in done.stderr
    assert "Traceback" not in done.stderr


def test_ranks_that_do_not_see_each_other():
    done = [
        run(
            [sys.executable, "-m", "gridnn", *TRAIN],
            30,
            clean_environment(SLURM_STEP_NUM_TASKS="2", SLURM_PROCID=str(rank)),
        )
        for rank in range(2)
    ]
    assert [one.returncode for one in done] == [2, 2]
    assert "Slurm started 2 processes, but each sees 1" in done[0].stderr
    assert "srun --mpi=" in done[0].stderr
    assert done[1].stderr == ""


def test_one_process_on_purpose_in_a_larger_allocation():
    env = clean_environment(SLURM_STEP_NUM_TASKS="1", SLURM_PROCID="0")
    assert run([sys.executable, "-m", "gridnn", *TRAIN], 60, env).returncode == 0


LONG = ("-m", "gridnn", "train", *SMALL, "--batch", "32", "--epochs", "100000")


def test_ctrl_c_during_training_ends_clean():
    with waiting([*mpirun_command(), "-n", "4", sys.executable, *LONG, "--grid", "2x2"]) as (process, _):
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10)
        assert gone(process.pid)
    assert process.returncode != 0
    assert "Traceback" not in out + err


def test_ctrl_c_of_one_process_ends_with_one_line():
    with waiting([sys.executable, *LONG]) as (process, _):
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert err == "gridnn: stopped by SIGINT\n"
