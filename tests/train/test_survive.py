"""Deaths of ranks under ULFM: the run goes on, with the curve of the serial one."""

from __future__ import annotations

import functools
import json
import re
import sys

import numpy as np
import pytest
from launch import HELPERS, ROOT, clean_environment, gridnn, mpirun_command, run

from gridnn.comm.survivors import refuse_without_ulfm
from gridnn.errors import UserError

NETWORK = "--model mlp --widths 23,17,9 --dataset synthetic --shape 5x5x3 --samples 34 --batch 13 --epochs 4"
RUN = [
    *("train", *NETWORK.split(), "--dtype", "float64", "--optimizer", "adamw", "--lr", "3e-3"),
    *("--kernels", "reference"),
]
STEPS = 12  # of the run, three an epoch

# ranks, options, deaths, and what is told of each
CASES = {
    "rank 0": (4, "--grid 2x2", "0:step:6", ["rank 0 .* died: from the copy of step 5; goes on with 3 ranks"]),
    "a part that one rank has": (3, "--grid 3x1", "1:step:8", ["rank 1 .* died: from the copy of step 7"]),
    "two at once": (4, "--grid 2x2", "1:step:6,2:step:6", ["rank 1 .*, rank 2 .* died: from .*; goes on with 2 ranks"]),
    "two in a row": (4, "--grid 4x1", "1:step:4,3:step:7", ["goes on with 3 ranks", "goes on with 2 ranks"]),
    "down to one": (3, "--grid 1x3", "2:step:3,0:step:5", ["goes on with 2 ranks", "goes on with 1 ranks as 1x1"]),
    "both holders, from a checkpoint": (
        *(4, "--grid 4x1 --save-every 2 --checkpoint {path}", "1:step:6,2:step:6"),
        ["rank 1 .*, rank 2 .* died: resumed from .*step-00000004.safetensors: 4 steps, written by 4 ranks; goes on"],
    ),
    "both holders, no checkpoint": (
        *(4, "--grid 4x1", "1:step:6,2:step:6"),
        ["no copy is whole and there is no checkpoint, so the run begins again; goes on with 2 ranks"],
    ),
    "planning": (3, "--grid 3x1", "2:planning:1", ["rank 2 .* died: no copy is whole .*, so the run begins again"]),
    "planning again": (4, "--grid 4x1", "0:step:5,3:planning:2", ["goes on with 2 ranks"]),
    "copying": (3, "--grid 3x1", "1:copying:4", ["rank 1 .* died: from the copy of step 2"]),
    "agreeing on a copy": (3, "--grid 3x1", "1:agreeing:4", ["rank 1 .* died: from the copy of step 1"]),
    "saving": (
        *(3, "--grid 3x1 --save-every 1 --checkpoint {path}", "1:saving:30"),
        ["rank 1 .* died: from the copy of step 1; goes on with 2 ranks"],
    ),
    "rank 0, which has the lock of the checkpoints": (
        *(3, "--grid 3x1 --save-every 3 --checkpoint {path}", "0:step:8"),
        ["rank 0 .* died: from the copy of step 7; goes on with 2 ranks"],
    ),
    "a checkpoint newer than the copy": (
        *(3, "--grid 3x1 --save-every 1 --copy-every 100 --checkpoint {path}", "0:step:8"),
        ["rank 0 .* died: resumed from .*step-00000007.safetensors: 7 steps, written by 3 ranks; goes on with 2"],
    ),
    "a grid that was still to come": (
        *(3, "--grid 3x1 --regrid 5:1x3,10:3x1", "2:step:7"),
        [
            "after step 5 from grid 3x1 to grid 1x3",
            "goes on with 2 ranks as .*, without --regrid 10:3x1, which is for 3",
        ],
    ),
    "evaluating": (3, "--grid 1x3", "0:evaluating:2", ["rank 0 .* died: from the copy of step 6"]),
    "mending": (4, "--grid 4x1", "1:step:5,3:mending:1", ["rank 1 .*, rank 3 .* died: from the copy of step 4"]),
    "restoring": (4, "--grid 4x1", "1:step:5,3:restoring:1", ["goes on with 2 ranks"]),
    "leaving": (3, "--grid 3x1", "2:leaving:1", ["rank 2 .* died: from the copy of step 12"]),
}


@functools.cache
def serial() -> dict[int, float]:
    done = gridnn(1, *RUN, "--quiet", "--log", "/dev/stdout")
    assert done.returncode == 0, done.stderr
    return losses(done.stdout)


def losses(log: str) -> dict[int, float]:
    """The losses by step; of steps that were made twice those of the last time."""
    events = [json.loads(line) for line in log.splitlines()]
    return {event["step"]: event["loss"] for event in events if event["event"] == "step"}


def survived(ranks: int, deaths: str, log, *options: str, how: str = "shrink"):
    command = [*mpirun_command(), "--with-ft", "ulfm", "-n", str(ranks), sys.executable, str(HELPERS / "dying.py")]
    options = [*RUN, "--log", str(log), "--survive", how, *options]
    return run([*command, deaths, *options], 60, clean_environment())


def check(done, log, told) -> None:
    said = re.sub(r"\s+", " ", done.stdout)
    assert done.returncode == 0, done.stderr + done.stdout
    for text in told:
        assert re.search(text, said), done.stdout
    mine = losses(log.read_text())
    assert list(mine) == list(serial())
    np.testing.assert_allclose(list(mine.values()), list(serial().values()), rtol=1e-10)


@pytest.mark.parametrize("case", CASES)
def test_a_run_outlives_deaths(tmp_path, case):
    ranks, options, deaths, told = CASES[case]
    options = options.format(path=tmp_path / "saved").split()
    every = [] if "--copy-every" in options else ["--copy-every", "1"]
    done = survived(ranks, deaths, tmp_path / "log", *every, *options)
    check(done, tmp_path / "log", told)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("ranks", "grid", "deaths"), [(3, "3x1", "0:step:6"), (4, "2x2", "1:step:4,2:step:4")])
def test_new_ranks_in_the_place_of_dead_ones(tmp_path, ranks, grid, deaths):
    done = survived(ranks, deaths, tmp_path / "log", "--copy-every", "1", "--grid", grid, how="respawn")
    check(done, tmp_path / "log", [f"died: from the copy of step .; goes on with {ranks} ranks as {grid}"])


def test_a_run_that_was_not_to_be_resumed_is_refused_after_a_death_too(tmp_path):
    options = ["--checkpoint", str(tmp_path / "saved"), "--grid", "2x1"]
    assert gridnn(2, *RUN, *options, "--steps", "3", "--quiet").returncode == 0
    done = survived(3, "0:planning:1", tmp_path / "log", *options[:2], "--grid", "3x1")
    assert done.returncode == 2
    assert "of an earlier run: --resume continues it, or name another directory" in done.stderr


def test_the_last_one_is_heard(tmp_path):
    """Rank 2 of three is alone, and its mistake is told."""
    done = survived(3, "0:step:4,1:step:4", tmp_path / "log", "--copy-every", "1", "--grid", "1x3", "--lr", "1e300")
    assert done.returncode == 2
    assert re.search("gridnn: .*loss is .* at step", done.stderr), done.stderr


def test_copies_are_as_frequent_as_their_cost_allows(tmp_path):
    done = survived(2, "9:step:1", tmp_path / "log", "--grid", "2x1")
    check(done, tmp_path / "log", [r"a copy of the run every .*step.*: this rank sends [\d,]+ words in 24 mess"])


def test_where_ranks_do_not_survive_it_is_refused():
    done = gridnn(2, "train", "--survive")
    assert done.returncode == 2
    assert "--survive needs ranks that survive each other: start them with mpirun --with-ft ulfm" in done.stderr
    assert done.stderr.count("gridnn:") == 1
    with pytest.raises(UserError, match=r"survive each other \(ULFM\), but MPI here is MPICH 4.3"):
        refuse_without_ulfm("MPICH 4.3", {})
    done = gridnn(1, "train", "--copy-every", "2")
    assert done.stderr == "gridnn: --copy-every 2 is of --survive: add it, or leave this out\n"


@pytest.mark.parametrize("page", ["README.md", "docs/survive.md"])
def test_the_commands_of_the_page(page):
    lines = re.findall(
        r"^mpirun (.*) gridnn (train .*--(?:survive|regrid).*)$", (ROOT / page).read_text(), re.MULTILINE
    )
    assert len(lines) == 2
    for launching, command in lines:
        start = [*mpirun_command(), *launching.split(), sys.executable, "-m", "gridnn"]
        done = run([*start, *command.split(), "--epochs", "1", "--quiet"], 120, clean_environment())
        assert done.returncode == 0, done.stderr


def test_a_death_without_the_option_is_told(tmp_path):
    command = [*mpirun_command(), "--with-ft", "ulfm", "-n", "2", sys.executable, str(HELPERS / "dying.py")]
    done = run([*command, "1:step:3", *RUN, "--grid", "1x2"], 30, clean_environment())
    assert "a rank has died, or MPI failed (" in done.stderr  # what mpirun returns then is its own affair
    assert "Traceback" not in done.stderr
