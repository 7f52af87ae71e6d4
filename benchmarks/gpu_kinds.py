"""Where the time of a step goes: events of the GPU around every call of a local kernel."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from functools import wraps
from typing import Any

from gridnn.kernels.table import TABLE

# The kind of an operation is that of the module of its reference, with these exceptions.
KINDS = {
    "linear": "gemm", "convolution": "conv", "depthwise": "conv", "pooling": "pooling", "resampling": "elementwise",
    "copying": "copies", "elementwise": "elementwise", "updates": "update", "stochastic": "random",
}  # fmt: skip
EXCEPTIONS = {
    "matmul": "gemm", "add_product": "gemm", "convert": "copies", "unscale": "update", "moments": "norm",
    "moments_grad": "norm", "affine": "norm", "add_scaled": "norm", "finish": "elementwise",
    "activation_grad": "elementwise",
}  # fmt: skip


def kinds() -> dict[str, str]:
    """The kind of every operation, by its name."""
    references = {name: modules[-1].removeprefix("reference.") for name, modules in TABLE.items()}
    return {name: EXCEPTIONS.get(name, KINDS[module]) for name, module in references.items()}


def by_kind(backend: Any, run: Callable[[], float], steps: int) -> dict[str, float]:
    """Seconds a step by kind of kernel while ``run`` makes ``steps`` steps; "rest" is what lies between kernels.

    Of kernels that call others only the outer one counts. Between its events lies also what the GPU waits for the host,
    so that small kernels look longer than they are. Inside a graph nothing is seen: graphs are to be off.
    """
    device, kernels, spans, inside = backend.device, backend.kernels, defaultdict(list), []

    def timed(name: str, kind: str) -> Callable:
        call = getattr(kernels, name)

        @wraps(call)
        def wrapper(*args: Any, **options: Any) -> Any:
            if inside:
                return call(*args, **options)
            inside.append(name)
            start = device.mark()
            try:
                return call(*args, **options)
            finally:
                inside.pop()
                spans[kind].append((start, device.mark()))

        return wrapper

    names = kinds()
    for name, kind in names.items():
        setattr(kernels, name, timed(name, kind))
    try:
        whole = run()
    finally:
        for name in names:
            delattr(kernels, name)
    seconds = {kind: sum(device.seconds(*span) for span in pairs) for kind, pairs in spans.items()}
    seconds["rest"] = max(0.0, whole - sum(seconds.values()))
    return {kind: value / steps for kind, value in seconds.items()}
