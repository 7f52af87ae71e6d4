"""Local kernels beside PyTorch: same machine, one thread, float32, forward and both gradients, in one interleaved run.

    python benchmarks/kernels.py [--kernels NAME] [--rounds N] [--json FILE]

Times are CPU seconds of the process, so that what else runs on the machine counts as little as possible. Everything is
run with OPENBLAS_CORETYPE as it is and, where it is set, without it, each in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from cases import Case, makers

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
AIMS = {"GEMM": 1.25, "memory": 1.5}  # times PyTorch's
MEMORY_AIM = 1.1  # times the operands


def main() -> None:
    """Times everything in child processes and shows it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kernels", default="auto", help="auto (the default), reference, numba or onednn")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, of which the medians are shown")
    parser.add_argument("--json", metavar="FILE", help="write all times there")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options.kernels, options.rounds)))
        return
    pinned = os.environ.get("OPENBLAS_CORETYPE")
    results = []
    for setting in [pinned] if pinned is None else [pinned, None]:
        results.append(run_child(setting, options))
        show(results[-1])
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1) + "\n")


def run_child(setting: str | None, options: argparse.Namespace) -> dict[str, Any]:
    """The results of one process with OPENBLAS_CORETYPE ``setting``."""
    env = {**os.environ, **dict.fromkeys(THREADS, "1")}
    env.pop("OPENBLAS_CORETYPE", None)
    if setting is not None:
        env["OPENBLAS_CORETYPE"] = setting
    command = [sys.executable, __file__, "--child", "--kernels", options.kernels, "--rounds", str(options.rounds)]
    said = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True).stdout
    return {"OPENBLAS_CORETYPE": setting, **json.loads(said)}


# -- in the child ----------------------------------------------------------------------------------------------


def measure(kernels: str, rounds: int) -> dict[str, Any]:
    """All cases, one after the other; within a case PyTorch and gridnn take turns."""
    import torch

    from gridnn.kernels import get_backend

    torch.set_num_threads(1)
    backend = get_backend("numpy", kernels)
    rows = []
    for name, make in makers(backend).items():
        case = make()
        rows.append({"name": name, "bound": case.bound, "memory": case.memory, "seconds": time_rounds(case, rounds)})
    return {"facts": facts(backend), "rounds": rounds, "cases": rows}


def time_rounds(case: Case, rounds: int) -> dict[str, list[float]]:
    """CPU seconds of every round, after one that does not count; who begins changes from round to round."""
    calls = {"gridnn": case.gridnn, **{f"torch {layout}": call for layout, call in case.torch.items()}}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    for number in range(rounds + 1):
        for name in order:
            start = time.process_time()
            calls[name]()
            if number:
                seconds[name].append(time.process_time() - start)
        order.append(order.pop(0))
    return seconds


def facts(backend) -> dict[str, str]:
    """What the figures depend on."""
    import torch

    from gridnn.comm.threads import libraries

    model = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "kernels": backend.kernels.described("float32"),
        "BLAS": "; ".join(map(str, libraries())),
        "PyTorch": f"{torch.__version__}, {torch.backends.cpu.get_cpu_capability()}",
        "CPU": f"{model.group(1) if model else platform.machine()}, {os.cpu_count()} hardware threads, 1 used",
        "Python": platform.python_version(),
        "commit": commit or "unknown",
    }


# -- tables ----------------------------------------------------------------------------------------------------


def show(result: dict[str, Any]) -> None:
    """One table: milliseconds, the ratio with its quartiles, and what is aimed at."""
    from rich.console import Console
    from rich.table import Table

    out = Console(width=None if sys.stdout.isatty() else 140)
    setting = result["OPENBLAS_CORETYPE"]
    out.print(f"OPENBLAS_CORETYPE {'not set' if setting is None else setting}", markup=False)
    for name, value in result["facts"].items():
        out.print(f"{name}: {value}", markup=False, soft_wrap=True)
    table = Table(
        "forward + gradients", "gridnn ms", "PyTorch ms", "layout", "ratio", "quartiles", "aim", "peak memory"
    )
    missed = []
    for row in result["cases"]:
        ratio, low, high, layout = ratios(row["seconds"])
        medians = {name: 1e3 * statistics.median(values) for name, values in row["seconds"].items()}
        memory, aim = row["memory"], AIMS[row["bound"]]
        shown = "" if memory is None else f"{memory:.2f} x operands"
        cells = (f"{medians['gridnn']:.1f}", f"{medians[layout]:.1f}", layout.removeprefix("torch "))
        table.add_row(row["name"], *cells, f"{ratio:.2f}", f"{low:.2f} to {high:.2f}", f"{aim:.2f}", shown)
        if ratio > aim:
            missed.append(f"{row['name']}: {ratio:.2f} times PyTorch's time, aim {aim:.2f}")
        if memory and memory > MEMORY_AIM:
            missed.append(f"{row['name']}: {memory:.2f} times its operands' memory, aim {MEMORY_AIM:.2f}")
    out.print(table)
    out.print("\n".join(f"missed: {text}" for text in missed) or "all aims are met", markup=False)


def ratios(seconds: dict[str, list[float]]) -> tuple[float, float, float, str]:
    """Median and quartiles over the rounds of gridnn's time by that of PyTorch's better layout, and which that is."""
    layout = min((name for name in seconds if name != "gridnn"), key=lambda name: statistics.median(seconds[name]))
    quotients = [mine / theirs for mine, theirs in zip(seconds["gridnn"], seconds[layout], strict=True)]
    low, middle, high = statistics.quantiles(quotients, n=4)
    return middle, low, high, layout


if __name__ == "__main__":
    main()
