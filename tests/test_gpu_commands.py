"""``make test-gpu`` and ``make bench-gpu``: refused without a GPU, and tried on the stand-in."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from backends import STANDIN
from launch import ROOT, clean_environment, mpirun_command, run

from gridnn.kernels.cuda.setup import driver_version
from gridnn.train.config import RunConfig

BENCHMARKS = ROOT / "benchmarks"
LIMIT = 100  # seconds of one command


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def make(*arguments: str):
    """Run make with the virtual environment that is there, as it is."""
    if shutil.which("make") is None:
        pytest.skip("needs make")
    env = Path(sys.executable).parent.parent
    stamp = f"{env}/.installed-as-it-is,dev"
    here = [f"VENV={env}", "EXTRAS=as-it-is", f"MPIRUN={shlex.join(mpirun_command())}"]
    return run(["make", "--no-print-directory", "-o", stamp, *here, *arguments], LIMIT, clean_environment())


@pytest.mark.parametrize("target", ["test-gpu", "bench-gpu"])
def test_no_gpu(target):
    """One line, before anything is installed."""
    if driver_version():
        pytest.skip("there is a driver")
    done = make("-s", target)
    said = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert done.returncode and not done.stdout
    assert len(said) == 1 and said[0].startswith("gridnn: --backend cupy: this node has no NVIDIA driver")


def test_all_runs_are_made_or_left_out_with_a_reason():
    options = ("BACKEND=standin", "RANKS=2", "TRANSPORTS=host,nccl", "FILES=gpu")
    done = make("test-gpu", *options, "TESTS=-k 'float64 or every_operation'")
    assert done.returncode == 0, done.stdout + done.stderr
    found = [tuple(re.split(r"\s{2,}", line)) for line in done.stdout.splitlines()[-3:]]
    assert found[:2] == [("one process", "passed"), ("2 ranks, host", "passed")]
    assert found[2] == ("2 ranks, nccl", "left out: NCCL wants a GPU for each rank, and the number of GPUs is 1")


def test_all_its_files_are_there():
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        from gpu_suite import FILES
    finally:
        sys.path.pop(0)
    assert [name for name in FILES if len(list((ROOT / "tests").rglob(f"test_{name}.py"))) != 1] == []


def test_the_benchmark_runs(tmp_path):
    """One network on one rank by gridnn alone, and on two ranks by one transport."""
    arguments = ["--tiny", "--no-torch", "--models", "mlp", "--dtypes", "float32", "--transports", "host"]
    more = ["--ranks", "2", "--rounds", "1", "--steps", "1", "--json", str(tmp_path / "found.json")]
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), *arguments, *more]
    done = run(command, LIMIT, clean_environment(PYTHONPATH=str(STANDIN), STANDIN_ORDER="eager"))
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert {"GPU", "CUDA", "driver", "MPI", "commit"} <= set(found["facts"])
    gemm = found["one rank"][0]["rows"]["gridnn, gemm"]
    assert gemm["seconds"][0] > 0 and gemm["peak"]["flops"] > 0 and {"gemm", "update", "rest"} <= set(gemm["kinds"])
    assert gemm["facts"]["flops"] == 3 * 2 * 8 * (48 * 16 + 16 * 16 + 16 * 10) - 2 * 8 * 48 * 16
    assert not any("refused" in part for part in found["ranks"]), found["ranks"]
    moved = [part["moved"] for part in found["ranks"]]
    assert all(part["copied to host"] > 0 and part["rows"] for part in moved)


def test_the_benchmark_of_pytorch():
    """The same step as gridnn's: the loss falls, with scaled losses, too."""
    torch = pytest.importorskip("torch")
    import gpu_torch
    from gpu import TINY

    for dtype in ("float32", "bfloat16"):
        request = {"config": {"model": "mlp", **TINY["mlp"], "dtype": dtype, "tf32": False}, "compile": False}
        step = gpu_torch.training(torch, request, "cpu")
        losses = [step() for _ in range(20)]
        assert losses[-1] < losses[0]
    torch.set_float32_matmul_precision("highest")


def test_options_and_kinds_are_those_of_gridnn():
    from gpu import CONTENDERS, DTYPES, MODELS, run_options
    from gpu_kinds import EXCEPTIONS, kinds

    found = kinds()
    assert set(EXCEPTIONS) <= set(found) and {"max_pool", "sgd", "dropout", "pack", "conv"} <= set(found)
    for model, case in MODELS.items():
        for dtype in DTYPES:
            types = {"dtype": dtype.split("+")[0], "tf32": dtype.endswith("+tf32")}
            for how in CONTENDERS.values():
                if isinstance(how, dict):
                    RunConfig.of(**run_options({"model": model, **case, **types}, how)).validate()


def test_a_batch_that_does_not_fit_is_halved(monkeypatch):
    import gpu
    from gpu_turns import Refused

    class Full:
        def __init__(self, how, config, common):
            self.batch = config["batch"]

        def ready(self):
            if self.batch > 16:
                raise Refused("this GPU is out of memory: ...")

        def ask(self, order):
            return {"seconds": 1.0}

        def end(self):
            pass

    monkeypatch.setattr(gpu, "started", Full)
    part = gpu.one_rank({"batch": 64}, {"gridnn, gemm": {}, "PyTorch": False}, {"steps": 3}, 2)
    assert part["config"]["batch"] == 16 and part["rows"]["PyTorch"]["seconds"] == [1.0, 1.0]


def test_the_page(tmp_path):
    from gpu_report import page

    row = {"seconds": [2.0, 1.0], "facts": {"flops": 1e12, "peak bytes": 2**30}, "kinds": {"gemm": 0.5, "rest": 1.0}}
    config = {"model": "mlp", "dtype": "float32", "tf32": True, "batch": 10, "grid": "1x2", "transport": "nccl"}
    one = {
        "config": config,
        "steps": 3,
        "rounds": 2,
        "rows": {"a": {**row, "peak": {"flops": 4e12}}, "b": {"refused": "no"}},
    }
    moved = {"rows": {"row all-reduce": {"calls": 12, "bytes": 6e6, "words": 1, "seconds": 0.6}}, "copied to host": 0}
    two = {"config": config, "steps": 3, "rounds": 2, "ranks": 2, "seconds": [1.0, 1.0], "moved": moved}
    text = page({"facts": {"GPU": "X 100"}, "one rank": [one], "ranks": [two, {**two, "refused": "shared"}]}, "make")
    assert "## mlp, float32 (TF32), batch 10\n" in text
    assert "| a | 22.5 | 15.0 to 30.0 | 50 % of 4 TFLOP/s | 1.00 | rest 1000.00, gemm 500.00 |" in text
    assert "| b | left out | no |" in text and "| shared |" in text
    assert "| row all-reduce | 2.0 | 1.000 | 100.000 |" in text and "| copied to the host |  | 0 |  |" in text


def test_the_stand_in_is_where_make_looks_for_it():
    assert f"$(CURDIR)/{STANDIN.relative_to(ROOT)})" in (ROOT / "Makefile").read_text()
