"""Data through the command: the examples of docs/data.md, and what is refused on several ranks."""

from __future__ import annotations

import re
import shlex
import sys

import numpy as np
import pytest
from launch import ROOT, clean_environment, gridnn, run
from test_data_hdf5 import arrays, write
from test_images import write as write_images

DOCS = re.findall(r"^```(python|sh)\n(.*?)^```", (ROOT / "docs" / "data.md").read_text(), re.M | re.S)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_examples_of_the_docs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    commands = 0
    for language, text in DOCS:
        if language == "python":
            exec(text, names)
            continue
        for line in text.splitlines():
            program, _, ranks, *command = shlex.split(line)
            assert program == "mpirun"
            command = [str(tmp_path / word) if (tmp_path / word).exists() else word for word in command[1:]]
            done = gridnn(int(ranks), *command, timeout=60)
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
            assert "test loss" in done.stdout, done.stdout
            commands += 1
    assert commands == 6


def test_the_example_that_writes_volumes(tmp_path):
    pytest.importorskip("h5py")
    file = str(tmp_path / "volumes.h5")
    make = [sys.executable, "examples/make_volumes.py", file, "--side", "12", "--samples", "10", "--chunk", "6"]
    assert run(make, 60, clean_environment()).returncode == 0
    options = ("--names", "density,parameters", "--model", "mlp", "--widths", "8", "--loss", "mse", "--epochs", "1")
    done = gridnn(2, "train", "--dataset", file, *options)
    assert done.returncode == 0, done.stdout + done.stderr


def refused(ranks, *args, text):
    done = gridnn(ranks, "train", *args, "--quiet", timeout=60)
    said = [line for line in done.stderr.splitlines() if line.startswith("gridnn: ")]
    assert done.returncode == 2, done.stdout + done.stderr
    assert len(said) == 1 and text in said[0], done.stderr
    assert "Traceback" not in done.stderr


def test_an_array_that_is_not_there(tmp_path):
    path = write(tmp_path, {"x": np.zeros((9, 4, 4, 1)), "y": np.arange(9)})
    refused(2, "--dataset", path, "--names", "density,y", text="lacks density_train, y_train, density_test, y_test")


def test_a_number_that_is_not_finite_is_found_by_the_rank_that_reads_it(tmp_path):
    content = arrays((8, 4, 4, 1))
    content["x_train"][7, 6, 1, 1, 0] = np.inf
    options = ("--loss", "mse", "--model", "mlp", "--widths", "8", "--batch", "4")
    refused(2, "--dataset", write(tmp_path, content), *options, text="sample 7 holds a number that is not finite")


def test_an_image_that_is_damaged_later(tmp_path):
    folder = write_images(tmp_path)
    (tmp_path / "bee" / "002.png").write_bytes(b"none")
    options = ("--crop", "32", "--model", "lenet", "--batch", "3", "--grid", "2x1", "--strategy", "domain")
    refused(2, "--dataset", folder, *options, text="bee/002.png) cannot be read")
