"""How fast a rank computes while all others do: products, convolutions and streams, through gridnn's own kernels."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from gridnn.calibrate.links import median_seconds
from gridnn.comm.grid import Grid

DTYPE, ITEMSIZE = "float32", 4
SWEEPS = 2  # of which the best is kept: what else runs on a node comes and goes, and only slows
BATCHES = 3  # of calls, of which the median is kept
BATCH = 0.02  # seconds that a batch of calls takes at least: several turns of ranks that share a core
STREAMED = 0.7  # the share of a call's time that its bytes may need for its rate to count
# Products [n, ci] x [ci, co]: samples of a rank, and layers.
SAMPLES = (4, 16, 64, 256)
LAYERS = ((64, 64), (256, 128), (512, 512), (1024, 1024), (2304, 1024), (4096, 1024), (4096, 4096))
# Convolutions: pixels a side, ci, co, kernel, stride; from LeNet, AlexNet, VGG, ResNet for CIFAR-10 and ImageNet.
CONVOLUTIONS = (
    (28, 1, 6, 5, 1),
    (14, 6, 16, 5, 1),
    (32, 3, 64, 3, 1),
    (32, 64, 64, 3, 1),
    (16, 64, 128, 3, 2),
    (16, 128, 128, 3, 1),
    (8, 128, 256, 3, 1),
    (8, 256, 256, 3, 1),
    (4, 256, 512, 3, 1),
    (2, 512, 512, 3, 1),
    (56, 64, 64, 3, 1),
    (56, 64, 256, 1, 1),
    (28, 256, 128, 1, 1),
    (14, 256, 256, 3, 1),
    (7, 512, 2048, 1, 1),
    (112, 3, 64, 7, 2),
)
IMAGES = (1, 4, 16)
STREAMS = (1 << 14, 1 << 17, 1 << 20, 1 << 22)  # elements of an array


Case = tuple[str, float, float, Callable[[], Sequence[Callable[[], None]]]]  # shape, flops, bytes, the calls


class Timed(NamedTuple):
    """A layer's work of one kind: flops and bytes of a call, and its seconds by the slowest rank.

    Forward, the gradient of the input and that of the weights count as three calls, of which ``seconds`` is the mean.
    """

    kind: str
    shape: str
    flops: float
    size: float
    seconds: float


def measure_rates(grid: Grid, seconds: float, told: Callable = print) -> list[Timed]:
    """Times of streams, products and convolutions by the grid's kernels, within about ``seconds``.

    All ranks call it together and compute at once. What does not fit into the time is left out, of all sizes alike;
    ``told`` is told, in a line, what is measured next.
    """
    makers = (("memory", _streams, 0.1), ("gemm", _products, 0.35), ("conv", _convolutions, 0.55))
    found: dict[tuple, Timed] = {}
    began = time.perf_counter()
    for sweep in range(SWEEPS):
        if sweep and not grid.all.gather_values(time.perf_counter() - began < seconds)[0]:
            break
        for kind, make, share in makers:
            if not sweep:
                told(f"{kind} on {grid.shape.size} ranks at once")
            cases = _spread(sorted(make(grid.backend), key=lambda case: case[1] or case[2]))
            for timed in _sweep(grid, kind, cases, share * seconds / SWEEPS):
                found[timed[:-1]] = min(timed, found.get(timed[:-1], timed))
    return list(found.values())


def _spread(cases: Sequence[Case]) -> list[Case]:
    """Ascending cases in an order in which the first few of them go from the smallest to near the largest."""
    return [case for first in (0, 4, 2, 6, 1, 5, 3, 7) for case in cases[first::8]]


def _sweep(grid: Grid, kind: str, cases: Sequence[Case], seconds: float) -> Iterator[Timed]:
    """The times of the calls of a kind, until ``seconds`` are spent."""
    ends = time.perf_counter() + seconds
    for shape, flops, size, calls in cases:
        if not grid.all.gather_values(time.perf_counter() < ends)[0]:
            break
        yield Timed(kind, shape, flops, size, statistics.fmean(_timed(grid, call) for call in calls()))


def stream_rate(found: Sequence[Timed]) -> float:
    """Bytes per second of the streams: the median over the kernels, of the largest arrays, which no cache holds."""
    streams = sorted((one for one in found if one.kind == "memory"), key=lambda one: one.size)
    return statistics.median(one.size / one.seconds for one in streams[-3:])


def computing(found: Sequence[Timed], kind: str, memory: float, overhead: float) -> list[tuple[float, float]]:
    """(flops, seconds) of the calls of a kind that its flops bind, not its bytes, without the cost of a call."""
    kept = [one for one in found if one.kind == kind and one.size / memory < STREAMED * one.seconds]
    kept = kept or [one for one in found if one.kind == kind]
    return [(one.flops, max(one.seconds - overhead, one.seconds / 2)) for one in kept]


def _timed(grid: Grid, call: Callable[[], None]) -> float:
    call()  # compiles, and fills caches
    return median_seconds(grid, call, BATCHES, BATCH)


def _array(backend: Any, *shape: int) -> Any:
    return backend.full(shape, 0.01, DTYPE)


def _streams(backend: Any) -> Iterator[Case]:
    """Element-wise kernels: an activation and its gradient, and an update with one state."""
    kernels = backend.kernels
    for count in STREAMS:

        def activation(count=count):
            x, y = (_array(backend, count // 64, 64) for _ in range(2))
            return [lambda: kernels.relu(x, y)]

        def gradient(count=count):
            y, dy, dx = (_array(backend, count // 64, 64) for _ in range(3))
            return [lambda: kernels.relu_grad(y, dy, dx)]

        def updated(count=count):
            p, g, m = (_array(backend, count) for _ in range(3))
            scratch = backend.workspace(DTYPE)
            return [lambda: kernels.sgd(p, g, m, 0.01, 0.9, False, 0.0, scratch)]

        for name, arrays, case in (("relu", 2, activation), ("relu gradient", 3, gradient), ("sgd", 5, updated)):
            yield f"{name} {count}", 0.0, float(arrays * count * ITEMSIZE), case


def _products(backend: Any) -> Iterator[Case]:
    """A fully connected layer: y = x W, dW = x' dy, dx = dy W'."""
    product = backend.kernels.matmul
    for n, (ci, co) in itertools.product(SAMPLES, LAYERS):

        def calls(n=n, ci=ci, co=co):
            x, w, y = (_array(backend, *shape) for shape in ((n, ci), (ci, co), (n, co)))
            dx, dw = (_array(backend, *shape) for shape in ((n, ci), (ci, co)))
            return [lambda: product(x, w, y), lambda: product(x.T, y, dw), lambda: product(y, w.T, dx)]

        yield f"{n}x{ci} {ci}x{co}", 2.0 * n * ci * co, float(ITEMSIZE * (n * ci + ci * co + n * co)), calls


def _convolutions(backend: Any) -> Iterator[Case]:
    """A convolution, its input in a frame that keeps the size: forward and both gradients."""
    kernels = backend.kernels
    for n, (side, ci, co, taps, step) in itertools.product(IMAGES, CONVOLUTIONS):
        out = -(-side // step)
        frame = (out - 1) * step + taps
        shapes = ((n, frame, frame, ci), (taps, taps, ci, co), (n, out, out, co))

        def calls(shapes=shapes, step=step):
            x, w, y = (_array(backend, *shape) for shape in shapes)
            dx, dw = (_array(backend, *shape) for shape in shapes[:2])
            steps, apart, workspace = (step, step), (1, 1), backend.workspace(DTYPE)
            return [
                lambda: kernels.conv(x, w, steps, apart, y, workspace),
                lambda: kernels.conv_grad_input(y, w, steps, apart, dx, workspace),
                lambda: kernels.conv_grad_weight(x, y, steps, apart, dw, workspace),
            ]

        flops = 2.0 * n * out * out * co * taps * taps * ci
        size = ITEMSIZE * (n * frame * frame * ci + taps * taps * ci * co + n * out * out * co)
        yield f"{n}x{side}x{side}x{ci} {taps}x{taps}x{ci}x{co} stride {step}", flops, float(size), calls
