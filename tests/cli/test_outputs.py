"""Files that commands write: what an earlier run wrote is kept until the first write, and no log ends a run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from launch import ROOT, clean_environment, run

from gridnn.errors import UserError
from gridnn.records import OutputFile
from gridnn.train.log import Log

MLP = ("train", "--model", "mlp", "--widths", "8", "--dataset", "synthetic", "--shape", "6", "--samples", "8")
TRAIN = (*MLP, "--batch", "4", "--epochs", "1", "--quiet")


def told(*args: str, **env: str):
    """The command on one process, whose paths are those of the project."""
    return run([sys.executable, "-m", "gridnn", *args], 60, clean_environment(PYTHONPATH=str(ROOT), **env))


def test_a_refused_command_empties_nothing(tmp_path):
    files = [tmp_path / name for name in ("log.jsonl", "trace.json", "plan.json", "price.json", "rows.csv")]
    for file in files:
        file.write_text("of an earlier run\n")
    log, trace, plan, price, rows = map(str, files)
    bad = ("--grid", "3x2")
    assert told(*TRAIN, *bad, "--log", log, "--resume", "--checkpoint", str(tmp_path / "ck")).returncode == 2
    assert told(*TRAIN, *bad, "--trace", trace).returncode == 2
    assert told("audit", *MLP[1:], *bad, "--json", price).returncode == 2
    assert (
        told("plan", *MLP[1:], *bad, "--ranks", "2", "-o", plan, "--json", price, "--sweep", "--csv", rows).returncode
        == 2
    )
    assert all(file.read_text() == "of an earlier run\n" for file in files)
    assert not (tmp_path / "ck").exists()


def test_a_log_of_an_earlier_run_is_kept(tmp_path):
    log = tmp_path / "log.jsonl"
    assert told(*TRAIN, "--log", str(log)).returncode == 0
    lines = log.read_text()
    done = told(*TRAIN, "--log", str(log))
    assert done.returncode == 2 and f"--log {log} holds {len(lines):,} bytes already" in done.stderr
    assert log.read_text() == lines


def test_a_file_that_is_only_tried_is_not_made(tmp_path):
    OutputFile("--log", tmp_path / "new.jsonl")
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match=r"--json .* cannot be written: Is a directory"):
        OutputFile("--json", tmp_path)


def test_a_log_goes_on_behind_a_torn_line(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"event": "step"}\n{"event": "st')
    log = Log(path, append=True)
    log.write("config", steps=3)
    log.close()
    assert path.read_text().splitlines()[1:] == ['{"event": "st', '{"event": "config", "steps": 3}']


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_ends_the_log_and_not_the_run(tmp_path):
    checkpoints = tmp_path / "ck"
    args = [word for word in TRAIN if word != "--quiet"]
    done = told(*args, "--checkpoint", str(checkpoints), "--log", "/dev/full", "--trace", "/dev/full")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("--log /dev/full cannot be written: No space left on device; the run goes on") == 2
    assert done.stdout.count("--trace /dev/full cannot be written: No space left on device") == 1
    assert list(checkpoints.glob("*.safetensors")) and "Traceback" not in done.stderr
    for command in ("audit", "profile"):
        done = told(command, *MLP[1:], "--batch", "4", "--json", "/dev/full")
        assert done.returncode == 2 and "--json /dev/full cannot be written: No space left on device" in done.stderr


@pytest.mark.parametrize("option", ["--checkpoint", "--log", "--trace", "--plan", "--dataset", "--machine", "--grid"])
def test_an_empty_text_is_no_option(option):
    done = told(*TRAIN, option, "")
    assert done.returncode == 2 and f"'{option}': it is empty" in done.stderr, done.stderr


def test_a_home_directory_is_meant_everywhere(tmp_path):
    (tmp_path / "plan.json").write_text(json.dumps({"version": 1, "splits": {}}))
    args = ("--checkpoint=~/ck", "--log=~/log.jsonl", "--plan=~/plan.json")
    done = told(*TRAIN, *args, HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "ck").is_dir() and (tmp_path / "log.jsonl").is_file() and not Path(ROOT, "~").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize(("command", "status"), [("models", 2), ("plan --ranks 2", 2), ("train", 0)])
def test_a_full_disk_for_what_is_shown(tmp_path, command, status):
    args = [word for word in TRAIN if word != "--quiet"] if command == "train" else command.split()
    with open("/dev/full", "w") as full:
        more = {"stdout": full, "stderr": subprocess.PIPE, "text": True, "timeout": 60, "check": False}
        done = subprocess.run([sys.executable, "-m", "gridnn", *args], env=clean_environment(), cwd=ROOT, **more)
    goes_on = "; the run goes on" if status == 0 else ""
    told = f"gridnn: standard output cannot be written: No space left on device{goes_on}\n"
    assert (done.returncode, done.stderr) == (status, told)
