"""``gridnn train`` and ``gridnn audit`` on a grid, from the options to what they print and write."""

from __future__ import annotations

import json

import pytest
from launch import gridnn

SMALL = ("--model", "mlp", "--widths", "16,12", "--dataset", "synthetic", "--shape", "6x6x1", "--samples", "96")
RUN = (*SMALL, "--classes", "4", "--batch", "32", "--grid", "2x2")


def events(log) -> list[dict]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_train_shows_the_run_and_writes_the_log(tmp_path):
    log = tmp_path / "run.jsonl"
    done = gridnn(4, "train", *RUN, "--epochs", "2", "--log", str(log))
    assert done.returncode == 0, done.stdout + done.stderr
    for text in ("model mlp", "grid 2x2", "rows divide", "epoch 1/2", "epoch 2/2", "communication, all ranks"):
        assert text in done.stdout
    assert "\x1b" not in done.stdout
    steps = [event for event in events(log) if event["event"] == "step"]
    epochs = [event for event in events(log) if event["event"] == "epoch"]
    assert [event["step"] for event in steps] == list(range(1, len(steps) + 1))
    assert {"epoch", "loss", "lr", "samples_per_s"} <= set(steps[0])
    assert [event["epoch"] for event in epochs] == [1, 2]
    assert set(epochs[0]["words"]) == {"row", "column", "world"}
    assert epochs[0]["words"] == epochs[1]["words"]
    assert epochs[1]["train_loss"] < epochs[0]["train_loss"]


def test_quiet_prints_nothing():
    done = gridnn(2, "train", *RUN[:-2], "--epochs", "1", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_audit_prints_and_writes_equal_integers(tmp_path):
    file = tmp_path / "audit.json"
    done = gridnn(4, "audit", *RUN, "--json", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "measured as predicted, on every rank" in done.stdout
    written = json.loads(file.read_text())
    assert written["equal"] is True
    assert written["config"]["grid"] == "2x2"
    row = max(written["rows"], key=lambda row: row["measured_words"])
    assert row["predicted_words"] == row["measured_words"] > 0


@pytest.mark.parametrize("strategy", ["batch", "model"])
def test_the_strategies_of_one_dimension_are_audited_too(strategy):
    assert gridnn(2, "audit", *RUN[:-2], "--strategy", strategy, "--steps", "1").returncode == 0


def test_profile_prints_and_writes_predicted_beside_measured_seconds(tmp_path):
    file = tmp_path / "profile.json"
    done = gridnn(2, "profile", *RUN[:-2], "--grid", "2x1", "--steps", "2", "--json", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    for text in (
        "predicted on generic-cpu, measured on 2 ranks",
        "weight gradient",
        "all-gather",
        "waiting for others",
    ):
        assert text in done.stdout
    written = json.loads(file.read_text())
    sums = [sum(row[1] for row in written[name]) for name in ("kinds", "layers")]
    assert sums[0] == pytest.approx(sums[1]) and sums[0] > 0
    assert {row[0] for row in written["layers"]} >= {"fc1", "loss", "update", "input"}


def test_a_trace_is_written_beside_the_run(tmp_path):
    file = tmp_path / "trace.json"
    done = gridnn(2, "train", *RUN[:-2], "--steps", "4", "--trace", str(file), "--predict-on", "cori-knl", "--quiet")
    assert done.returncode == 0, done.stdout + done.stderr
    events = json.loads(file.read_text())["traceEvents"]
    tracks = {event["args"]["name"] for event in events if event["name"] == "thread_name"}
    assert {"measured", "predicted on cori-knl"} <= tracks and {event["pid"] for event in events} == {0, 1}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--predict-on", "cori-knl"), "--predict-on cori-knl is of --trace FILE: add it"),
        (("--trace", "t.json", "--predict-on", "cori"), "unknown machine 'cori': did you mean cori-knl"),
        (("--trace", "no/where.json"), "--trace no/where.json cannot be written: No such file or directory"),
    ],
)
def test_traces_that_cannot_be_are_refused(options, told, tmp_path):
    options = [str(tmp_path / one) if one == "t.json" else one for one in options]
    done = gridnn(2, "train", *RUN[:-2], "--steps", "1", *options)
    lines = [line for line in done.stderr.splitlines() if line.startswith("gridnn:")]
    assert done.returncode == 2 and len(lines) == 1 and told in lines[0], done.stderr
