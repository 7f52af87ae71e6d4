"""Compiled loops over windows; the conventions are those of `compiled`.

``taps`` are the offsets of a window's elements from its first.
"""

from __future__ import annotations

from gridnn.kernels.cpu.compiled import compiled, line_at

# -- pooling ---------------------------------------------------------------------------------------------------


@compiled
def max_pool(x, x_at, taps, out, out_at, index, index_at, counts, channels, marks):
    """`pooling.max_pool`; ``marks`` are the numbers of the taps in the type of ``index``."""
    for line in range(counts[0] * counts[1] * counts[2]):
        o, i, corner = line_at(line, counts, out_at), line_at(line, counts, index_at), line_at(line, counts, x_at)
        for _ in range(counts[3]):
            best, winner = out[o : o + channels], index[i : i + channels]
            first = x[corner : corner + channels]
            for c in range(channels):
                best[c], winner[c] = first[c], 0
            for tap in range(1, len(taps)):
                start, mark = corner + taps[tap], marks[tap]
                values = x[start : start + channels]
                for c in range(channels):
                    value, held = values[c], best[c]
                    winner[c] = mark if value > held else winner[c]
                    best[c] = held if held >= value or held != held else value  # NaN stays
            o, i, corner = o + out_at[3], i + index_at[3], corner + x_at[3]


@compiled
def max_pool_grad(dy, dy_at, index, index_at, out, out_at, taps, counts, channels):
    """`pooling.max_pool_grad`; ``out`` holds zeros."""
    for line in range(counts[0] * counts[1] * counts[2]):
        o, i, corner = line_at(line, counts, dy_at), line_at(line, counts, index_at), line_at(line, counts, out_at)
        for _ in range(counts[3]):
            gradient, winner = dy[o : o + channels], index[i : i + channels]
            for c in range(channels):
                out[corner + taps[winner[c]] + c] += gradient[c]
            o, i, corner = o + dy_at[3], i + index_at[3], corner + out_at[3]


@compiled
def sum_windows(x, x_at, taps, out, out_at, counts, channels, factor):
    """The sum of every window times ``factor``."""
    for line in range(counts[0] * counts[1] * counts[2]):
        o, corner = line_at(line, counts, out_at), line_at(line, counts, x_at)
        for _ in range(counts[3]):
            total = out[o : o + channels]
            total[:] = 0
            for tap in taps:
                values = x[corner + tap : corner + tap + channels]
                for c in range(channels):
                    total[c] += values[c]
            for c in range(channels):
                total[c] *= factor
            o, corner = o + out_at[3], corner + x_at[3]


@compiled
def spread_windows(dy, dy_at, out, out_at, taps, counts, channels, factor):
    """Add every gradient times ``factor`` to all of its window: the adjoint of `sum_windows`."""
    for line in range(counts[0] * counts[1] * counts[2]):
        o, corner = line_at(line, counts, dy_at), line_at(line, counts, out_at)
        for _ in range(counts[3]):
            gradient = dy[o : o + channels]
            for tap in taps:
                target = out[corner + tap : corner + tap + channels]
                for c in range(channels):
                    target[c] += gradient[c] * factor
            o, corner = o + dy_at[3], corner + out_at[3]


# -- convolution -----------------------------------------------------------------------------------------------


@compiled
def add_columns(columns, out, out_at, taps, counts, channels):
    """Add the matrix ``columns`` [outputs, taps * channels] to the windows that its rows stand for (col2im)."""
    row = 0
    for line in range(counts[0] * counts[1] * counts[2]):
        corner = line_at(line, counts, out_at)
        for _ in range(counts[3]):
            for tap in taps:
                values, target = columns[row : row + channels], out[corner + tap : corner + tap + channels]
                for c in range(channels):
                    target[c] += values[c]
                row += channels
            corner += out_at[3]


@compiled
def depthwise(x, x_at, taps, filters, out, out_at, counts, channels):
    """`depthwise.depthwise`, with the ``filters`` of one tap after the other."""
    for line in range(counts[0] * counts[1] * counts[2]):
        o, corner = line_at(line, counts, out_at), line_at(line, counts, x_at)
        for _ in range(counts[3]):
            total = out[o : o + channels]
            total[:] = 0
            for tap in range(len(taps)):
                start, row = corner + taps[tap], tap * channels
                values, factors = x[start : start + channels], filters[row : row + channels]
                for c in range(channels):
                    total[c] += values[c] * factors[c]
            o, corner = o + out_at[3], corner + x_at[3]


@compiled
def depthwise_grad_weight(x, x_at, taps, dy, dy_at, out, counts, channels):
    """`depthwise.depthwise_grad_weight`: adds to ``out``, one tap after the other, in float64."""
    for line in range(counts[0] * counts[1] * counts[2]):
        o, corner = line_at(line, counts, dy_at), line_at(line, counts, x_at)
        for _ in range(counts[3]):
            gradient = dy[o : o + channels]
            for tap in range(len(taps)):
                start, row = corner + taps[tap], tap * channels
                values, sums = x[start : start + channels], out[row : row + channels]
                for c in range(channels):
                    sums[c] += values[c] * gradient[c]
            o, corner = o + dy_at[3], corner + x_at[3]


@compiled
def depthwise_grad_input(dy, dy_at, filters, out, out_at, taps, counts, channels):
    """`depthwise.depthwise_grad_input`; ``out`` holds zeros."""
    for line in range(counts[0] * counts[1] * counts[2]):
        o, corner = line_at(line, counts, dy_at), line_at(line, counts, out_at)
        for _ in range(counts[3]):
            gradient = dy[o : o + channels]
            for tap in range(len(taps)):
                start, row = corner + taps[tap], tap * channels
                factors, target = filters[row : row + channels], out[start : start + channels]
                for c in range(channels):
                    target[c] += gradient[c] * factors[c]
            o, corner = o + dy_at[3], corner + out_at[3]
