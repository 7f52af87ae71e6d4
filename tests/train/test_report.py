"""What rank 0 shows and logs."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from gridnn.errors import UserError
from gridnn.layout.gridshape import GridShape
from gridnn.train.picture import picture
from gridnn.train.report import Moved, Reporter, Summary

WORDS = {"row": 1200, "column": 34, "world": 0}


def told(log=None, terminal: bool = False, quiet: bool = False, loss: float = 0.5) -> str:
    """What a run of one epoch of two steps shows."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, quiet=quiet, width=120, highlight=False)
    reporter = Reporter(console, log)
    reporter.note("4 ranks on 2 cores")
    summary = Summary(GridShape(2, 2), "model", "batch", steps=2, epochs=1)
    reporter.started({"model": "mlp", "gather_backward": "all-reduce"}, summary)
    reporter.step(1, 1, 2.0, 0.1, 1000.0, 0.25, 0.5)
    reporter.step(2, 1, loss, 0.1, 1000.0, 0.25, 0.5)
    reporter.epoch(1, loss, 0.75, 0.6, 0.97, WORDS, 900.0, 0.25)
    reporter.finished([Moved("row", "update", 1200, 8, 0.5), Moved("column", "forward", 34, 4, 0.25)])
    return out.getvalue()


def test_plain_lines():
    text = told()
    assert "note: 4 ranks on 2 cores" in text
    assert "config: model mlp, gather-backward all-reduce" in text
    assert "epoch 1/1: train loss 0.5000, accuracy 75.00%; test loss 0.6000, accuracy 97.00%" in text
    assert "words: row 1,200, column 34, world 0" in text
    assert "\x1b" not in text
    assert "step 1/" not in text  # a step is only told after ten seconds of silence
    total = next(line for line in text.splitlines() if "all " in line and "1,234" in line)
    assert total.replace("│", " ").split() == ["all", "1,234", "12", "0.750"]


def test_a_terminal_gets_a_bar_with_speed_and_share():
    text = told(terminal=True)
    assert "epoch 1/1" in text
    assert "loss 0.5000 acc 50.0% 1,000 samples/s comm 25%" in text
    assert "\x1b[?25l" not in text[text.index("\x1b[?25h") :]  # a job that is stopped leaves the cursor visible


def test_quiet_shows_nothing():
    assert told(quiet=True) == told(quiet=True, terminal=True) == ""


def test_the_log_has_an_object_a_step_and_an_epoch(tmp_path):
    log = tmp_path / "run.jsonl"
    told(log, quiet=True)
    config, first, second, epoch = [json.loads(line) for line in log.read_text().splitlines()]
    assert config["event"] == "config"
    assert config["config"]["model"] == "mlp"
    assert first == {"event": "step", "step": 1, "epoch": 1, "loss": 2.0, "lr": 0.1, "samples_per_s": 1000.0}
    assert second["step"] == 2
    assert epoch == {
        "event": "epoch",
        "epoch": 1,
        "train_loss": 0.5,
        "train_accuracy": 0.75,
        "test_loss": 0.6,
        "test_accuracy": 0.97,
        "words": WORDS,
    }


def test_a_log_is_valid_json_whatever_the_loss(tmp_path):
    log = tmp_path / "run.jsonl"
    told(log, quiet=True, loss=float("nan"))
    lines = [json.loads(line, parse_constant=pytest.fail) for line in log.read_text().splitlines()]
    assert lines[2]["loss"] is None


def test_the_log_of_a_resumed_run_goes_on(tmp_path):
    log = tmp_path / "run.jsonl"
    told(log, quiet=True)
    reporter = Reporter(Console(quiet=True), log, append=True)
    reporter.saved(2, "there/step-00000002.safetensors", 0.5)
    reporter.close()
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert [event["event"] for event in events] == ["config", "step", "step", "epoch", "checkpoint"]
    assert events[-1] == {
        "event": "checkpoint",
        "step": 2,
        "path": "there/step-00000002.safetensors",
        "seconds": 0.5,
    }


def test_a_log_that_cannot_be_written_is_the_users_mistake(tmp_path):
    with pytest.raises(UserError, match=r"--log .*none/run.jsonl cannot be written: No such file"):
        Reporter(Console(quiet=True), tmp_path / "none" / "run.jsonl")


def test_picture_of_a_small_grid():
    lines = picture(GridShape(2, 3), "model", "batch").splitlines()
    assert lines[0] == "grid 2x3, rank numbers (rows divide: model; columns divide: batch)"
    assert [line.split() for line in lines[2:]] == [["r0", "[", "0", "2", "4", "]"], ["r1", "[", "1", "3", "5", "]"]]
    rows = picture(GridShape(2, 3, "row"), "model", "batch").splitlines()[2:]
    assert [line.split() for line in rows] == [["r0", "[", "0", "1", "2", "]"], ["r1", "[", "3", "4", "5", "]"]]


def test_picture_of_a_large_grid_leaves_out_the_middle():
    lines = picture(GridShape(256, 256), "model", "batch").splitlines()
    assert len(lines) == 2 + 8
    assert "65535" in lines[-1]
    assert "..." in lines[-1]
