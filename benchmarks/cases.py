"""What `kernels.py` times: the kernels of gridnn and the same in PyTorch, on the shapes of the papers' networks."""

from __future__ import annotations

import ctypes
import mmap
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# name: batch, channels, size, output channels, kernel, stride, padding, space axes
CONVOLUTIONS = {
    "conv 16x64x56x56, 64, 3x3": (16, 64, 56, 64, 3, 1, 1, 2),
    "conv 16x128x28x28, 128, 3x3": (16, 128, 28, 128, 3, 1, 1, 2),
    "conv 16x256x14x14, 256, 3x3": (16, 256, 14, 256, 3, 1, 1, 2),
    "conv 64x96x27x27, 256, 5x5": (64, 96, 27, 256, 5, 1, 2, 2),
    "conv 64x3x227x227, 96, 11x11/4": (64, 3, 227, 96, 11, 4, 0, 2),
    "conv 32x3x32x32, 64, 3x3": (32, 3, 32, 64, 3, 1, 1, 2),
    "conv 4x32x32x32x32, 64, 3x3x3": (4, 32, 32, 64, 3, 1, 1, 3),
}
LINEAR, POOLING, NORM = "linear 128x9216, 4096", "max pooling 16x64x112x112, 3x3/2", "batch norm + ReLU 16x64x112x112"


@dataclass
class Case:
    """What is timed: one call each of gridnn's kernels and of PyTorch in each of its layouts."""

    bound: str
    gridnn: Callable[[], Any]
    torch: dict[str, Callable[[], Any]]
    memory: float | None = None
    seconds: dict[str, list[float]] = field(default_factory=dict)


def makers(backend) -> dict[str, Callable[[], Case]]:
    """What makes each case, by name; its arrays are not kept, so that they are there one case at a time."""
    made = {name: lambda shape=shape: convolution(backend, *shape) for name, shape in CONVOLUTIONS.items()}
    made |= {LINEAR: lambda: linear(backend), POOLING: lambda: pooling(backend), NORM: lambda: norm(backend)}
    return made


def random(*shape: int):
    """Normal float32 numbers."""
    import numpy as np

    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def convolution(backend, n, c, size, k, kernel, stride, padding, dims) -> Case:
    """A convolution without bias, on a frame that holds the padding already; its memory beyond the operands."""
    import numpy as np
    import torch.nn.functional as functional

    frame, out = size + 2 * padding, (size + 2 * padding - kernel) // stride + 1
    x, w, dy = random(n, *(frame,) * dims, c), random(*(kernel,) * dims, c, k), random(n, *(out,) * dims, k)
    y, dx, dw = np.ones_like(dy), np.ones_like(x), np.ones_like(w)
    strides, ones = (stride,) * dims, (1,) * dims

    def gridnn(workspace=None, count=n):
        space = backend.workspace("float32") if workspace is None else workspace
        backend.kernels.conv(x[:count], w, strides, ones, y[:count], space)
        backend.kernels.conv_grad_weight(x[:count], dy[:count], strides, ones, dw, space)
        backend.kernels.conv_grad_input(dy[:count], w, strides, ones, dx[:count], space)

    gridnn(count=1)  # loads the code, which is not what memory is about
    operands = sum(array.nbytes for array in (x, w, y, dy, dx, dw))
    fresh = np.frombuffer(mmap.mmap(-1, backend.workspace("float32").nbytes), np.float32)  # no page of it is there yet
    extra = peak_beyond(lambda: gridnn(fresh))
    apply = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}[dims]
    forward = lambda tx, tw: apply(tx, tw, stride=stride, padding=padding)  # noqa: E731
    shapes = ((n, c, *(size,) * dims), (k, c, *(kernel,) * dims))
    memory = None if extra is None else (operands + extra) / operands
    return Case("GEMM", gridnn, in_torch(forward, *shapes), memory)


def linear(backend) -> Case:
    """The three products of a fully connected layer."""
    import torch

    x, w, dy = random(128, 9216), random(9216, 4096), random(128, 4096)
    y, dx, dw = dy.copy(), x.copy(), w.copy()
    multiply = backend.kernels.matmul

    def gridnn():
        multiply(x, w, y)
        multiply(x.T, dy, dw)
        multiply(dy, w.T, dx)

    return Case("GEMM", gridnn, in_torch(torch.nn.functional.linear, x.shape, w.T.shape))


def pooling(backend) -> Case:
    """Overlapping maximum pooling, forward and backward."""
    import numpy as np
    from torch.nn.functional import max_pool2d

    kernels, space = backend.kernels, backend.workspace("float32")
    x = np.full((16, 113, 113, 64), -np.inf, np.float32)
    x[:, 1:, 1:] = random(16, 112, 112, 64)
    dy = random(16, 56, 56, 64)
    y, dx, index = dy.copy(), np.ones_like(x), np.zeros(dy.shape, "uint8")

    def gridnn():
        kernels.max_pool(x, (3, 3), (2, 2), y, index, space)
        kernels.max_pool_grad(dy, index, (3, 3), (2, 2), dx, space)

    return Case("memory", gridnn, in_torch(lambda tx: max_pool2d(tx, 3, 2, 1), (16, 64, 112, 112)))


def norm(backend) -> Case:
    """Batch norm with statistics of the batch and a ReLU, by the kernels that the layers call."""
    import numpy as np
    from torch.nn.functional import batch_norm, relu

    kernels, space, wide = backend.kernels, backend.workspace("float32"), backend.workspace("float64")
    x, dy = random(16, 112, 112, 64), random(16, 112, 112, 64) + 1
    y, z, dx = x.copy(), x.copy(), x.copy()
    mean, sums, factors = np.zeros(64), np.zeros((2, 64)), np.ones(64, np.float32)

    def gridnn():
        kernels.moments(x, mean, sums, wide)
        kernels.affine(x, factors, factors, y)
        kernels.relu(y, z)
        kernels.relu_grad(z, dy, y)
        kernels.moments_grad(x, y, mean, sums, wide)
        kernels.affine(x, factors, factors, dx)
        kernels.add_scaled(y, factors, dx, space)

    forward = lambda tx, gamma, beta: relu(batch_norm(tx, None, None, gamma, beta, training=True))  # noqa: E731
    return Case("memory", gridnn, in_torch(forward, (16, 64, 112, 112), (64,), (64,)))


def in_torch(forward: Callable, *shapes: tuple[int, ...]) -> dict[str, Callable[[], Any]]:
    """Forward and the gradients of all inputs in PyTorch, in each layout that the first input can have."""
    import torch

    layouts = {"contiguous": torch.contiguous_format}
    if len(shapes[0]) > 3:
        layouts["channels-last"] = {4: torch.channels_last, 5: torch.channels_last_3d}[len(shapes[0])]

    def call(layout):
        inputs = []
        for shape in shapes:
            tensor = torch.randn(shape)
            if tensor.ndim == len(shapes[0]):
                tensor = tensor.contiguous(memory_format=layout)
            inputs.append(tensor.requires_grad_())
        gradient = torch.ones_like(forward(*inputs))
        return lambda: torch.autograd.grad(forward(*inputs), inputs, gradient)

    return {name: call(layout) for name, layout in layouts.items()}


def peak_beyond(run: Callable[[], Any]) -> int | None:
    """The bytes by which ``run`` makes this process larger, at its peak; None where Linux does not say."""

    def resident(name: str) -> int:
        return 1024 * int(re.search(rf"^{name}:\s*(\d+)", Path("/proc/self/status").read_text(), re.MULTILINE).group(1))

    try:
        ctypes.CDLL(None).malloc_trim(0)  # else what was freed before would be used again, and not be seen
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew: proc(5)
        before = resident("VmRSS")
        run()
        return resident("VmHWM") - before
    except (OSError, AttributeError):
        return None
