"""Where the time of a step goes: events of the GPU around every call of a local kernel."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from functools import wraps
from typing import Any

# The kind of a kernel is that of the class that describes it, with these exceptions.
KINDS = {
    "Linear": "gemm", "Convolution": "conv", "Depthwise": "conv", "Pooling": "pooling", "Resampling": "elementwise",
    "Copying": "copies", "Elementwise": "elementwise", "Updates": "update", "Draws": "random",
}  # fmt: skip
EXCEPTIONS = {
    "matmul": "gemm", "add_product": "gemm", "convert": "copies", "unscale": "update", "moments": "norm",
    "moments_grad": "norm", "affine": "norm", "add_scaled": "norm", "finish": "elementwise",
    "activation_grad": "elementwise", "erf": "elementwise",
}  # fmt: skip


def kinds_of(kernels: Any) -> dict[str, str]:
    """The kind of every kernel, by its name."""
    found = {}
    for described in type(kernels).__mro__:
        kind = KINDS.get(described.__name__)
        for name, member in vars(described).items() if kind else ():
            if callable(member) and not name.startswith("_"):
                found[name] = EXCEPTIONS.get(name, kind)
    return found


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

    names = kinds_of(kernels)
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
