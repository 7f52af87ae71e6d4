"""Compiled loops over rows of channels, and over flat arrays; the conventions are those of `compiled`."""

from __future__ import annotations

import math

from gridnn.kernels.cpu.compiled import compiled, line_at

# -- rows of channels ------------------------------------------------------------------------------------------


@compiled
def sum_rows(x, x_at, out, counts, channels):
    """`elementwise.sum_rows`: adds to ``out`` [c], which is float64."""
    for line in range(counts[0] * counts[1] * counts[2]):
        i = line_at(line, counts, x_at)
        for _ in range(counts[3]):
            row = x[i : i + channels]
            for c in range(channels):
                out[c] += row[c]
            i += x_at[3]


@compiled
def moments(x, x_at, shift, out, counts, channels):
    """`elementwise.moments`; ``out`` [2, c] holds zeros."""
    first, second = out[0], out[1]
    for line in range(counts[0] * counts[1] * counts[2]):
        i = line_at(line, counts, x_at)
        for _ in range(counts[3]):
            row = x[i : i + channels]
            for c in range(channels):
                centred = row[c] - shift[c]
                first[c] += centred
                second[c] += centred * centred
            i += x_at[3]


@compiled
def moments_grad(x, x_at, dy, dy_at, mean, out, counts, channels):
    """`elementwise.moments_grad`; ``out`` [2, c] holds zeros."""
    first, second = out[0], out[1]
    for line in range(counts[0] * counts[1] * counts[2]):
        i, j = line_at(line, counts, x_at), line_at(line, counts, dy_at)
        for _ in range(counts[3]):
            row, gradient = x[i : i + channels], dy[j : j + channels]
            for c in range(channels):
                first[c] += gradient[c]
                second[c] += gradient[c] * (row[c] - mean[c])
            i, j = i + x_at[3], j + dy_at[3]


@compiled
def affine(x, x_at, scale, offset, out, out_at, counts, channels):
    """`elementwise.affine`."""
    for line in range(counts[0] * counts[1] * counts[2]):
        i, o = line_at(line, counts, x_at), line_at(line, counts, out_at)
        for _ in range(counts[3]):
            row, target = x[i : i + channels], out[o : o + channels]
            for c in range(channels):
                target[c] = row[c] * scale[c] + offset[c]
            i, o = i + x_at[3], o + out_at[3]


@compiled
def add_scaled(x, x_at, scale, out, out_at, counts, channels):
    """`elementwise.add_scaled`."""
    for line in range(counts[0] * counts[1] * counts[2]):
        i, o = line_at(line, counts, x_at), line_at(line, counts, out_at)
        for _ in range(counts[3]):
            row, target = x[i : i + channels], out[o : o + channels]
            for c in range(channels):
                target[c] += row[c] * scale[c]
            i, o = i + x_at[3], o + out_at[3]


@compiled
def relu(x, x_at, out, out_at, counts, channels):
    """`elementwise.relu`; NaN stays."""
    for line in range(counts[0] * counts[1] * counts[2]):
        i, o = line_at(line, counts, x_at), line_at(line, counts, out_at)
        for _ in range(counts[3]):
            row, target = x[i : i + channels], out[o : o + channels]
            for c in range(channels):
                target[c] = 0 if row[c] <= 0 else row[c]
            i, o = i + x_at[3], o + out_at[3]


@compiled
def relu_grad(y, y_at, dy, dy_at, out, out_at, counts, channels):
    """`elementwise.relu_grad`."""
    for line in range(counts[0] * counts[1] * counts[2]):
        i, j, o = line_at(line, counts, y_at), line_at(line, counts, dy_at), line_at(line, counts, out_at)
        for _ in range(counts[3]):
            row, gradient, target = y[i : i + channels], dy[j : j + channels], out[o : o + channels]
            for c in range(channels):
                target[c] = gradient[c] if row[c] > 0 else 0
            i, j, o = i + y_at[3], j + dy_at[3], o + out_at[3]


@compiled
def tanh_grad(y, y_at, dy, dy_at, out, out_at, counts, channels):
    """`elementwise.tanh_grad`."""
    for line in range(counts[0] * counts[1] * counts[2]):
        i, j, o = line_at(line, counts, y_at), line_at(line, counts, dy_at), line_at(line, counts, out_at)
        for _ in range(counts[3]):
            row, gradient, target = y[i : i + channels], dy[j : j + channels], out[o : o + channels]
            for c in range(channels):
                target[c] = gradient[c] * (1 - row[c] * row[c])
            i, j, o = i + y_at[3], j + dy_at[3], o + out_at[3]


# -- updates ---------------------------------------------------------------------------------------------------


@compiled
def sgd(p, g, m, lr, momentum, nesterov, weight_decay):
    """`updates.sgd`; the factors have the type of the arrays."""
    for i in range(len(p)):
        step = p[i] * weight_decay + g[i]
        held = m[i] * momentum + step
        m[i] = held
        p[i] -= lr * (held * momentum + step if nesterov else held)


@compiled
def plain_sgd(p, g, lr, weight_decay):
    """`updates.sgd` without momentum."""
    for i in range(len(p)):
        p[i] -= lr * (p[i] * weight_decay + g[i])


@compiled
def adamw(p, g, m, v, rate, root, beta1, rest1, beta2, rest2, eps, kept):
    """`updates.adamw` with its factors as numbers of the arrays' type.

    ``rate`` is lr / (1 - beta1^t), ``root`` 1 / sqrt(1 - beta2^t), ``rest`` 1 - beta, ``kept`` 1 - lr * weight_decay.
    """
    for i in range(len(p)):
        first = m[i] * beta1 + g[i] * rest1
        second = v[i] * beta2 + g[i] * g[i] * rest2
        m[i], v[i] = first, second
        p[i] = p[i] * kept - rate * first / (math.sqrt(second) * root + eps)
