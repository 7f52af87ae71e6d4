"""Activations and sums over rows, in chunks that stay in the cache, and what the types of mixed precision need."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from gridnn.kernels.table import Kernels
from gridnn.kernels.tiles import Array, carve, chunks, matrix, tiles

CHUNK = 1 << 15  # elements

# erf(x) = x T(x^2) / U(x^2) for |x| <= 1 and 1 - exp(-x^2) P(x) / Q(x) beyond: W. J. Cody's form with the coefficients
# of the Cephes library (S. L. Moshier), highest power first; the error is below 4e-16.
ERF_T = (9.60497373987051638749e0, 9.00260197203842689217e1, 2.23200534594684319226e3, 7.00332514112805075473e3,
         5.55923013010394962768e4)  # fmt: skip
ERF_U = (1.0, 3.35617141647503099647e1, 5.21357949780152679795e2, 4.59432382970980127987e3,
         2.26290000613890934246e4, 4.92673942608635921086e4)  # fmt: skip
ERF_P = (2.46196981473530512524e-10, 5.64189564831068821977e-1, 7.46321056442269912687e0, 4.86371970985681366614e1,
         1.96520832956077098242e2, 5.26445194995477358631e2, 9.34528527171957607540e2, 1.02755188689515710272e3,
         5.57535335369399327526e2)  # fmt: skip
ERF_Q = (1.0, 1.32281951154744992508e1, 8.67072140885989742329e1, 3.54937778887819891062e2,
         9.75708501743205489753e2, 1.82390916687909736289e3, 2.24633760818710981792e3, 1.65666309194161350182e3,
         5.57535340817727675546e2)  # fmt: skip
ERF_ONE = 6.0  # erf is 1 to the last bit from here on
GELU_FLAT = 40.0  # the derivative is 0 or 1 from here on; larger values would overflow for nothing
TANH_SCALE, TANH_CUBIC = math.sqrt(2 / math.pi), 0.044715


def convert(kernels: Kernels, x: Array, out: Array) -> None:
    """Write ``x`` to ``out`` in its type, rounded to the nearest; either may be a view with any strides."""
    out[...] = x


def unscale(kernels: Kernels, g: Array, factor: float, flag: Array) -> None:
    """Multiply the flat ``g`` by ``factor``, in place, and set ``flag`` (int32, [1]) to 1 if it is not finite.

    Where all of it is finite, the flag stays as it is.
    """
    for part in chunks(g.size, CHUNK):
        values = g[part]
        values *= factor
        kernels.xp.maximum(flag, ~kernels.xp.isfinite(values).all(), out=flag)


def relu(kernels: Kernels, x: Array, out: Array) -> None:
    """Write max(x, 0) to ``out``."""
    kernels.xp.maximum(x, 0, out=out)


def relu_grad(kernels: Kernels, y: Array, dy: Array, out: Array) -> None:
    """Write ``dy`` where the output ``y`` of the ReLU is positive, 0 elsewhere, to ``out``."""
    kernels.xp.greater(y, 0, out=out)
    out *= dy


def leaky_relu(kernels: Kernels, x: Array, slope: float, out: Array) -> None:
    """Write ``x`` where it is positive, ``slope * x`` elsewhere, to ``out``; ``slope`` lies in [0, 1]."""
    kernels.xp.multiply(x, slope, out=out)
    kernels.xp.maximum(x, out, out=out)


def leaky_relu_grad(kernels: Kernels, y: Array, dy: Array, slope: float, out: Array) -> None:
    """Write ``dy`` where the output ``y`` of the leaky ReLU is positive, ``slope * dy`` elsewhere, to ``out``."""
    kernels.xp.greater(y, 0, out=out)
    kernels.xp.maximum(out, slope, out=out)
    out *= dy


def tanh(kernels: Kernels, x: Array, out: Array) -> None:
    """Write the hyperbolic tangent of ``x`` to ``out``."""
    kernels.xp.tanh(x, out=out)


def tanh_grad(kernels: Kernels, y: Array, dy: Array, out: Array) -> None:
    """Write ``dy * (1 - y**2)`` to ``out``, from the output ``y`` of the tanh."""
    kernels.xp.multiply(y, y, out=out)
    kernels.xp.subtract(1, out, out=out)
    out *= dy


def erf(xp: Any, x: Array) -> Array:
    """The error function of ``x``, to 4e-16 in float64; it makes arrays of the size of ``x``."""
    size = xp.minimum(xp.abs(x), ERF_ONE)
    square = xp.minimum(size * size, 1)
    near = x * (_polynomial(ERF_T, square) / _polynomial(ERF_U, square))
    far = 1 - xp.exp(-size * size) * _polynomial(ERF_P, size) / _polynomial(ERF_Q, size)
    return xp.where(size <= 1, near, xp.copysign(far, x))


def gelu(kernels: Kernels, x: Array, out: Array, slope: Array | None, approximate: str) -> None:
    """Write x * Phi(x) to ``out`` and, where wanted, its derivative to ``slope``.

    ``approximate`` is "none" for Phi by the error function or "tanh" (Hendrycks and Gimpel 2016, section 2).
    """
    rule = {"none": _gelu_exact, "tanh": _gelu_tanh}[approximate]
    for tile in tiles(x.shape, CHUNK):
        out[tile], derivative = rule(kernels.xp, x[tile], slope is not None)
        if slope is not None:
            slope[tile] = derivative


def _gelu_exact(xp: Any, x: Array, with_slope: bool) -> tuple[Array, Array | None]:
    phi = 0.5 * (1 + erf(xp, x * math.sqrt(0.5)))
    if not with_slope:
        return x * phi, None
    near = xp.clip(x, -GELU_FLAT, GELU_FLAT)
    return x * phi, phi + near * xp.exp(-0.5 * near * near) * math.sqrt(0.5 / math.pi)


def _gelu_tanh(xp: Any, x: Array, with_slope: bool) -> tuple[Array, Array | None]:
    near = xp.clip(x, -GELU_FLAT, GELU_FLAT)
    t = xp.tanh(TANH_SCALE * (near + TANH_CUBIC * near * near * near))
    half = 0.5 * (1 + t)
    if not with_slope:
        return x * half, None
    inner = TANH_SCALE * (1 + 3 * TANH_CUBIC * near * near)
    return x * half, half + 0.5 * near * (1 - t * t) * inner


def sum_rows(kernels: Kernels, x: Array, out: Array) -> None:
    """Write the sum of ``x`` [..., c] over all but its last dimension to ``out`` [c], in the type of ``out``.

    A sum of partial sums, for the sake of float32; of 16-bit ``x``, ``out`` is float32.
    """
    out[...] = 0
    for tile in row_tiles(x.shape):
        out += matrix(x[tile]).sum(axis=0, dtype=out.dtype)


def moments(kernels: Kernels, x: Array, shift: Array, out: Array, workspace: Array) -> None:
    """Write the sums over the rows of ``x`` [..., c] of (x - shift) and (x - shift)**2 to ``out`` [2, c].

    ``shift`` [c], ``out`` and ``workspace`` are float64; a shift near the mean is what keeps the second sum safe.
    """
    out[...] = 0
    for tile in row_tiles(x.shape):
        rows = matrix(x[tile])
        centred = carve(workspace, rows.shape)
        kernels.xp.subtract(rows, shift, out=centred)
        out[0] += centred.sum(axis=0)
        centred *= centred
        out[1] += centred.sum(axis=0)


def moments_grad(kernels: Kernels, x: Array, dy: Array, mean: Array, out: Array, workspace: Array) -> None:
    """Write the sums over rows of dy and dy * (x - mean) to ``out`` [2, c]; float64 as in ``moments``."""
    out[...] = 0
    for tile in row_tiles(x.shape):
        rows, gradients = matrix(x[tile]), matrix(dy[tile])
        centred = carve(workspace, rows.shape)
        kernels.xp.subtract(rows, mean, out=centred)
        centred *= gradients
        out[0] += gradients.sum(axis=0, dtype=out.dtype)
        out[1] += centred.sum(axis=0)


def affine(kernels: Kernels, x: Array, scale: Array, offset: Array, out: Array) -> None:
    """Write ``x * scale + offset``, with one ``scale`` and ``offset`` a channel, to ``out``.

    Of 16-bit ``x`` and ``out`` they are float32, as is the ``scale`` of `add_scaled`.
    """
    for tile in row_tiles(x.shape):
        part = out[tile]
        kernels.xp.multiply(x[tile], scale, out=part)
        part += offset


def bias_activation(kernels: Kernels, x: Array, bias: Array, activation: str, out: Array) -> None:
    """Write the ``activation`` of ``x + bias``, with one ``bias`` a channel, to ``out``, which may be ``x``.

    ``activation`` is "none", "relu", "tanh" or "gelu-tanh" (the approximation of `gelu`).
    """
    for tile in row_tiles(x.shape):
        part = out[tile]
        kernels.xp.add(x[tile], bias, out=part)
        if activation == "relu":
            kernels.relu(part, part)
        elif activation == "tanh":
            kernels.tanh(part, part)
        elif activation == "gelu-tanh":
            kernels.gelu(part, part, None, "tanh")


def add_scaled(kernels: Kernels, x: Array, scale: Array, out: Array, workspace: Array) -> None:
    """Add ``x * scale``, with one ``scale`` a channel, to ``out``."""
    for tile in row_tiles(x.shape):
        part = out[tile]
        part += kernels.xp.multiply(x[tile], scale, out=carve(workspace, part.shape))


def row_tiles(shape: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """The rows of an array [..., c] in tiles that stay in the cache."""
    return tiles(shape[:-1], CHUNK // max(1, shape[-1]))


def _polynomial(coefficients: tuple[float, ...], x: Array) -> Array:
    """Horner's rule, the highest power first."""
    value = coefficients[0] * x + coefficients[1]
    for coefficient in coefficients[2:]:
        value *= x
        value += coefficient
    return value
