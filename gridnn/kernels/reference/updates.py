"""The updates of the parameters: in place, fused, chunk by chunk through the cache.

One step of an optimizer works on flat arrays: parameter ``p``, gradient ``g`` (not changed), state ``m`` and ``v``.
``scratch`` is a flat array of the same dtype with at least two elements; 32768 are used at the most.
"""

from __future__ import annotations

import math

from gridnn.kernels.table import Kernels
from gridnn.kernels.tiles import Array, chunks

CHUNK = 1 << 14  # elements


def sgd(
    kernels: Kernels, p: Array, g: Array, m: Array | None, lr: float, momentum: float, nesterov: bool,
    weight_decay: float, scratch: Array,
) -> None:  # fmt: skip
    """Stochastic gradient descent in PyTorch's form: m = momentum * m + (g + weight_decay * p); p -= lr * m.

    ``m`` starts at zero, so that the first step's buffer is the gradient; None where ``momentum`` is 0. Nesterov
    steps by g + weight_decay * p + momentum * m.
    """
    xp, length = kernels.xp, _length(scratch)
    for part in chunks(p.size, length):
        value, step = p[part], scratch[: part.stop - part.start]
        xp.multiply(value, weight_decay, out=step)
        step += g[part]
        direction = step
        if momentum:
            direction = m[part]
            direction *= momentum
            direction += step
        if nesterov:
            step += xp.multiply(direction, momentum, out=scratch[length : length + value.size])
            direction = step
        value -= xp.multiply(direction, lr, out=step)


def adamw(
    kernels: Kernels, p: Array, g: Array, m: Array, v: Array, step: int, lr: float, beta1: float, beta2: float,
    eps: float, weight_decay: float, scratch: Array,
) -> None:  # fmt: skip
    """AdamW (Loshchilov and Hutter 2019) in PyTorch's form; ``step`` counts from 1, ``m``, ``v`` start at zero."""
    xp, length = kernels.xp, _length(scratch)
    rate, root = lr / (1 - beta1**step), 1 / math.sqrt(1 - beta2**step)
    for part in chunks(p.size, length):
        value, gradient, first, second = p[part], g[part], m[part], v[part]
        term = scratch[: value.size]
        bottom = scratch[length : length + value.size]
        first *= beta1
        first += xp.multiply(gradient, 1 - beta1, out=term)
        second *= beta2
        xp.multiply(gradient, gradient, out=term)
        term *= 1 - beta2
        second += term
        xp.sqrt(second, out=bottom)
        bottom *= root
        bottom += eps
        xp.divide(first, bottom, out=term)
        term *= rate
        value *= 1 - lr * weight_decay
        value -= term


def _length(scratch: Array) -> int:
    """How many elements to update at once: half of what ``scratch`` holds, for two temporaries."""
    return max(1, min(CHUNK, scratch.size // 2))
