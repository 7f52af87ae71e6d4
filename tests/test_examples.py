"""The examples, as their first lines say to start them."""

from __future__ import annotations

import re
import sys

import pytest
from launch import ROOT, mpirun

SAID = {
    "train_arrays": r"epoch 5: loss 0\.\d+\ntest loss \d\.\d+, accuracy (\d+\.\d)% = \1%",
    "own_layer": r"loss 0\.[01]\d+ with Swish on grid \d+x1",
    "redistribute": r"rank 0 sent \{'row': 0, 'column': \d+, 'world': 0\} words, there and back",
}


@pytest.mark.parametrize("name", SAID)
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_an_example_runs(name, ranks):
    done = mpirun(ranks, sys.executable, ROOT / "examples" / f"{name}.py", timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(SAID[name], done.stdout), done.stdout


def test_training_own_arrays_takes_few_lines():
    lines = [line for line in (ROOT / "examples" / "train_arrays.py").read_text().splitlines() if line.strip()]
    assert len(lines) <= 27  # with what makes the data and what is printed
