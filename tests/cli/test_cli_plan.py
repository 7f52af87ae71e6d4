"""``gridnn plan``: without MPI, and what train makes of its file."""

from __future__ import annotations

import json
import re
import sys

import pytest
from launch import clean_environment, gridnn, run

LENET = ("--model", "lenet", "--dataset", "synthetic", "--shape", "16x16x1", "--samples", "64", "--batch", "16")


def plan(*args: str):
    """The command with mpi4py out of reach."""
    code = "import sys; sys.modules['mpi4py'] = None; from gridnn.cli.main import main; main()"
    return run([sys.executable, "-c", code, "plan", *args], 30, clean_environment())


def words_of(text: str) -> list[int]:
    """The words of all layers along row, column and world."""
    last = next(line for line in text.splitlines() if line.startswith("all"))
    return [int(number.replace(",", "")) for number in last.split()[1:4]]


def test_it_prints_every_layer_and_the_words_that_audit_measures(tmp_path):
    done = plan("--ranks", "4", "--grid", "2x2", *LENET)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in ("conv1", "pool2", "fc3", "loss", "n=2,replicas=2", "all-gather"))
    words = words_of(done.stdout)
    report = tmp_path / "audit.json"
    assert gridnn(4, "audit", "--grid", "2x2", *LENET, "--steps", "1", "--json", str(report)).returncode == 0
    rows = json.loads(report.read_text())["rows"]
    for mine, dimension in zip(words, ("row", "column", "world"), strict=True):
        measured = sum(row["measured_words"] for row in rows if row["dimension"] == dimension)
        # shown is the rank that moves most; here parts differ by odd elements at the most
        assert 0.99 * 4 * mine - 8 <= measured <= 4 * mine, dimension


def test_its_file_is_what_train_runs(tmp_path):
    file = tmp_path / "plan.json"
    done = plan("--ranks", "4", "--grid", "2x2", "--strategy", "domain", *LENET, "-o", str(file))
    assert done.returncode == 0, done.stderr
    runs = []
    for options in (("--plan", str(file)), ("--strategy", "domain")):
        log = tmp_path / f"log{len(runs)}.jsonl"
        fixed = ("--grid", "2x2", "--dtype", "float64", "--epochs", "1", "--quiet", "--log", str(log))
        assert gridnn(4, "train", *LENET, *fixed, *options).returncode == 0
        events = [json.loads(line) for line in log.read_text().splitlines()]
        runs.append([event["loss"] for event in events if event["event"] == "step"])
    assert len(runs[0]) == 4
    assert runs[0] == runs[1]


def test_a_plan_that_does_not_fit_is_refused(tmp_path):
    done = plan("--ranks", "4", "--grid", "3x1", *LENET)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("gridnn: grid 3x1 needs 3 ranks, this job has 4")
    done = plan("--ranks", "2", *LENET, "-o", str(tmp_path / "none" / "plan.json"))
    assert done.returncode == 2
    assert "cannot be written: No such file" in done.stderr


def test_passes_of_a_batch_are_all_counted(tmp_path):
    options = ("--grid", "2x2", *LENET, "--accumulate", "3")
    done = plan("--ranks", "4", *options)
    assert "batch 16 in 3 passes" in done.stdout
    column = words_of(done.stdout)[1]
    report = tmp_path / "audit.json"
    assert gridnn(4, "audit", *options, "--steps", "1", "--json", str(report)).returncode == 0
    content = json.loads(report.read_text())
    assert (content["ranks"], content["config"]["grid"], content["equal"]) == (4, "2x2", True)
    measured = sum(row["measured_words"] for row in content["rows"] if row["dimension"] == "column")
    # passes of 5, 5 and 6 samples: one column has 2 + 2 + 3 of them, the one that is shown 3 + 3 + 3
    assert measured == pytest.approx(4 * column * 8 / 9, rel=0.01)


def test_it_prints_a_step_from_top_to_bottom():
    """Every operation of a rank with its words, as many as the table of layers has; passes that are alike once."""
    options = ("--ranks", "4", "--grid", "2x2", "--accumulate", "4", *LENET)
    done = plan(*options, "--schedule", "--rank", "3")
    assert done.returncode == 0, done.stderr
    _, *passes = re.split(r"pass \d of 4", done.stdout)
    assert [text.split(":")[1].split()[:3] for text in passes if text.startswith(":")] == [["as", "pass", "2"]]
    assert "rank 3" in passes[0] and "conv1.forward" not in done.stdout
    lines = [line for line in done.stdout.splitlines() if re.match(r" *\d+ +(forward|backward|update)", line)]
    assert sum("begin" in line for line in lines) == sum("end " in line for line in lines) > 10
    assert [int(line.split()[0]) for line in lines[:5]] == [0, 1, 2, 3, 4]
    assert "critical path" in done.stdout and "waiting for: " in done.stdout and "hidden behind" in done.stdout
    slowest = plan(*options, "--schedule")
    assert re.search(r"pass 1 of 4 on rank \d, of a grid 2x2 in column order", slowest.stdout)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--rank", "1"), "--rank 1 is of --schedule: add it"),
        (("--schedule", "--rank", "4"), "--rank 4: 4 ranks are numbered from 0 to 3"),
    ],
)
def test_a_rank_that_is_not_there_is_refused(options, told):
    done = plan("--ranks", "4", "--grid", "2x2", *LENET, *options)
    assert (done.returncode, done.stderr) == (2, f"gridnn: {told}\n")


def test_under_mpirun_it_speaks_once():
    done = gridnn(3, "plan", "--ranks", "4", "--grid", "2x2", *LENET)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("grid 2x2, batch") == 1
