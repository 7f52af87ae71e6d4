"""The command line without a network: help, versions, misspelt words, and ``gridnn check``."""

from __future__ import annotations

import os
import sys

import pytest
from launch import clean_environment, gridnn, run

from gridnn.cli.check import OLDER_KERNELS, _cpu_problems, _mpirun_problems, cpu_flags
from gridnn.comm.threads import Blas


def command(*args: str, **env: str):
    return run([sys.executable, "-m", "gridnn", *args], 30, clean_environment(**env))


def test_help_starts_no_mpi():
    code = (
        "import sys; sys.argv = ['gridnn', 'train', '--help']\n"
        "from gridnn.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as end: print('status', end.code, 'mpi', 'mpi4py.MPI' in sys.modules)"
    )
    done = run([sys.executable, "-c", code], 30, clean_environment(COLUMNS="120"))
    assert "status 0 mpi False" in done.stdout, done.stderr
    for option in ("--model", "--grid", "--strategy", "--gather-backward", "--lr", "--log", "--quiet"):
        assert option in done.stdout


def test_help_lists_the_commands():
    done = command("--help")
    assert done.returncode == 0
    assert all(name in done.stdout for name in ("train", "audit", "check"))


def test_train_and_audit_share_their_options():
    train, audit = (command(name, "--help", COLUMNS="120").stdout for name in ("train", "audit"))
    assert "--gather-backward" in train
    assert "--gather-backward" in audit
    assert "--epochs" in train
    assert "--epochs" not in audit
    assert "--json" in audit


def test_version():
    done = command("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("gridnn")


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["trian"], "Did you mean 'train'?"),
        (["train", "--modle", "mlp"], "--model"),
        (["train", "--batch", "many"], "--batch"),
        (["train", "--batch"], "--batch"),
    ],
)
def test_usage_errors_have_status_2(args, text):
    done = command(*args)
    assert done.returncode == 2
    assert done.stderr.startswith("gridnn: ")
    assert text in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_usage_error_on_many_ranks_is_told_once():
    done = gridnn(3, "train", "--modle", "mlp")
    assert done.returncode == 2
    assert done.stderr.count("No such option: --modle") == 1


@pytest.mark.parametrize(("args", "text"), [(["--help"], "Commands"), (["--version"], "gridnn")])
def test_help_on_many_ranks_is_shown_once(args, text):
    done = gridnn(3, *args)
    assert done.returncode == 0
    assert done.stdout.count(text) == 1


def test_check_on_one_rank():
    done = command("check")
    assert done.returncode == 0, done.stderr
    for text in ("MPI library", "launcher", "none", "BLAS", "GFLOP/s", "GPUs", "CUDA-aware MPI", "threads per rank"):
        assert text in done.stdout


def test_check_on_more_ranks_than_cores_says_so():
    ranks = len(os.sched_getaffinity(0)) + 1
    done = gridnn(ranks, "check")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("MPI library") == 1
    assert f"{ranks} ranks x 1 threads" in done.stdout
    assert "\x1b" not in done.stdout  # Open MPI's ranks have a terminal of their own, but nobody watches it


def test_check_of_ranks_that_do_not_see_each_other_fails():
    done = command("check", SLURM_STEP_NUM_TASKS="4", SLURM_PROCID="0")
    assert done.returncode == 1
    assert "1. stops training: Slurm started 4 processes" in done.stdout
    done = command("check", SLURM_STEP_NUM_TASKS="4", SLURM_PROCID="3")
    assert (done.returncode, done.stdout) == (1, "")


def test_a_pinned_blas_is_named_with_its_variable():
    blas, flags = [Blas("openblas", "0.3.31", "pthreads", "Haswell", 1)], frozenset({"avx2", "avx512f"})
    (problem,) = _cpu_problems(blas, flags, {"OPENBLAS_CORETYPE": "Haswell"})
    assert "because OPENBLAS_CORETYPE=Haswell: unset OPENBLAS_CORETYPE" in problem.text
    assert not problem.stops
    assert _cpu_problems(blas, frozenset({"avx2"}), {}) == []
    assert _cpu_problems([Blas("openblas", "0.3.31", "pthreads", "SkylakeX", 1)], flags, {}) == []
    assert "haswell" in OLDER_KERNELS
    assert isinstance(cpu_flags(), frozenset)


@pytest.mark.parametrize(
    ("said", "library", "text"),
    [
        ("mpirun (Open MPI) 5.0.11", "MPICH", "is Open MPI's, but MPI is MPICH: use the mpirun of MPICH"),
        ("HYDRA build details:", "Open MPI", "is MPICH's, but MPI is Open MPI"),
        ("HYDRA build details:", "MPICH", None),
        (None, "MPICH", "no mpirun in PATH"),
    ],
)
def test_the_mpirun_in_the_path_must_belong_to_the_library(tmp_path, monkeypatch, said, library, text):
    if said:
        script = tmp_path / "mpirun"
        script.write_text(f"#!/bin/sh\necho '{said}'\n")
        script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    problems = _mpirun_problems(library, {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"})
    assert [text in problem.text for problem in problems] == ([True] if text else [])
