"""``--model file.py:function``: a network of the user's, and what is said about a file that gives none."""

from __future__ import annotations

import json

import pytest
from launch import ROOT, gridnn
from running import job_of

from gridnn.errors import UserError
from gridnn.models import get_model
from gridnn.models.own import is_own
from gridnn.train.config import RunConfig
from gridnn.train.session import Session
from gridnn.train.setup import prepare_run

EXAMPLE = f"{ROOT / 'examples' / 'models.py'}:branches"
HEAD = "from gridnn.layers import *\nfrom gridnn.network import Network\n"


def refused(path, text: str, code: str, name: str = "net", **options):
    path.write_text(HEAD + code)
    with pytest.raises(UserError, match=text):
        get_model(f"{path}:{name}", (8, 8, 3), 10, **options)


def test_names_of_functions_are_told_from_names_of_networks():
    assert is_own("a.py:b") and is_own("/x/y.py:f") and is_own("nets.py") and is_own("x:y")
    assert not is_own("vgg11-cifar")


def test_the_example_is_a_network():
    net = get_model(EXAMPLE, (8, 8, 1), 10, dropout=0.3)
    assert (net.shapes[net.output], net.output) == ((10,), "fc")
    assert [node.layer.p for node in net.nodes if node.name == "drop"] == [0.3]
    assert get_model(EXAMPLE.replace("branches", "linear"), (7,), 2).parameter_count == 16


def test_keywords_are_handed_over_where_the_function_names_them(tmp_path):
    file = tmp_path / "mine.py"
    code = (
        "def net(shape, outputs, widths):\n    n = Network(shape)\n    n.add('f', Flatten())\n"
        "    for i, width in enumerate(widths):\n        n.add(f'fc{i}', Linear(width))\n"
        "    n.add('out', Linear(outputs))\n    return n\n"
    )
    file.write_text(HEAD + code)
    net = get_model(f"{file}:net", (2, 2, 1), 3, widths=(5, 6), dropout=0.5, asked=("widths",))
    assert net.shapes["fc1"] == (6,)
    with pytest.raises(
        UserError, match=r"--dropout has no effect with --model .*mine.py:net: net\(shape, outputs, widths\)"
    ):
        get_model(f"{file}:net", (2, 2, 1), 3, dropout=0.1, asked=("dropout",))


def test_options_of_own_models_reach_them():
    plain = RunConfig.of(model=EXAMPLE)
    plain.validate()
    assert "dropout" not in plain.as_dict() and "widths" not in plain.as_dict()
    given = RunConfig.of(model=EXAMPLE, dropout=0.25)
    given.validate()
    assert given.as_dict()["dropout"] == 0.25
    assert any(node.name == "drop" for node in prepare_run(given, 1).network.nodes)
    with pytest.raises(UserError, match="--widths has no effect with --model"):
        prepare_run(RunConfig.of(model=EXAMPLE, widths="3"), 1)


def test_files_beside_it_can_be_imported(tmp_path):
    (tmp_path / "helper_of_mine.py").write_text("WIDTH = 10\n")
    file = tmp_path / "main_of_mine.py"
    file.write_text(
        HEAD + "from helper_of_mine import WIDTH\nfrom dataclasses import dataclass\n\n@dataclass\nclass Size:\n"
        "    n: int = WIDTH\n\ndef net(shape, outputs):\n    n = Network(shape)\n    n.add('f', Flatten())\n"
        "    n.add('fc', Linear(Size().n))\n    return n\n"
    )
    assert get_model(f"{file}:net", (8, 8, 3), 10).shapes["fc"] == (10,)


@pytest.mark.parametrize("name", ["models.py", "models.py:", ":f", "models.py:a b", "models:f", "none.py:f"])
def test_what_is_no_file_and_function(name):
    with pytest.raises(UserError, match=rf"--model {name}: .*FILE\.py:FUNCTION"):
        get_model(name, (8, 8, 3), 10)


def test_what_a_file_does_wrong_is_told_with_its_line(tmp_path):
    file = tmp_path / "mine.py"
    missing = r"--model .*mine.py:nett: unknown function 'nett': did you mean net\?"
    refused(file, missing, "def net(shape, outputs):\n    pass\n", "nett")
    refused(file, "mine.py defines no functions", "x = 123\n")  # compiled files know a size and a second
    refused(file, r"line 3: ZeroDivisionError: division by zero", "1 / 0\n")
    refused(file, r"line 4: KeyError: 'x'", "def net(shape, outputs):\n    return {}['x']\n")
    refused(file, r"line 4: ValueError: odd", "def net(shape, outputs):\n    raise ValueError('odd')\n")
    refused(file, r"SyntaxError: .*mine.py, line 3", "def net(:\n")
    refused(file, r"line 3: ModuleNotFoundError: No module named 'no_such'", "import no_such\n")
    refused(file, r"line 3: SystemExit: 3", "raise SystemExit(3)\n")
    refused(file, r"TypeError: net\(\) takes 0 positional arguments", "def net():\n    pass\n")
    deep = "def net(shape, outputs):\n    n = Network(shape)\n    n.add('pool', MaxPool2d(9))\n    return n\n"
    refused(file, r"line 5: layer 'pool': MaxPool2d 9 on h of a 8x8 input", deep)


def test_what_a_function_gives_back_is_checked(tmp_path):
    file = tmp_path / "mine.py"
    begin = "def net(shape, outputs):\n    n = Network({shape})\n    n.add('flat', Flatten())\n"
    refused(file, "gives a NoneType back, not a gridnn.network.Network", "def net(shape, outputs):\n    pass\n")
    refused(file, "a network without layers", "def net(shape, outputs):\n    return Network(shape)\n")
    other = begin.format(shape="(4,)") + "    return n\n"
    refused(file, r"samples of shape \(4,\) back, but those of the data are \(8, 8, 3\)", other)
    whole = begin.format(shape="shape")
    refused(file, r"output of shape \(192,\) a sample, but 10 outputs are needed", whole + "    return n\n")
    loss = whole + "    n.add('fc', Linear(outputs))\n    n.add('l', SoftmaxCrossEntropy())\n    return n\n"
    refused(file, "ends in the loss 'l': leave it out", loss)


LOSS = """
from dataclasses import dataclass
import gridnn as gn
from gridnn.layers.computation import BufferSpec, Computation, Task

@dataclass(frozen=True)
class Half(gn.layers.MeanSquaredError):
    pass

class Nothing:
    pass
"""


def test_a_loss_of_the_users(tmp_path):
    file = tmp_path / "losses.py"
    file.write_text(LOSS)
    options = {"dataset": "volumes", "shape": "8x8x8x1", "samples": 12, "model": "cosmoflow"}
    made = RunConfig.of(loss=f"{file}:Half", **options)
    made.validate()
    assert type(prepare_run(made, 1).network.loss.layer).__name__ == "Half"
    for loss, told in (
        (f"{file}:Nothing", "gives a Nothing back, not a gridnn.layers.Loss"),
        (f"{file}:Halv", "unknown function 'Halv': did you mean Half"),
        ("none.py:Half", r"--loss none.py:Half: there is no such file; write FILE\.py:CLASS"),
        ("ms", "unknown loss 'ms': did you mean mse"),
    ):
        with pytest.raises(UserError, match=told):
            wrong = RunConfig.of(loss=loss, **options)
            wrong.validate()
            prepare_run(wrong, 1)


def test_the_example_trains_on_a_grid(tmp_path):
    log = tmp_path / "log.jsonl"
    run = ("--model", "examples/models.py:branches", "--dataset", "digits", "--grid", "2x1", "--strategy", "domain")
    done = gridnn(2, "train", *run, "--steps", "60", "--batch", "64", "--lr", "0.1", "--quiet", "--log", str(log))
    assert done.returncode == 0, done.stdout + done.stderr
    losses = [event["loss"] for event in map(json.loads, log.read_text().splitlines()) if event["event"] == "step"]
    assert losses[-1] < 0.7 * losses[0]


def test_a_mistake_in_the_file_ends_the_run_with_one_line(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def net(shape, outputs):\n    return 1 / 0\n")
    done = gridnn(2, "train", "--model", f"{file}:net", "--steps", "1")
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith("gridnn:")]
    assert lines == [f"gridnn: --model {file}:net: {file}, line 2: ZeroDivisionError: division by zero"]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("net.add(3, Flatten())", r"add\(3, Flatten\(\)\): give a name and a layer"),
        ("net.add('c', Conv2d)", r"give a name and a layer, as in add\('conv1', Conv2d\(8, 3\)\)"),
        ("net.add('c', Linear(4.0))", r"layer 'c': .* gives the shape \(4.0,\); give whole numbers above 0"),
    ],
)
def test_what_is_no_layer_or_no_size_is_refused(tmp_path, code, text):
    whole = (
        f"def net(shape, outputs):\n    net = Network(shape)\n    net.add('f', Flatten())\n    {code}\n    return net\n"
    )
    refused(tmp_path / "odd.py", text, whole)


@pytest.mark.mpi
def test_a_network_that_is_another_one_on_some_rank_is_refused_on_all(comm):
    """As one made from a set, or from random numbers, or from a file that differs between nodes."""
    if comm.size < 2:
        pytest.skip("one rank agrees with itself")

    def config(width: int) -> RunConfig:
        return RunConfig.of(model="mlp", widths=f"7,{width}", dataset="synthetic", shape="4x4x1", batch=12, samples=24)

    with pytest.raises(UserError, match=r"'fc2', Linear.*features=9.* at place 1 layer 'fc2', Linear.*features=8"):
        Session(config(9 if comm.rank == 0 else 8), job_of(comm))
    Session(config(9), job_of(comm))
