"""The tests of what runs on a GPU, with every number of ranks and by every transport that works here.

    python scripts/gpu_suite.py                     the wheel of CuPy that the driver needs: 12 or 13
    python scripts/gpu_suite.py run [--backend standin] [--ranks 1,2,4] [--files gpu,layers] [--tests="-k name"]

`make test-gpu` calls both. Exit status: 0 all passed, 1 something failed, 2 there is no GPU, which is said in one line.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STANDIN = ROOT / "tests" / "helpers" / "standin"
TRANSPORTS = ("host", "cuda-aware", "nccl")
SECONDS = 1500  # for one run of pytest: every kernel is compiled once

# What computes and moves arrays, and the training on it.
FILES = (
    "gpu", "cublas", "cuda_rows", "cuda_windows", "cupy_backend", "cupy_training", "layers", "conv", "transposed",
    "norms", "pooling", "resample", "activations", "precision", "optimizers", "fusion", "networks", "gridshape",
    "transfer", "domain", "divided_layers", "splitbrain", "training",
)  # fmt: skip


def main() -> int:
    """Say which wheel is needed, or run the tests."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("do", nargs="?", choices=("wheel", "run"), default="wheel")
    parser.add_argument("--backend", choices=("cupy", "standin"), default="cupy")
    parser.add_argument("--ranks", default="1,2,4", help="numbers of ranks")
    parser.add_argument("--transports", default=",".join(TRANSPORTS), help="which of them")
    parser.add_argument("--files", default=",".join(FILES), help="which files of tests, without test_")
    parser.add_argument("--tests", default=os.environ.get("TESTS", ""), help="for pytest; else the variable TESTS")
    options = parser.parse_args()
    from gridnn.errors import UserError

    try:
        return wheel() if options.do == "wheel" else run(options)
    except UserError as error:
        print(f"gridnn: {error}", file=sys.stderr)
        return 2


def wheel() -> int:
    """Print the major version of CUDA whose wheels this node's driver runs."""
    from gridnn.kernels.cuda.setup import OLDEST, driver_version, require_driver

    version = driver_version()
    require_driver(version)
    print(min(13, max(OLDEST, version // 1000)))
    return 0


def run(options: argparse.Namespace) -> int:
    """All runs of pytest, one after the other; a failure does not keep the next from being made."""
    names = {f"test_{name}.py" for name in options.files.split(",")}
    files = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "tests").rglob("test_*.py")) if path.name in names]
    common = ["-q", "--color=no", "-p", "no:cacheprovider", "--backend", options.backend, *shlex.split(options.tests)]
    pytest = [sys.executable, "-m", "pytest", *common]
    gpus, library = look(options.backend)
    done = [("one process", started([*pytest, "-m", "not mpi", *files]))]
    for ranks in map(int, options.ranks.split(",")):
        for transport in options.transports.split(","):
            name = f"{ranks} ranks, {transport}"
            why = why_not(transport, ranks, gpus, library)
            if why:
                done.append((name, f"left out: {why}"))
                continue
            under = [*mpirun(), "-n", str(ranks), *pytest, "--with-mpi", "-m", "mpi", "--transport", transport]
            done.append((name, started([*under, *files])))
    width = max(len(name) for name, _ in done)
    print("\n".join(f"{name:{width}}  {result}" for name, result in done))
    return int(any("failed" in result for _, result in done))


def look(backend: str) -> tuple[int, str]:
    """The number of GPUs, and the MPI library's name; refused where a run would be."""
    import mpi4py

    from gridnn.comm.launcher import short_version
    from gridnn.kernels import get_backend

    if backend == "standin":
        sys.path.insert(0, str(STANDIN))
        os.environ["PYTHONPATH"] = str(STANDIN)  # of what the test of CUDA-aware MPI starts
    # its arrays, and its context on the GPU, are those of this process: they stay small
    gpus = get_backend("cupy").xp.cuda.runtime.getDeviceCount()
    mpi4py.rc.initialize = False
    from mpi4py import MPI

    return gpus, short_version(MPI.Get_library_version())


def why_not(transport: str, ranks: int, gpus: int, library: str) -> str:
    """Why a transport cannot be used here; "" if it can."""
    if ranks == 1:
        return "" if transport == "host" else "one rank moves nothing"
    if transport == "nccl" and ranks > gpus:
        return f"NCCL wants a GPU for each rank, and the number of GPUs is {gpus}"
    if transport == "cuda-aware":
        from gridnn.comm.transports.probe import probe

        verdict = probe(library)
        return "" if verdict.passed else verdict.text
    return ""


def mpirun() -> list[str]:
    """The mpirun of the variable MPIRUN, as in the other tests."""
    return shlex.split(os.environ.get("MPIRUN") or str(Path(sys.executable).parent / "mpirun"))


def started(command: list[str]) -> str:
    """Run pytest, its output shown; how it ended."""
    print(f"$ {shlex.join(command)}", flush=True)
    try:
        status = subprocess.run(command, cwd=ROOT, timeout=SECONDS, check=False).returncode
    except subprocess.TimeoutExpired:
        return f"failed: no end within {SECONDS} s"
    return {0: "passed", 5: "no test"}.get(status, f"failed: exit status {status}")


if __name__ == "__main__":
    sys.exit(main())
