"""Training steps on one GPU beside PyTorch, where their time goes, and what transports cost between ranks on it.

    python benchmarks/gpu.py [--models NAME,...] [--dtypes NAME,...] [--ranks 2,4] [--rounds N] [--keep | --json FILE]

Every contender is a process of its own; all of one table are there together and take turns, so that the batch, which is
halved until they fit, is that of all. Times are between events of the GPU, on samples that are there already. Exit
status: 2 without a GPU, which is said in one line.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpu_report import facts, keep, show
from gpu_turns import MEMORY, Refused, Worker

ROOT = Path(__file__).resolve().parent.parent
IMAGE = {"shape": "224x224x3", "classes": 1000}
MODELS = {  # options of a run; the batch is the largest that is tried
    "alexnet-onetower": {**IMAGE, "batch": 256},
    "vgg16": {**IMAGE, "batch": 64},
    "resnet50": {**IMAGE, "batch": 64},
    "mlp": {"shape": "32x32x3", "classes": 10, "widths": "4096,4096,4096", "batch": 2048},
}
TINY = {
    "mlp": {"shape": "4x4x3", "classes": 10, "widths": "16,16", "batch": 8},
    "lenet": {"shape": "12x12x1", "classes": 10, "batch": 4},
}
DTYPES = ("float32", "float32+tf32", "bfloat16", "float16")
CONTENDERS = {  # options of gridnn, or None and whether PyTorch compiles
    "gridnn, gemm": {"conv": "gemm"},
    "gridnn, cudnn": {"conv": "cudnn"},
    "gridnn, auto, graphs": {"conv": "auto", "graphs": True},
    "PyTorch, eager": False,
    "PyTorch, compile": True,
}
TRANSPORTS = ("host", "cuda-aware", "nccl")


def main() -> int:
    """Measure, show, and keep what was asked for."""
    options = parsed()
    cases, shape = (TINY if options.tiny else MODELS), {"square": 64 if options.tiny else 8192, "warm": 4}
    common = {"tiny": options.tiny, "steps": options.steps, **shape}
    try:
        measured = {"facts": facts(cases, common), "one rank": [], "ranks": []}
    except Refused as refused:
        print(f"gridnn: {refused}", file=sys.stderr)
        return 2
    for model in options.models or cases:
        for dtype in options.dtypes:
            config = {"model": model, **cases[model], "dtype": dtype.split("+")[0], "tf32": dtype.endswith("+tf32")}
            contenders = {name: how for name, how in CONTENDERS.items() if options.torch or isinstance(how, dict)}
            measured["one rank"].append(one_rank(config, contenders, common, options.rounds))
            show(measured["one rank"][-1])
    model = next(iter(options.models or cases))
    for ranks in options.ranks:
        for transport in options.transports:
            for grid in (f"1x{ranks}", f"{ranks}x1"):
                config = {"model": model, **cases[model], "grid": grid, "transport": transport, "replicas": True}
                measured["ranks"].append(several_ranks(ranks, config, common, options.rounds))
                show(measured["ranks"][-1])
    keep(measured, options)
    return 0


def parsed() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=names, default=[], help=f"of {', '.join(MODELS)}; the first also on --ranks")
    parser.add_argument("--dtypes", type=names, default=list(DTYPES), help=f"of {', '.join(DTYPES)}")
    parser.add_argument("--ranks", type=lambda text: [int(part) for part in names(text)], default=[2, 4])
    parser.add_argument("--transports", type=names, default=list(TRANSPORTS), help=f"of {', '.join(TRANSPORTS)}")
    parser.add_argument("--rounds", type=int, default=7, help="turns of every contender, of which medians are shown")
    parser.add_argument("--steps", type=int, default=20, help="steps of a turn")
    parser.add_argument("--no-torch", dest="torch", action="store_false", help="without PyTorch")
    parser.add_argument("--tiny", action="store_true", help="small networks, to try this script; PyTorch on the CPU")
    parser.add_argument("--json", metavar="FILE", help="write everything there")
    parser.add_argument("--keep", action="store_true", help="write docs/results/gpu-DEVICE.md and .json")
    return parser.parse_args()


def names(text: str) -> list[str]:
    """The parts of a list with commas."""
    return [part for part in text.split(",") if part]


def run_options(config: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """The options of a run of gridnn on made-up samples."""
    run = {"backend": "cupy", "dataset": "synthetic", "samples": config["batch"], "lr": 1e-4, "grid": "1x1"}
    return {**run, **config, **more}


def one_rank(config: dict[str, Any], contenders: dict[str, Any], common: dict[str, Any], rounds: int) -> dict[str, Any]:
    """All contenders on one network and type, with the largest batch, of those halved, that all of them can have."""
    while True:
        workers = {name: started(how, config, common) for name, how in contenders.items()}
        try:
            rows, full = turns(workers, rounds)
        finally:
            for worker in workers.values():
                worker.end()
        if not full or config["batch"] == 1:
            return {"config": config, "rounds": rounds, "steps": common["steps"], "rows": rows}
        config = {**config, "batch": config["batch"] // 2}


def started(how: Any, config: dict[str, Any], common: dict[str, Any]) -> Worker:
    """The process of one contender."""
    if isinstance(how, dict):
        return Worker("gpu_gridnn.py", {**common, "config": run_options(config, how)})
    return Worker("gpu_torch.py", {**common, "config": config, "compile": how})


def turns(workers: dict[str, Worker], rounds: int) -> tuple[dict[str, Any], bool]:
    """What each contender measured, or why it did not, and whether memory was too small for one of them."""
    rows: dict[str, Any] = {name: {"seconds": []} for name in workers}
    alive = list(workers)
    for name, order in orders(alive, rounds):
        try:
            answer = workers[name].ask(order) if order else workers[name].ready()
        except Refused as refused:
            if MEMORY in str(refused).lower():
                return rows, True
            rows[name]["refused"] = str(refused)
            alive.remove(name)
            continue
        if order == "round":
            rows[name]["seconds"].append(answer["seconds"])
        elif order:
            rows[name][order] = answer
    return rows, False


def orders(alive: list[str], rounds: int) -> Iterator[tuple[str, str]]:
    """(Contender, order) one after the other, who begins changing from round to round; "" is for being ready."""
    yield from ((name, "") for name in list(alive))
    for number in range(rounds):
        first = number % max(1, len(alive))
        yield from ((name, "round") for name in alive[first:] + alive[:first])
    for name in list(alive):
        yield name, "facts"
        if name.startswith("gridnn") and "graphs" not in name:
            yield name, "kinds"
            yield name, "peak"


def several_ranks(ranks: int, config: dict[str, Any], common: dict[str, Any], rounds: int) -> dict[str, Any]:
    """One run by one transport: samples a second, what moved and how long it took, and bytes copied to the host."""
    launcher = shlex.split(os.environ.get("MPIRUN") or str(Path(sys.executable).parent / "mpirun"))
    request = {**common, "config": run_options(config, {})}
    worker = Worker("gpu_gridnn.py", request, (*launcher, "-n", str(ranks)))
    found: dict[str, Any] = {"ranks": ranks, "config": config, "rounds": rounds, "steps": common["steps"]}
    try:
        worker.ready()
        found["seconds"] = [worker.ask("round")["seconds"] for _ in range(rounds)]
        found.update(moved=worker.ask("moved"), facts=worker.ask("facts"))
    except Refused as refused:
        found["refused"] = str(refused)
    finally:
        worker.end()
    return found


if __name__ == "__main__":
    sys.exit(main())
