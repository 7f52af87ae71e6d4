"""Checkpoints: a run goes on from one on any grid, and nothing that is not one is taken for one."""

from __future__ import annotations

import functools
import json
import re
import struct
import sys

import numpy as np
import pytest
from launch import HELPERS, gridnn, mpirun
from running import LENET, MLP, Told, folder, same, trained, trained_on
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from strict import StrictBackend

from gridnn import layers as L
from gridnn.errors import UserError
from gridnn.network import Network
from gridnn.train import setup
from gridnn.train.config import RUN_OPTIONS, RunConfig
from gridnn.train.header import read_header
from gridnn.train.option import ADJUSTABLE, FIXED, FREE


def normalised(shape, classes, **options) -> Network:
    """A network with running statistics and dropout."""
    net = Network(shape)
    net.add("conv1", L.Conv2d(6, 3, padding=1, bias=False))
    net.add("norm1", L.BatchNorm())
    net.add("relu1", L.ReLU())
    net.add("conv2", L.Conv2d(7, 3, stride=2))
    net.add("norm2", L.BatchNorm())
    net.add("drop", L.Dropout(0.2))
    net.add("global", L.GlobalAvgPool())
    net.add("fc", L.Linear(classes))
    return net


@pytest.fixture(autouse=True)
def _own_model(monkeypatch):
    known = setup.get_model

    def get_model(name, shape, classes, **options):
        return normalised(shape, classes) if name == "normalised" else known(name, shape, classes, **options)

    monkeypatch.setattr(setup, "get_model", get_model)


RUNS = {"lenet": LENET, "mlp": MLP, "normalised": LENET.replaced(model="normalised", shape="13x9x2")}


@functools.cache
def uninterrupted(name: str) -> Told:
    """The run on one rank, made by every rank for itself."""
    from mpi4py import MPI

    return trained(RUNS[name].replaced(grid="1x1"), MPI.COMM_SELF)


# Where a run goes on: on how many ranks, on which grid, how divided, and how many steps it has made when it stops.
# An epoch has three steps (the last one short), so some stop in the middle of one.
JOURNEYS = {
    1: [(1, "1x1", "grid", 2), (1, "1x1", "batch", 6), (1, "1x1", "model", None)],
    2: [(2, "2x1", "model", 2), (1, "1x1", "grid", 5), (2, "1x2", "batch", None)],
    3: [(3, "3x1", "model", 4), (2, "2x1", "domain", 6), (3, "1x3", "grid", None)],
    4: [(4, "2x2", "grid", 4), (3, "3x1", "model", 5), (1, "1x1", "grid", 8), (4, "4x1", "domain", None)],
    6: [(4, "2x2", "grid", 2), (3, "3x1", "model", 5), (1, "1x1", "grid", 7), (6, "3x2", "domain", None)],
}


@pytest.mark.mpi
@pytest.mark.parametrize("name", RUNS)
def test_a_run_goes_on_on_another_grid_with_another_strategy_and_other_ranks(comm, name):
    reference, whole = uninterrupted(name), Told()
    with folder(comm) as directory:
        for number, (ranks, grid, strategy, steps) in enumerate(JOURNEYS[comm.size]):
            strategy = "grid" if (name, strategy) == ("mlp", "domain") else strategy
            config = RUNS[name].replaced(grid=grid, strategy=strategy, steps=steps, checkpoint=str(directory))
            part = trained_on(ranks, config.replaced(resume=number > 0), comm)
            whole = whole.join(comm.bcast(part))
    assert len(reference.losses) == 12
    for epoch in set(whole.epochs) & set(reference.epochs):  # told after a part of the epoch, and then after all of it
        np.testing.assert_allclose(whole.epochs[epoch], reference.epochs[epoch], rtol=1e-9)
    same(whole, reference, f"{name} {JOURNEYS[comm.size]}")


@pytest.mark.mpi
def test_arrays_of_a_device_are_saved_and_filled(comm, monkeypatch):
    monkeypatch.setattr("gridnn.train.session.get_backend", lambda *names, **options: StrictBackend())
    with folder(comm) as directory:
        config = RUNS["normalised"].replaced(checkpoint=str(directory), strategy="model")
        first = trained(config.replaced(steps=4), comm)
        same(first.join(trained(config.replaced(resume=True), comm)), uninterrupted("normalised"))


@pytest.mark.mpi
def test_any_tool_reads_the_global_tensors(comm):
    """The file of a divided run holds the tensors of the serial one, under the names of the network."""
    from mpi4py import MPI

    with folder(comm) as mine:
        divided, alone = mine / "divided", mine / f"alone{comm.rank}"
        trained(RUNS["normalised"].replaced(checkpoint=str(divided)), comm)
        trained(RUNS["normalised"].replaced(checkpoint=str(alone), grid="1x1"), MPI.COMM_SELF)
        file = "step-00000012.safetensors"
        found, wanted = load_file(divided / file), load_file(alone / file)
        assert list(found) == list(wanted)
        assert found["conv2.weight"].shape == (3, 3, 6, 7)
        assert {"conv1.weight", "norm1.gamma", "norm1.running_mean", "fc.bias"} <= set(found)
        assert {name.removeprefix("optimizer.momentum.") for name in found if "optimizer" in name} == {
            name for name in found if "optimizer" not in name and "running" not in name
        }
        for name, tensor in found.items():
            assert tensor.dtype == np.float64
            np.testing.assert_allclose(tensor, wanted[name], rtol=1e-8, atol=1e-12, err_msg=name)
        with safe_open(divided / file, "numpy") as opened:
            facts = opened.metadata()
    assert (facts["step"], facts["samples"], facts["ranks"]) == ("12", "136", str(comm.size))
    assert json.loads(facts["random_key"]) == {"seed": 0, "step": 12}
    assert json.loads(facts["config"])["model"] == "normalised"
    assert json.loads(facts["plan"])["splits"]["conv1"]


@pytest.mark.mpi
def test_every_rank_reads_its_own_part_and_no_more(comm, monkeypatch):
    """The bytes asked of the file are those of the rank's own arrays."""
    from gridnn.train import checkpoint, checkpoints

    files = []

    class Watched(checkpoint.SharedFile):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            files.append(self)

    loaded = []

    def load(path, header, tensors, grid):
        files.clear()
        checkpoint.load(path, header, tensors, grid)
        loaded.append((files[-1].bytes_read, sum(t.array.nbytes for t in tensors.values()), header.size - header.data))

    monkeypatch.setattr(checkpoint, "SharedFile", Watched)
    monkeypatch.setattr(checkpoints, "load", load)
    with folder(comm) as directory:
        config = MLP.replaced(checkpoint=str(directory), strategy="model", steps=3, widths="24,12")
        trained(config, comm)
        assert sum(comm.allgather(files[-1].bytes_written)) == sum(comm.allgather(files[-1].bytes_read))
        trained(config.replaced(steps=4, resume=True), comm)
    ((asked, own, whole),) = loaded
    assert asked == own
    assert own <= whole if comm.size == 1 else own < whole * 1.3 / min(comm.size, 4)


@pytest.mark.mpi
def test_ranks_that_hold_the_same_write_a_piece_each(comm, monkeypatch):
    from gridnn.train import checkpoint

    files = []

    class Watched(checkpoint.SharedFile):
        def close(self):
            files.append(self.bytes_written)
            super().close()

    monkeypatch.setattr(checkpoint, "SharedFile", Watched)
    with folder(comm) as directory:
        trained(MLP.replaced(checkpoint=str(directory), strategy="batch", steps=3, widths="240,120"), comm)
        written = comm.allgather(files[-1])
        header = read_header(str(directory / files_of(3)[0]))
    assert sum(written) == header.size - header.data
    assert max(written) < 1.05 * sum(written) / comm.size


# -- which are kept, and when they are written ---------------------------------------------------------------


def names(directory) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture
def alone():
    from mpi4py import MPI

    return MPI.COMM_SELF


def files_of(*steps: int) -> list[str]:
    return [f"step-{step:08d}.safetensors" for step in steps]


@pytest.mark.parametrize(
    ("options", "written", "kept"),
    [
        ({}, [3, 6, 9, 12, 12], [6, 9, 12]),  # an epoch has three steps; 12: before and after evaluation
        ({"keep": 1}, [3, 6, 9, 12, 12], [12]),
        ({"keep": 99}, [3, 6, 9, 12, 12], [3, 6, 9, 12]),
        ({"save_every": 5}, [5, 10, 12], [5, 10, 12]),
        ({"save_every": 2, "keep": 2}, [2, 4, 6, 8, 10, 12, 12], [10, 12]),
        ({"save_every": 100}, [12], [12]),
        ({"steps": 4}, [3, 4], [3, 4]),
    ],
)
def test_when_checkpoints_are_written_and_which_remain(tmp_path, alone, options, written, kept):
    told = trained(MLP.replaced(checkpoint=str(tmp_path / "new" / "directory"), **options), alone)
    assert told.paths == files_of(*written)
    assert names(tmp_path / "new" / "directory") == files_of(*kept)


def test_a_directory_without_checkpoints_begins_the_run(tmp_path, alone):
    (tmp_path / "step-00000009.safetensors.partial").write_bytes(b"what a killed job left")
    (tmp_path / "step-9.safetensors").write_bytes(b"not one of ours")
    told = trained(MLP.replaced(checkpoint=str(tmp_path), resume=True, steps=3), alone)
    assert f"--resume: {tmp_path} holds no checkpoint, so the run begins" in told.notes
    assert list(told.losses) == [1, 2, 3]
    assert names(tmp_path) == [*files_of(3), "step-9.safetensors"]


def test_a_run_that_is_over_has_nothing_left_to_do(tmp_path, alone):
    config = MLP.replaced(checkpoint=str(tmp_path), epochs=2)
    trained(config, alone)
    before = (tmp_path / files_of(6)[0]).stat().st_mtime_ns
    told = trained(config.replaced(resume=True), alone)
    assert "nothing is left to do: 6 of 6 steps are made" in told.notes
    assert (told.losses, told.epochs, told.paths) == ({}, {}, [])
    assert (tmp_path / files_of(6)[0]).stat().st_mtime_ns == before


def test_epochs_count_from_the_start(tmp_path, alone):
    trained(MLP.replaced(checkpoint=str(tmp_path), epochs=2), alone)
    told = trained(MLP.replaced(checkpoint=str(tmp_path), epochs=3, resume=True), alone)
    assert list(told.epochs) == [3]
    assert list(told.losses) == [7, 8, 9]


# -- what is refused -----------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path, alone):
    """A directory with two checkpoints."""
    trained(RUNS["normalised"].replaced(checkpoint=str(tmp_path), steps=6), alone)
    return tmp_path


def refused(directory, comm, text: str, **changes) -> str:
    config = RUNS["normalised"].replaced(checkpoint=str(directory), resume=True, **changes)
    with pytest.raises(UserError, match=text) as raised:
        trained(config, comm)
    return str(raised.value)


DAMAGES = {
    "cut in the data": (lambda data: data[:-1], "is truncated: its header speaks of"),
    "cut in the header": (lambda data: data[:100], "is truncated: the header takes"),
    "cut in the length": (lambda data: data[:5], "is truncated: it has 5 bytes"),
    "empty": (lambda data: b"", "is truncated: it has 0 bytes"),
    "longer": (lambda data: data + b"0", "is too long"),
    "one bit of the last tensor": (
        lambda data: flipped(data, len(data) - 3),
        "is corrupted: what it holds of norm2.run",
    ),
    "one bit of the first tensor": (
        lambda data: flipped(data, 8 + header_length(data)),
        "corrupted: what it holds of c",
    ),
    "a page of zeros": (lambda data: data[:-4096] + bytes(4096), "is corrupted: what it holds of"),
    "the step": (lambda data: data.replace(b'"step":"6"', b'"step":"7"'), "its header is not the one that was written"),
    "a shape": (lambda data: data.replace(b"[3,3,6,7]", b"[3,3,7,6]", 1), "its header is not the one that was written"),
    "broken JSON": (lambda data: data.replace(b'"__metadata__"', b'"__metadata__', 1), "its header is no JSON object"),
    "text": (lambda data: b"# a file of somebody else's\n" * 99, "does not begin like a safetensors file"),
    "another version": (lambda data: data.replace(b'"gridnn":"1"', b'"gridnn":"2"'), "of version 2, but this gridnn"),
}


def header_length(data: bytes) -> int:
    return struct.unpack("<Q", data[:8])[0]


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refused_by_name_and_the_one_before_it_resumes(saved, alone, damage):
    change, text = DAMAGES[damage]
    newest = saved / files_of(6)[0]
    data = newest.read_bytes()
    newest.write_bytes(change(data))
    assert newest.read_bytes() != data
    message = refused(saved, alone, re.escape(text))
    assert str(newest) in message
    assert f"the one before it is {saved / files_of(3)[0]}: remove the bad one" in message
    newest.unlink()
    told = trained(RUNS["normalised"].replaced(checkpoint=str(saved), resume=True), alone)
    assert list(told.losses) == list(range(4, 13))


def test_a_file_by_another_name_is_refused(saved, alone):
    (saved / files_of(6)[0]).rename(saved / files_of(99)[0])
    refused(saved, alone, "step-00000099.safetensors is that of step 6: give it its name back")


def test_a_file_of_another_program_is_refused(saved, alone):
    save_file({"conv1.weight": np.zeros((3, 3, 2, 6))}, saved / files_of(8)[0])
    message = refused(saved, alone, "no checkpoint of gridnn: a safetensors file whose __metadata__ lacks 'gridnn'")
    assert files_of(6)[0] in message


@pytest.mark.mpi
@pytest.mark.parametrize("place", [0.3, 0.6, 0.9])
def test_every_rank_learns_of_a_damage_that_one_has_read(comm, place):
    with folder(comm) as directory:
        config = RUNS["normalised"].replaced(checkpoint=str(directory), steps=3, strategy="model")
        trained(config, comm)
        if comm.rank == 0:
            file = directory / files_of(3)[0]
            data = file.read_bytes()
            start = 8 + header_length(data)
            file.write_bytes(flipped(data, start + int((len(data) - start) * place)))
        comm.Barrier()
        refused(directory, comm, "is corrupted: what it holds of", strategy="model")


def test_a_checkpoint_of_another_network(saved, alone, monkeypatch):
    def get_model(name, shape, classes, **options):
        net = normalised(shape, classes)
        net.add("more", L.Linear(classes))
        return net

    monkeypatch.setattr(setup, "get_model", get_model)
    message = refused(saved, alone, "is of another network or optimizer: it lacks more.weight, more.bias$")
    assert "remove" not in message  # nothing is wrong with the file


def test_a_checkpoint_with_other_shapes(saved, alone, monkeypatch):
    def get_model(name, shape, classes, **options):
        net = Network(shape)
        net.add("conv1", L.Conv2d(6, 5, padding=2))
        net.add("global", L.GlobalAvgPool())
        net.add("fc", L.Linear(classes))
        return net

    monkeypatch.setattr(setup, "get_model", get_model)
    message = refused(saved, alone, "it lacks conv1.bias")
    assert re.search(r"it has .*conv2.weight.*, \.\.\. \(10 tensors\), which this run lacks", message)
    assert "conv1.weight is F64 [3, 3, 2, 6] there and F64 [5, 5, 2, 6] here" in message


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"model": "lenet"}, "--model normalised -> lenet"),
        ({"batch": 9}, "--batch 13 -> 9"),
        ({"seed": 3}, "--seed 0 -> 3"),
        ({"samples": 40}, "--samples 34 -> 40"),
        ({"dtype": "float32"}, "--dtype float64 -> float32"),
        ({"optimizer": "adamw", "nesterov": False}, "--optimizer sgd -> adamw"),
        ({"momentum": 0.5}, "--momentum 0.9 -> 0.5"),
        ({"drop_last": True}, "--drop-last False -> True"),
        ({"accumulate": 2}, "--accumulate 1 -> 2"),
    ],
)
def test_options_that_would_make_another_run_are_refused(saved, alone, changes, text):
    assert "with other options: " in refused(saved, alone, re.escape(text), **changes)


def test_options_that_change_the_rest_of_the_run_are_told(saved, alone):
    config = RUNS["normalised"].replaced(checkpoint=str(saved), resume=True, lr=0.01, epochs=3, schedule="cosine")
    told = trained(config, alone)
    assert any("changed since then: --epochs 4 -> 3, --lr 0.05 -> 0.01" in note for note in told.notes)
    assert list(told.losses) == [7, 8, 9]


def test_every_option_is_free_adjustable_or_fixed():
    """What a section says of most of its options, and what an option says of itself; what divides is free."""
    assert all(option.resume in (FREE, ADJUSTABLE, FIXED) for option in RUN_OPTIONS.values())
    assert all(option.resume == FREE for option in RUN_OPTIONS.values() if option.panel in ("Grid", "Checkpoints"))
    assert {name for name, option in RUN_OPTIONS.items() if option.panel == "Machine" and option.resume == FIXED} == {
        "dtype",
        "seed",
    }


def test_a_directory_of_an_earlier_run_is_not_overwritten(saved, alone):
    with pytest.raises(UserError, match=f"--checkpoint {saved} holds {files_of(6)[0]} of an earlier run: --resume"):
        trained(RUNS["normalised"].replaced(checkpoint=str(saved)), alone)


def test_a_directory_that_cannot_be_made(tmp_path, alone):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--checkpoint .*/file/there cannot be written: Not a directory"):
        trained(MLP.replaced(checkpoint=str(tmp_path / "file" / "there")), alone)


@pytest.mark.parametrize("option", [{"resume": True}, {"keep": 2}, {"save_every": 3}])
def test_options_that_need_a_directory(option):
    with pytest.raises(UserError, match=r"needs the directory of the checkpoints: --checkpoint DIR"):
        RunConfig.of(**option).validate()


@pytest.mark.parametrize("option", [{"keep": 0}, {"save_every": 0}])
def test_numbers_below_one(option):
    with pytest.raises(UserError, match=r"0: must be a whole number of at least 1"):
        RunConfig.of(checkpoint="there", **option).validate()


def test_a_damaged_file_is_told_once_by_the_command(saved):
    newest = saved / files_of(6)[0]
    newest.write_bytes(newest.read_bytes()[:-100])
    done = gridnn(3, "train", "--checkpoint", str(saved), "--resume", "--quiet")
    assert (done.returncode, done.stderr.count("gridnn: ")) == (2, 1)
    assert f"gridnn: checkpoint {newest} is truncated" in done.stderr


# -- failures while writing ----------------------------------------------------------------------------------


@pytest.mark.mpi
def test_what_cannot_be_written_whole_is_no_checkpoint(comm, monkeypatch):
    """A rank whose part never reaches the file, though MPI reports success: found by reading it back."""
    from gridnn.comm.files import SharedFile

    write = SharedFile.write
    with folder(comm) as directory:
        config = RUNS["normalised"].replaced(checkpoint=str(directory), steps=3)
        trained(config, comm)

        def lost(self, region, part):
            write(self, region, None if region.shape == (3, 3, 6, 7) else part)

        monkeypatch.setattr(SharedFile, "write", lost)
        with pytest.raises(UserError, match="cannot be written: what was read back is not what was written"):
            trained(config.replaced(steps=4, resume=True), comm)
        comm.Barrier()
        assert names(directory) == files_of(3)
        read_header(str(directory / files_of(3)[0]))


def test_a_disk_that_is_too_small_is_found_before_anything_is_written(tmp_path, alone, monkeypatch):
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    config = RUNS["normalised"].replaced(checkpoint=str(tmp_path), steps=3)
    trained(config, alone)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"step-00000004.safetensors.* bytes cannot be written: File too large"):
            trained(config.replaced(steps=4, resume=True), alone)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert names(tmp_path) == files_of(3)


def test_checkpoints_leave_no_memory_behind():
    """Open MPI keeps some of every collective read: 40 saves with such would leave 0.5 MB on rank 0."""
    done = mpirun(3, sys.executable, HELPERS / "saving_memory.py", "40", timeout=90)
    assert done.returncode == 0, done.stderr
    assert max(map(int, done.stdout.split())) < 300_000, done.stdout
