"""PyTorch's training steps of the same networks, made when it is told to: what `gpu.py` starts.

The policy is gridnn's: weights, their gradients and the optimizer in float32, products and activations in 16 bits by
autocast, and a scaled loss in float16; images are channels-last, cuDNN tries its algorithms out, SGD is fused.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

HALVES = ("float16", "bfloat16")


def main() -> None:
    """Serve the request that is the only argument."""
    request = json.loads(sys.argv[1])
    try:
        import torch
    except ImportError as error:
        say({"refused": f"PyTorch cannot be imported: {error}"})
        return
    if not torch.cuda.is_available() and not request["tiny"]:
        say({"refused": f"PyTorch {torch.__version__} finds no GPU (a build for CPUs?)"})
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        serve(torch, request, device)
    except torch.OutOfMemoryError:
        say({"refused": "PyTorch is out of memory"})


def serve(torch: Any, request: dict[str, Any], device: str) -> None:
    """Answer every order with one line."""
    step = training(torch, request, device)
    timed(torch, step, request["warm"], device)
    memory = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    taken = torch.cuda.memory_reserved() if device == "cuda" else 0
    facts = {"kernels": f"PyTorch {torch.__version__} on {device}", "peak bytes": memory, "taken bytes": taken}
    answers = {
        "facts": lambda: facts,
        "round": lambda: {"seconds": timed(torch, step, request["steps"], device)},
    }
    say({"ready": True})
    while (order := sys.stdin.readline().strip()) in answers:
        say(answers[order]())


def say(answer: dict[str, Any]) -> None:
    """One line for `gpu_turns.Worker`."""
    print(f"@{json.dumps(answer)}", flush=True)


def training(torch: Any, request: dict[str, Any], device: str) -> Callable[[], float]:
    """A step on samples that are on the device already; gives the loss."""
    from torch.nn.functional import cross_entropy

    torch.set_float32_matmul_precision("high" if request["config"]["tf32"] else "highest")
    torch.backends.cudnn.allow_tf32 = request["config"]["tf32"]
    torch.backends.cudnn.benchmark = True
    network, x, y = made(torch, request, device)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, fused=True)
    run = torch.compile(network) if request["compile"] else network
    dtype = request["config"]["dtype"]
    kind = getattr(torch, dtype) if dtype in HALVES else None
    scaler = torch.amp.GradScaler(device, enabled=dtype == "float16")

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, dtype=kind, enabled=kind is not None):
            loss = cross_entropy(run(x), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss.item()

    return step


def made(torch: Any, request: dict[str, Any], device: str) -> tuple[Any, Any, Any]:
    """The network, random samples, and their classes."""
    config = request["config"]
    *space, channels = map(int, config["shape"].split("x"))
    x, y = torch.randn(config["batch"], channels, *space), torch.arange(config["batch"]) % config["classes"]
    if config["model"] == "mlp":
        network = perceptron(torch, channels * space[0] * space[1], config)
    else:
        sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "helpers"))
        from torchmodels import make

        network = make(config["model"], config["classes"])
    last = torch.channels_last
    return network.to(device, memory_format=last).train(), x.to(device, memory_format=last), y.to(device)


def perceptron(torch: Any, inputs: int, config: dict[str, Any]) -> Any:
    """gridnn's ``mlp``."""
    nn, widths = torch.nn, [inputs, *map(int, config["widths"].split(","))]
    layers = [nn.Flatten()]
    for before, width in pairwise(widths):
        layers += [nn.Linear(before, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], config["classes"]))


def timed(torch: Any, step: Callable[[], float], count: int, device: str) -> float:
    """The seconds of so many steps, between two events of the GPU; without one, by the clock."""
    if device == "cpu":
        began = time.perf_counter()
        for _ in range(count):
            step()
        return time.perf_counter() - began
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(count):
        step()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000


if __name__ == "__main__":
    main()
