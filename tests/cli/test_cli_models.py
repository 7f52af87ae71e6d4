"""``gridnn models``: the table of the networks, the layers of one, and the table in the documentation."""

from __future__ import annotations

import json
import sys

import pytest
from launch import ROOT, clean_environment, run

from gridnn.cli.models import NUMBERS, cells
from gridnn.models import MODELS, get_model
from gridnn.models.summary import summarize


def models(*args: str):
    """The command with mpi4py and NumPy's heavy relatives out of reach."""
    code = "import sys; sys.modules['mpi4py'] = None; from gridnn.cli.main import main; main()"
    return run([sys.executable, "-c", code, "models", *args], 60, clean_environment())


def test_it_lists_every_network(tmp_path):
    file = tmp_path / "models.json"
    done = models("--json", str(file))
    assert done.returncode == 0, done.stderr
    lines = {line.split()[0]: line for line in done.stdout.splitlines() if line.strip()}
    assert all(name in lines for name in MODELS)
    assert all(text in lines["alexnet"] for text in ("227x227x3", "60,965,224", "60,954,656"))
    assert "8.26" in lines["resnet50"]
    rows = {row["name"]: row for row in json.loads(file.read_text())}
    assert list(rows) == list(MODELS)
    assert rows["vgg16"]["parameters"] == 138_357_544
    assert rows["vgg16"]["shape"] == [224, 224, 3]


def test_it_shows_the_layers_of_one(tmp_path):
    file = tmp_path / "lenet.json"
    done = models("lenet", "--input", "32x32x3", "--outputs", "7", "--batch", "5", "--json", str(file))
    assert done.returncode == 0, done.stderr
    assert "a batch of 5" in done.stdout
    rows = {row["name"]: row for row in json.loads(file.read_text())}
    assert (rows["conv1"]["kind"], rows["conv1"]["shape"], rows["fc3"]["shape"]) == ("Conv2d", [28, 28, 6], [7])
    assert rows["conv1"]["parameters"] == 25 * 3 * 6 + 6
    assert rows["conv1"]["flops"] == 5 * 2 * 28 * 28 * 6 * 75
    assert rows["conv1"]["activations"] == 5 * 28 * 28 * 6
    assert rows["flatten"]["activations"] == 0
    assert rows["lenet"]["parameters"] == sum(row["parameters"] for row in rows.values() if row["kind"] != "Network")
    assert "28x28x6" in done.stdout and "Conv2d" in done.stdout


def test_it_shows_the_layers_of_the_users_own():
    done = models("examples/models.py:branches", "--input", "8x8x1")
    assert done.returncode == 0, done.stderr
    assert "concat" in done.stdout


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("resnet-18",), "unknown model 'resnet-18': did you mean resnet18?"),
        (("lenet", "--input", "32x-2x3"), "--input '32x-2x3': write whole numbers above 0 as 224x224x3"),
        (("lenet", "--input", "784"), "model lenet needs images"),
        (("vgg16", "--input", "16x16x3"), "at least 32x32"),
        (("--input", "32x32x3"), "--input 32x32x3 is for one network: gridnn models NAME --input 32x32x3"),
        (("--outputs", "3"), "--outputs 3 is for one network"),
        (("examples/models.py:branches",), "needs the shape of a sample: --input 32x32x3"),
        (("lenet", "--json", "/none/models.json"), "--json /none/models.json cannot be written"),
    ],
)
def test_what_is_refused(args, text):
    done = models(*args)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("gridnn: ")
    assert text in done.stderr


def test_the_table_of_the_documentation_is_the_commands():
    """One line a network; after a change: paste what the assertion shows."""
    text = (ROOT / "docs" / "models.md").read_text()
    lines = ["| network | layers | input | " + " | ".join(NUMBERS) + " |"]
    for name, model in MODELS.items():
        widths = {"widths": (128, 128)} if name == "mlp" else {}
        row = summarize(name, get_model(name, model.input_shape, model.outputs, **widths))
        lines.append(f"| `{name}` | " + " | ".join(cells(row)) + " |")
    missing = [line for line in lines if line not in text]
    assert not missing, "\n".join(missing)
