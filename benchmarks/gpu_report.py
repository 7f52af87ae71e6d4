"""What `gpu.py` measured, as tables on the terminal, as JSON, and as a page of docs/results."""

from __future__ import annotations

import argparse
import json
import platform
import re
import statistics
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gpu_turns import Worker

ROOT = Path(__file__).resolve().parent.parent
HOW = """Every contender is a process of its own; all contenders of a table take turns with the same batch, each after
four steps that do not count, and who begins changes from round to round. Times are between events of the GPU, the loss
is read after every step, the samples are on the GPU already (gridnn copies them into its input at every step). Medians
over the rounds, with the least and the most. PyTorch keeps weights, gradients and SGD in float32 and computes by
autocast, as gridnn does; it is channels-last, with cudnn.benchmark and fused SGD. The share is that of the peak: the
operations of the products of a step (three times those of forward, less the gradient of the samples) a second, by those
of a large square product of cuBLAS in the same type here. Kinds of kernels are measured in steps of their own with an
event before and after every kernel, so that launching shows in small kernels; "rest" is what lies between them."""


def facts(cases: dict[str, Any], common: dict[str, Any]) -> dict[str, str]:
    """What all figures depend on; `Refused` where there is no GPU."""
    model, case = next(iter(cases.items()))
    run = {"model": model, "dataset": "synthetic", "backend": "cupy", "grid": "1x1", **case, "batch": 1, "samples": 2}
    worker = Worker("gpu_gridnn.py", {**common, "warm": 1, "config": run})
    try:
        worker.ready()
        found = worker.ask("facts")
    finally:
        worker.end()
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    said = Path("/proc/driver/nvidia/version")
    return {
        "GPU": found["gpu"],
        "CUDA": found["cuda"],
        "driver": said.read_text().splitlines()[0] if said.exists() else "unknown",
        "MPI": _mpi(),
        "packages": ", ".join(
            f"{name} {installed(name)}" for name in ("numpy", "nvmath-python", "nvidia-cudnn-frontend")
        ),
        "Python": platform.python_version(),
        "commit": commit or "unknown",
        "date": time.strftime("%Y-%m-%d"),
    }


def _mpi() -> str:
    import mpi4py

    mpi4py.rc.initialize = False
    from mpi4py import MPI

    return MPI.Get_library_version().splitlines()[0].strip("\0")


def installed(name: str) -> str:
    """The version of a distribution."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


# -- tables --------------------------------------------------------------------------------------------------------


def rows(part: dict[str, Any]) -> tuple[str, list[list[str]]]:
    """Title and cells of one table, the names of its columns first."""
    return several(part) if "ranks" in part else one(part)


def one(part: dict[str, Any]) -> tuple[str, list[list[str]]]:
    """One rank: a contender a row."""
    config = part["config"]
    samples = config["batch"] * part["steps"]
    cells = [["", "samples/s", "least to most", "share of peak", "memory GiB", "milliseconds by kind"]]
    for name, row in part["rows"].items():
        if "refused" in row:
            cells.append([name, "left out", row["refused"], "", "", ""])
        elif row["seconds"] and "facts" in row:
            share = kinds = ""
            if "peak" in row:
                done = row["facts"]["flops"] * part["steps"] / statistics.median(row["seconds"])
                share = f"{100 * done / row['peak']['flops']:.0f} % of {row['peak']['flops'] / 1e12:.3g} TFLOP/s"
                kinds = ", ".join(f"{kind} {1e3 * value:.2f}" for kind, value in by_size(row["kinds"]))
            memory = f"{row['facts']['peak bytes'] / 2**30:.2f}"
            cells.append([name, *speed(samples, row["seconds"]), share, memory, kinds])
    return f"{config['model']}, {config['dtype']}{' (TF32)' * config['tf32']}, batch {config['batch']}", cells


def several(part: dict[str, Any]) -> tuple[str, list[list[str]]]:
    """Several ranks: a kind of movement a row."""
    config = part["config"]
    title = (
        f"{config['model']}, batch {config['batch']}, {part['ranks']} ranks as {config['grid']}, {config['transport']}"
    )
    if "refused" in part:
        return title, [["left out"], [part["refused"]]]
    count = part["rounds"] * part["steps"]
    middle, spread = speed(config["batch"] * part["steps"], part["seconds"])
    cells = [["", "calls a step", "MB a step", "ms a step"], ["samples/s", middle, spread, ""]]
    for name, row in part["moved"]["rows"].items():
        each = [
            f"{row['calls'] / count:.1f}",
            f"{row['bytes'] / count / 1e6:.3f}",
            f"{1e3 * row['seconds'] / count:.3f}",
        ]
        cells.append([name, *each])
    copied = part["moved"]["copied to host"]
    return title, [*cells, ["copied to the host", "", f"{copied / count / 1e6:.3f}" if copied else "0", ""]]


def speed(samples: int, seconds: list[float]) -> tuple[str, str]:
    """The median of samples a second, and its spread."""
    rates = sorted(samples / value for value in seconds)
    return f"{statistics.median(rates):.1f}", f"{rates[0]:.1f} to {rates[-1]:.1f}"


def by_size(seconds: dict[str, float]) -> list[tuple[str, float]]:
    """The largest first."""
    return sorted(seconds.items(), key=lambda item: -item[1])


def show(part: dict[str, Any]) -> None:
    """One table on the terminal."""
    from rich.console import Console
    from rich.table import Table

    title, (head, *cells) = rows(part)
    table = Table(*head, title=title)
    for row in cells:
        table.add_row(*row)
    Console(width=None if Console().is_terminal else 160).print(table)


def page(measured: dict[str, Any], command: str) -> str:
    """The page of docs/results."""
    lines = [f"# Training on {measured['facts']['GPU']}", "", f"`{command}`", "", HOW, ""]
    lines += [f"- {name}: {value}" for name, value in measured["facts"].items()]
    for part in (*measured["one rank"], *measured["ranks"]):
        title, (head, *cells) = rows(part)
        lines += ["", f"## {title}", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
        lines += [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join(lines) + "\n"


def keep(measured: dict[str, Any], options: argparse.Namespace) -> None:
    """Write what was asked for."""
    text = json.dumps(measured, indent=1) + "\n"
    if options.json:
        Path(options.json).write_text(text)
    if options.keep:
        device = re.sub("[^a-z0-9]+", "-", measured["facts"]["GPU"].lower()).strip("-")
        path = ROOT / "docs/results" / f"gpu-{device}.md"
        path.write_text(page(measured, 'make bench-gpu BENCH="--keep"'))
        path.with_suffix(".json").write_text(text)
        print(f"written: {path} and .json")
