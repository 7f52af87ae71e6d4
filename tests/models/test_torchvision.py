"""Weights of torchvision: found by name, read by box, and the outputs are PyTorch's."""

from __future__ import annotations

import json
import math
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
import torchmodels
from backends import on_backend
from launch import gridnn
from passes import Passes, together
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors

from gridnn.comm.grid import Grid
from gridnn.errors import UserError
from gridnn.layout.gridshape import GridShape
from gridnn.layout.layout import box_shape
from gridnn.models import get_model
from gridnn.models.torchvision import TORCHVISION, Source, sources
from gridnn.planning.rules import make_plan
from gridnn.program.program import Program
from gridnn.runtime.parameters import Parameters
from gridnn.train.config import RunConfig
from gridnn.train.setup import prepare_run
from gridnn.train.weights import check_weights, fill, pieces

CLASSES = 7
# the sides of the samples: not square where the network is small, since h and w could be exchanged
SIDES = {"alexnet-onetower": (64, 96), "vgg11": (64, 32), "inception-v3": (75, 80)}


def reference(model, batch=2):
    """A network of PyTorch with random weights and statistics, samples, and its outputs for them."""
    torch.manual_seed(3)
    net = torchmodels.make(model, CLASSES).eval()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor, low, high in ((module.weight, 0.8, 1.2), (module.bias, -0.2, 0.2)):
                torch.nn.init.uniform_(tensor, low, high)
            torch.nn.init.uniform_(module.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
        elif isinstance(module, torch.nn.Conv2d):  # gains that let the samples be told apart at the end
            torch.nn.init.normal_(module.weight, std=math.sqrt(2 / module.weight[0].numel()))
    x = torch.randn(batch, 3, *SIDES.get(model, (64, 80)))
    with torch.no_grad():
        return net.state_dict(), x.permute(0, 2, 3, 1).contiguous().numpy(), net(x).numpy()


def evaluated(comm, grid, model, path, x, strategy="batch"):
    """The output of the network with the weights in ``path``, put together on every rank."""
    network = get_model(model, x.shape[1:], CLASSES)
    check_weights(path, model, network)
    plan = make_plan(strategy, network, grid.shape, len(x), replicas=True)
    program = Program(network, plan, len(x))
    parameters = Parameters(program, grid, "float32", 0)
    fill(parameters, program, model, path)
    parameters.refresh()
    passes = Passes(program, grid, "float32", parameters=parameters, kind="prediction")
    passes.step(x)
    return together(comm, grid, program.layers[-1].output, passes.run.output)


def grid_of(comm, rows, columns):
    shape = GridShape(rows, columns)
    return Grid(comm, shape.rows, shape.cols, **on_backend())


def agree(y, wanted):
    assert np.ptp(wanted, axis=0).max() > 0.01 * np.abs(wanted).max()  # otherwise the biases alone were compared
    np.testing.assert_allclose(y, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize("model", ["alexnet-onetower", "vgg11", "resnet18", "resnet50", "inception-v3"])
def test_outputs_are_those_of_pytorch(model):
    from mpi4py import MPI

    state, x, wanted = reference(model)
    with TemporaryDirectory() as folder:  # not tmp_path, which is kept: half a gigabyte
        path = str(Path(folder) / "weights.safetensors")
        save_tensors(state, path)
        del state
        y = evaluated(MPI.COMM_SELF, grid_of(MPI.COMM_SELF, 1, 1), model, path, x)
    agree(y, wanted)


@pytest.mark.mpi
@pytest.mark.parametrize("strategy", ["domain", "grid"])
def test_outputs_are_those_of_pytorch_on_any_grid(comm, strategy):
    """Every rank reads its own boxes of one file."""
    state, x, wanted = reference("resnet18", batch=3)
    with TemporaryDirectory() as folder:
        path = comm.bcast(str(Path(folder) / "weights.safetensors"))
        if comm.rank == 0:
            save_tensors(state, path)
        comm.barrier()
        rows = max(r for r in (1, 2, 3) if comm.size % r == 0)
        y = evaluated(comm, grid_of(comm, rows, comm.size // rows), "resnet18", path, x, strategy)
        comm.barrier()
    agree(y, wanted)


def test_training_starts_from_them(tmp_path):
    """The first loss on two ranks is PyTorch's, with the statistics of the batch."""
    state, _, _ = reference("resnet18")
    path, log = str(tmp_path / "weights.safetensors"), tmp_path / "log.jsonl"
    save_tensors(state, path)
    options = {"model": "resnet18", "dataset": "synthetic", "shape": "48x40x3", "classes": CLASSES, "samples": 10}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    rest = ("--weights", path, "--steps", "1", "--strategy", "domain", "--replicas", "--grid", "2x1")
    done = gridnn(2, "train", *words, *rest, "--quiet", "--log", str(log))
    assert done.returncode == 0, done.stderr
    (loss,) = [event["loss"] for event in map(json.loads, log.read_text().splitlines()) if event["event"] == "step"]
    data = prepare_run(RunConfig.of(**options), 1).data.train
    x, everyone = np.empty((len(data), 48, 40, 3), np.float32), np.arange(len(data))
    data.read(everyone, ((0, 48), (0, 40), (0, 3)), x)
    net = torchmodels.make("resnet18", CLASSES).train()
    net.load_state_dict(state)
    with torch.no_grad():
        y = net(torch.from_numpy(x).permute(0, 3, 1, 2))
        wanted = torch.nn.functional.cross_entropy(y, torch.from_numpy(data.targets(everyone))).item()
    assert loss == pytest.approx(wanted, rel=1e-3)
    assert gridnn(2, "audit", *words, *rest).returncode == 0


def test_the_option_is_refused_where_it_means_nothing(tmp_path):
    with pytest.raises(UserError, match=r"--weights x has no effect with --model lenet: .* alexnet-onetower or"):
        RunConfig.of(model="lenet", weights="x").validate()
    path = str(tmp_path / "none.safetensors")
    done = gridnn(2, "train", "--model", "resnet18", "--dataset", "synthetic", "--weights", path)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith("gridnn:")]
    assert lines == [f"gridnn: --weights {path} cannot be read: No such file or directory"]
    assert "No such option: --weights" in gridnn(1, "plan", "--ranks", "2", "--weights", path).stderr


@pytest.mark.parametrize("model", TORCHVISION)
def test_names_and_shapes_are_those_of_torchvision(model):
    with torch.device("meta"):
        state = torchmodels.make(model, 1000).state_dict()
    wanted = {name: tuple(tensor.shape) for name, tensor in state.items() if "num_batches" not in name}
    network = get_model(model, (96, 96, 3), 1000, dropout=0)
    assert {source.name: source.shape for source in sources(model, network).values()} == wanted
    with_dropout = sources(model, get_model(model, (96, 96, 3), 1000))
    assert with_dropout == sources(model, network)


class Recorder:
    """A tensor of a file that counts what is read of it."""

    def __init__(self, array):
        self.array, self.read = array, 0

    def __getitem__(self, key):
        found = self.array[key]
        self.read += found.size
        return found


@pytest.mark.parametrize(
    ("source", "box"),
    [
        (Source("conv", (6, 4, 3, 5), (2, 3, 1, 0)), ((0, 3), (0, 5), (1, 3), (2, 6))),
        (Source("linear", (6, 4), (1, 0)), ((1, 4), (0, 5))),
        (Source("bias", (6,), (0,)), ((2, 5),)),
    ],
)
def test_a_rank_reads_its_box_and_no_more(source, box):
    array = np.random.default_rng(1).normal(size=source.shape)
    tensor = Recorder(array)
    ((_, piece),) = pieces(tensor, source, box)
    np.testing.assert_array_equal(piece, array.transpose(source.order)[tuple(slice(*part) for part in box)])
    assert tensor.read == math.prod(box_shape(box))


@pytest.mark.parametrize("box", [((0, 24), (0, 9)), ((5, 17), (2, 8)), ((0, 24), (3, 4))])
@pytest.mark.parametrize("block", [1, 24 * 4, 2**21])
def test_behind_a_flattened_image_the_rows_are_those_of_channels_last(monkeypatch, box, block):
    monkeypatch.setattr("gridnn.train.weights.BLOCK", block)
    height, width, channels, outputs = 2, 4, 3, 9
    array = np.random.default_rng(2).normal(size=(outputs, channels * height * width))
    ours = array.reshape(outputs, channels, height, width).transpose(2, 3, 1, 0).reshape(-1, outputs)
    source, got = Source("fc", array.shape, (1, 0), (height, width, channels)), np.full(box_shape(box), np.nan)
    tensor = Recorder(array)
    for part, piece in pieces(tensor, source, box):
        got[part] = piece
    np.testing.assert_array_equal(got, ours[tuple(slice(*part) for part in box)])
    assert tensor.read == array.shape[1] * box_shape(box)[1]  # the inputs of its outputs


@pytest.fixture(scope="module")
def small():
    """A network and arrays that fit it."""
    network = get_model("resnet18", (32, 32, 3), CLASSES)
    arrays = {s.name: np.zeros(s.shape, np.float32) for s in sources("resnet18", network).values()}
    return network, arrays


def refusal(path, small, **changes) -> str:
    network, arrays = small
    changed = {name: array for name, array in {**arrays, **changes}.items() if array is not None}
    save_file(changed, path)
    with pytest.raises(UserError) as caught:
        check_weights(str(path), "resnet18", network)
    return str(caught.value)


def test_files_that_do_not_fit_are_refused_by_name(tmp_path, small):
    path = tmp_path / "weights.safetensors"
    wide = {"fc.weight": np.zeros((1000, 512), np.float32), "fc.bias": np.zeros(1000, np.float32)}
    text = refusal(path, small, **wide)
    assert "weights.safetensors does not fit --model resnet18" in text
    assert "fc.weight has the shape (1000, 512), not (7, 512); fc.bias has the shape (1000,), not (7,)" in text
    assert "bn1.running_var is missing" in refusal(path, small, **{"bn1.running_var": None})
    assert "fc2.weight belongs to no layer" in refusal(path, small, **{"fc2.weight": np.zeros(3, np.float32)})
    assert "fc.bias is of type I64, not F16, F32, F64" in refusal(path, small, **{"fc.bias": np.zeros(7, np.int64)})
    many = {name: None for name in small[1] if name.startswith("layer4")}
    assert refusal(path, small, **many).count("is missing") == 5
    assert f"; and {len(many) - 5} more" in refusal(path, small, **many)


def test_files_that_cannot_be_read_are_refused(tmp_path, small):
    network, arrays = small
    with pytest.raises(UserError, match=r"none\.safetensors cannot be read: No such file"):
        check_weights(str(tmp_path / "none.safetensors"), "resnet18", network)
    path = tmp_path / "cut.safetensors"
    save_file(arrays, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"cut\.safetensors is no complete safetensors file .*save_file"):
        check_weights(str(path), "resnet18", network)
    path.write_bytes(b"a pickle")
    with pytest.raises(UserError, match="is no complete safetensors file"):
        check_weights(str(path), "resnet18", network)
