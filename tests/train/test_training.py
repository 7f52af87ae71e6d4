"""Networks of the papers learn: whole runs of the command, on data of real size."""

from __future__ import annotations

import json

import pytest
from launch import gridnn

LIMIT = 480  # seconds of one run


def trained(tmp_path, ranks: int, *args: str) -> list[dict]:
    """The events of a run."""
    log = tmp_path / "log.jsonl"
    done = gridnn(ranks, "train", *args, "--quiet", "--log", str(log), timeout=LIMIT)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in log.read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.timeout(LIMIT + 30)
def test_cosmoflow_learns_volumes_divided_in_two_dimensions(tmp_path):
    """64^3 volumes on 2 x 2 x 1 parts; to guess the mean costs 1/3."""
    data = ("--dataset", "volumes", "--shape", "64x64x64x1", "--samples", "96", "--loss", "mse")
    how = ("--batch", "4", "--epochs", "2", "--optimizer", "adamw", "--lr", "0.0003", "--dropout", "0")
    grid = ("--grid", "4x1", "--strategy", "domain", "--domain", "2x2x1")
    events = trained(tmp_path, 4, "--model", "cosmoflow", *data, *how, *grid)
    losses = [event["loss"] for event in events if event["event"] == "step"]
    assert len(losses) == 48
    last = sum(losses[-8:]) / 8
    assert last < losses[0] / 10 and last < 1 / 30, losses


@pytest.mark.slow
@pytest.mark.timeout(LIMIT + 30)
def test_resnet18_learns_digits(tmp_path):
    options = ("--model", "resnet18", "--dataset", "digits", "--resize", "32", "--batch", "32", "--epochs", "2")
    events = trained(tmp_path, 4, *options, "--grid", "2x2", "--lr", "0.02")
    assert [event["test_accuracy"] > 0.85 for event in events if event["event"] == "epoch"][-1]
