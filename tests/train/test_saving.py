"""What is certain is saved before what can fail, a directory belongs to one run, a failed save is tried again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest
from launch import ROOT, clean_environment
from running import MLP, trained

from gridnn.errors import UserError
from gridnn.train import trainer
from gridnn.train.checkpoints import Checkpoints
from gridnn.train.lock import Lock
from gridnn.train.session import Session

OWNER = """
import sys, time
from gridnn.train.lock import Lock
lock = Lock(sys.argv[1])
print(1, flush=True)
time.sleep(60)
"""


@pytest.fixture
def alone():
    from mpi4py import MPI

    return MPI.COMM_SELF


@pytest.fixture
def config(tmp_path):
    return MLP.replaced(checkpoint=str(tmp_path), epochs=2)


def names(path):
    return sorted(file.name for file in path.iterdir())


def test_an_epoch_is_saved_before_its_evaluation(tmp_path, config, alone, monkeypatch):
    def evaluate(self, data):
        raise UserError("sample 15 cannot be read")

    with monkeypatch.context() as patched:
        patched.setattr(Session, "evaluate", evaluate)
        with pytest.raises(UserError, match="sample 15"):
            trained(config, alone)
    assert names(tmp_path) == ["step-00000003.safetensors"]
    told = trained(config.replaced(resume=True), alone)
    assert list(told.losses) == [4, 5, 6] and list(told.epochs) == [1, 2]


def failing(monkeypatch, times: int):
    """The next ``times`` checkpoints cannot be written."""
    save, left = Checkpoints.save, [times]

    def fails(self, progress):
        left[0] -= 1
        if left[0] >= 0:
            raise UserError("checkpoint step-00000003.safetensors cannot be written: Stale file handle")
        return save(self, progress)

    monkeypatch.setattr(Checkpoints, "save", fails)
    monkeypatch.setattr(trainer, "PAUSE", 0.0)


def test_a_checkpoint_that_cannot_be_written_is_tried_again(tmp_path, config, alone, monkeypatch):
    failing(monkeypatch, 2)
    told = trained(config, alone)
    assert not told.notes and "step-00000003.safetensors" in told.paths


def test_one_that_fails_for_good_is_told_and_the_run_goes_on(tmp_path, config, alone, monkeypatch):
    failing(monkeypatch, trainer.TRIES)
    told = trained(config, alone)
    (note,) = told.notes
    assert note.endswith("Stale file handle (tried 3 times); the run goes on without this checkpoint")
    assert names(tmp_path) == ["step-00000006.safetensors"]


def test_a_run_that_can_save_nothing_ends(tmp_path, config, alone, monkeypatch):
    failing(monkeypatch, 10**6)
    with pytest.raises(UserError, match="Stale file handle"):
        trained(config.replaced(epochs=9), alone)
    assert not list(tmp_path.glob("*.safetensors")) and not (tmp_path / "run.lock").exists()


def test_a_directory_belongs_to_one_run(tmp_path, config, alone):
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)],
        env=clean_environment(SLURM_JOB_ID="4711"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout.readline()
        with pytest.raises(UserError, match=rf"a run that goes on, process {other.pid} of job 4711 on .*, begun 20"):
            trained(config.replaced(resume=True), alone)
        other.send_signal(signal.SIGKILL)
    told = trained(config, alone)
    assert told.notes[0] == f"{tmp_path} was left by process {other.pid} " + told.notes[0].partition(f"{other.pid} ")[2]
    assert told.notes[0].endswith(", which does not run now")
    assert "run.lock" not in names(tmp_path)


def test_what_killed_runs_left_is_tidied(tmp_path, config, alone):
    partial = "step-00000002.safetensors.partial"
    for name in ("probe-abc_1234", partial, f"{partial}-924516353-14735.lock", "probe-of-mine.txt"):
        (tmp_path / name).touch()
    trained(config, alone)
    assert names(tmp_path) == ["probe-of-mine.txt", "step-00000003.safetensors", "step-00000006.safetensors"]


def test_a_lock_is_told_in_one_line(tmp_path):
    content = {"host": "node\n\x1b[2J" + 1000 * "x", "process": [1], "began": None}
    (tmp_path / "run.lock").write_text(json.dumps(content))
    lock = Lock(str(tmp_path))
    assert lock.left.startswith(r"process [1] on node\n\x1b[2Jxxx") and lock.left.isprintable() and len(lock.left) < 200
    lock.release()


@pytest.mark.parametrize("content", [b"", b"[]", b"\x00\xff", b'{"host": 1}', b"[" * 4000])
def test_a_lock_may_hold_anything(tmp_path, content):
    (tmp_path / "run.lock").write_bytes(content)
    lock = Lock(str(tmp_path))
    assert lock.left == ("an unknown process" if content else "")
    assert {"host", "process", "began"} <= set(json.loads((tmp_path / "run.lock").read_text()))
    lock.release()
    lock.release()
    assert names(tmp_path) == []


def test_a_lock_where_the_file_system_has_none(tmp_path, monkeypatch):
    def flock(*args):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", flock)
    first = Lock(str(tmp_path))
    with pytest.raises(UserError, match=r"cannot tell whether that run goes on: if it does not, remove .*run\.lock"):
        Lock(str(tmp_path))
    first.release()
    Lock(str(tmp_path)).release()
