"""A convolution as oneDNN computes it: layouts, blocked weights and scratch memory, compiled for one shape."""

from __future__ import annotations

import numpy as np

from gridnn.kernels.cpu.onednn import SCRATCH, Dims, Handle, OneDnn, Primitive

# dnnl_types.h of oneDNN 3
FORWARD_TRAINING, DIRECT = 64, 1
WEIGHTS_MD, DIFF_WEIGHTS_MD = 131, 132
SRC, DST, WEIGHTS, DIFF_SRC, DIFF_DST, DIFF_WEIGHTS = 1, 17, 33, 129, 145, 161
ALIGN = 64  # bytes, a cache line


class OneDnnConvolution:
    """One direction of a convolution on dense arrays ``x`` [n, *padded, c] and ``y`` [n, *space, k].

    The ``direction`` is what is computed from the other two: "output" is y, "input" x and "weight" w. ``shapes`` are
    those of ``x``, ``w`` [*kernel, c, k] and ``y``; ``strides``, in elements, those of ``w``, which may be a slice.
    ``depthwise``: ``w`` [*kernel, 1, c] has one filter a channel.
    """

    def __init__(self, library: OneDnn, direction: str, shapes, strides, stride, dilation, depthwise: bool) -> None:
        x, y = (library.layout(*data_order(shape, dense(shape))) for shape in (shapes[0], shapes[2]))
        shape, strides = (depthwise_order if depthwise else weights_order)(shapes[1], strides)
        plain, free = library.layout(shape, strides), library.layout(shape, None)
        descriptor = _describe(library, direction, x, free, y, stride, dilation)
        self._into_weights = direction == "weight"
        blocked = library.layout_of(descriptor, DIFF_WEIGHTS_MD if self._into_weights else WEIGHTS_MD)
        self._names = ARGUMENTS[direction]
        self._compute = Primitive(library, descriptor, dict(zip(self._names, (x, blocked, y), strict=True)))
        self.name = self._compute.name
        self._reorders: list[Primitive] = []
        if self._into_weights:  # to write, and to add
            self._reorders = [_reorder(library, blocked, plain, how) for how in (library.plain, library.adding)]
        elif not library.same(blocked, plain):
            self._reorders = [_reorder(library, plain, blocked, library.plain)]
        scratch = max(primitive.scratch_bytes for primitive in (self._compute, *self._reorders))
        self._scratch_start = _round_up(library.size(blocked) if self._reorders else 0)
        self.words = (self._scratch_start + scratch + ALIGN) // 4

    def run(self, x: np.ndarray, w: np.ndarray, y: np.ndarray, scratch: np.ndarray, add: bool = False) -> None:
        """Compute in ``scratch``, a flat array of ``words`` elements; ``add`` to the weights that are there."""
        blocked = _round_up(scratch.ctypes.data)
        rest = blocked + self._scratch_start
        weights = blocked if self._reorders else w.ctypes.data
        addresses = dict(zip(self._names, (x.ctypes.data, weights, y.ctypes.data), strict=True))
        if self._reorders and not self._into_weights:
            self._reorders[0].run({SRC: w.ctypes.data, DST: blocked, SCRATCH: rest})
        self._compute.run({**addresses, SCRATCH: rest})
        if self._into_weights:
            self._reorders[add].run({SRC: blocked, DST: w.ctypes.data, SCRATCH: rest})


ARGUMENTS = {
    "output": (SRC, WEIGHTS, DST),
    "input": (DIFF_SRC, WEIGHTS, DIFF_DST),
    "weight": (SRC, DIFF_WEIGHTS, DIFF_DST),
}


def _describe(library: OneDnn, direction: str, x: Handle, w: Handle, y: Handle, stride, dilation) -> Handle:
    """The primitive descriptor of one direction."""
    none = Dims(*(0 for _ in stride))
    geometry = (Dims(*stride), Dims(*(step - 1 for step in dilation)), none, none)
    forward = library.make(
        "convolution_forward_primitive_desc_create",
        library.engine, FORWARD_TRAINING, DIRECT, x, w, None, y, *geometry, library.plain,
    )  # fmt: skip
    if direction == "output":
        return forward
    arguments = (x, w, y) if direction == "input" else (x, w, None, y)
    function = "convolution_backward_" + {"input": "data", "weight": "weights"}[direction]
    return library.make(
        f"{function}_primitive_desc_create", library.engine, DIRECT, *arguments, *geometry, forward, library.plain
    )


def _reorder(library: OneDnn, source: Handle, target: Handle, attributes: Handle) -> Primitive:
    """A copy from one layout to another."""
    engine = library.engine
    descriptor = library.make("reorder_primitive_desc_create", source, engine, target, engine, attributes)
    return Primitive(library, descriptor, {SRC: source, DST: target})


def dense(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides in elements of a contiguous array."""
    strides = [1]
    for size in reversed(shape[1:]):
        strides.append(strides[-1] * max(1, size))
    return tuple(reversed(strides))


def data_order(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """[n, *space, c] as oneDNN counts dimensions, [n, c, *space]."""
    return (shape[0], shape[-1], *shape[1:-1]), (strides[0], strides[-1], *strides[1:-1])


def weights_order(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """[*kernel, c, k] as oneDNN counts dimensions, [k, c, *kernel]."""
    return (shape[-1], shape[-2], *shape[:-2]), (strides[-1], strides[-2], *strides[:-2])


def depthwise_order(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """[*kernel, 1, c] as oneDNN counts the dimensions of c groups, [c, 1, 1, *kernel]."""
    return (shape[-1], 1, 1, *shape[:-2]), (strides[-1], 1, 1, *strides[:-2])


def _round_up(address: int) -> int:
    return -(-address // ALIGN) * ALIGN
