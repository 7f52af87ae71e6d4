"""Convolution on the GPU: products of matrices by cuBLAS, in tiles that stay in the device's cache."""

from __future__ import annotations

import math
from typing import Any

from gridnn.kernels.cuda.descriptors import (
    WINDOWS,
    WORDS,
    five_axes,
    steps_of,
    struct,
    three_axes,
    window_descriptor,
    word,
)
from gridnn.kernels.reference.convolution import is_pointwise
from gridnn.kernels.table import Kernels
from gridnn.kernels.taps import Sizes, check_windows
from gridnn.kernels.tiles import Array, Tile, carve, evenly_spaced, matrix, tiles

ALIGN = 64  # elements


def matmul(kernels, a, b, out):
    kernels.cuda.gemm.multiply(a, b, out)


def add_product(kernels, a, b, out, workspace):
    kernels.cuda.gemm.multiply(a, b, out, accumulate=True)


def conv_grad_input(kernels, dy, w, stride, dilation, out, workspace):
    """By the matrix that has fewer elements to write and to read again, where both ways are possible.

    Either ``dy`` times all taps, [outputs, taps * c], summed where its columns belong in the padded input; or, where
    all strides are 1, the convolution of ``dy`` with the transposed kernel: for every element of the padded input
    what its windows have, [elements, taps * k], times the weights, all summed in the accuracy of the product.
    """
    check_windows(out.shape, w.shape[:-2], stride, dilation, dy.shape)
    if is_pointwise(out, w.shape, stride, dy):
        kernels.matmul(matrix(dy), matrix(w).T, matrix(out))
        return
    *_, channels, outputs = w.shape
    turns = set(stride) == {1} and evenly_spaced(out) and 2 * w.size <= workspace.size
    if turns and math.prod(out.shape[:-1]) * outputs <= math.prod(dy.shape[:-1]) * channels:
        input_by_elements(kernels, dy, w, dilation, out, workspace)
    else:
        input_by_outputs(kernels, dy, w, stride, dilation, out, workspace)


def input_by_outputs(
    kernels: Kernels, dy: Array, w: Array, stride: Sizes, dilation: Sizes, out: Array, workspace: Array
) -> None:
    """Tiles of whole images write their part of the padded input; those of lines overlap in it, and add."""
    kernel, weights, row = w.shape[:-2], matrix(w).T, math.prod(w.shape[:-1])
    whole = dy.size > 0 and math.prod(dy.shape[1:-1]) * row <= workspace.size
    if not whole:
        out[...] = 0
    for tile in tiles(dy.shape[:-1], workspace.size // max(1, row)):
        part = dy[tile]
        columns = carve(workspace, (math.prod(part.shape[:-1]), row))
        kernels.matmul(matrix(part), weights, columns)
        target = out[_corner(tile, stride)]
        if not whole:
            axes = zip(part.shape[1:-1], kernel, stride, dilation, strict=True)
            reached = (slice((count - 1) * step + (taps - 1) * apart + 1) for count, taps, step, apart in axes)
            target = target[(slice(None), *reached)]
        descriptor = window_descriptor(target, part, kernel, stride, dilation)
        size = target.size
        kernels.cuda.windows.launch(
            "add_columns", (out.dtype,), size, columns, target, int(not whole), descriptor, size
        )


def input_by_elements(kernels: Kernels, dy: Array, w: Array, dilation: Sizes, out: Array, workspace: Array) -> None:
    *kernel, channels, outputs = w.shape
    row = math.prod(kernel) * outputs
    transposed = carve(workspace, (row, channels))
    transposed.reshape(*kernel, outputs, channels)[...] = w.swapaxes(-1, -2)
    rest = workspace[-(-transposed.size // ALIGN) * ALIGN :]
    for tile in tiles(out.shape[:-1], rest.size // max(1, row)):
        target = matrix(out[tile])
        columns = carve(rest, (len(target), row))
        _gather(kernels, dy, tile, tuple(kernel), dilation, columns)
        kernels.matmul(columns, transposed, target)


def _gather(kernels: Kernels, dy: Array, tile: Tile, kernel: Sizes, dilation: Sizes, columns: Array) -> None:
    """For every element of ``tile`` of the padded input, the rows of ``dy`` of the windows that contain it."""
    width = word(dy, kernels.cuda.address(dy), kernels.cuda.address(columns), dy.shape[-1] * dy.itemsize)
    row = dy.shape[-1] * dy.itemsize // (width or dy.itemsize)
    descriptor = struct(
        WINDOWS,
        outputs=five_axes((*dy.shape[:-1], row), 1),
        padded=five_axes((*(part.stop - part.start for part in tile), row), 1),
        first=five_axes((*(part.start for part in tile), 0), 0),
        kernel=three_axes(kernel),
        dilation=three_axes(dilation),
        y=five_axes(steps_of(dy, width), 0),
    )
    _copy(kernels, "columns_of_elements", dy, columns, descriptor, width)


def im2col(kernels, x, tile, kernel, stride, dilation, workspace):
    """As the reference; taps of a line that touch are copied as one run of channels."""
    counts, channels = tuple(part.stop - part.start for part in tile), x.shape[-1]
    columns = carve(workspace, (math.prod(counts), math.prod(kernel) * channels))
    corner = x[_corner(tile, stride)]
    line = channels * x.itemsize
    touching = x.strides[-2] == line and x.strides[-1] == x.itemsize and dilation[-1] == 1
    run, taps = (line * kernel[-1], (*kernel[:-1], 1)) if touching else (line, kernel)
    width = word(corner, kernels.cuda.address(corner), kernels.cuda.address(columns), run)
    descriptor = struct(
        WINDOWS,
        outputs=five_axes((*counts, run // (width or x.itemsize)), 1),
        kernel=three_axes(taps),
        stride=three_axes(stride),
        dilation=three_axes(dilation),
        x=five_axes(steps_of(corner, width), 0),
    )
    _copy(kernels, "columns_of_windows", corner, columns, descriptor, width)
    return columns


def _copy(kernels: Kernels, kernel: str, source: Array, columns: Array, descriptor: Any, width: int | None) -> None:
    """Launch a kernel that copies ``source`` into ``columns`` by words of ``width`` bytes; None: by elements."""
    each = width or source.itemsize
    size = columns.nbytes // each
    kernels.cuda.windows.launch(kernel, (WORDS[each],), size, source, columns, descriptor, size)


def _corner(tile: Tile, stride: Sizes) -> Tile:
    """The padded input from the first window of ``tile`` on."""
    return (tile[0], *(slice(part.start * step, None) for part, step in zip(tile[1:], stride, strict=True)))
