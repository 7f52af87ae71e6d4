"""Faster kernels give what the reference gives: every kernel, odd sizes, parts of larger arrays, 1 to 3 space axes."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pytest

from gridnn.errors import UserError
from gridnn.kernels import NumpyBackend
from gridnn.kernels.cpu.choice import CHOICES

REFERENCE = NumpyBackend("reference").kernels
FASTER = [name for name in CHOICES if name != "reference"]
DTYPES = ["float64", "float32"]
WORDS = 1 << 18  # of workspace: everything here in one piece


@pytest.fixture(scope="module", params=FASTER)
def kernels(request):
    try:
        return NumpyBackend(request.param).kernels
    except UserError as error:
        pytest.skip(str(error))


class Part(NamedTuple):
    """An array, and which part of it a kernel is given."""

    whole: np.ndarray
    index: tuple[slice, ...]

    @property
    def view(self):
        return self.whole[self.index]

    @property
    def T(self):
        return Part(self.whole.T, self.index[::-1])

    def copy(self, blank):
        """The same in memory of its own; what the kernel must write holds something else."""
        part = Part(self.whole.copy(order="K"), self.index)
        if blank:
            part.view[...] = 7
        return part


class Case:
    """Random arrays of one case; ``inside`` says along which axes they are parts of larger ones, with NaN around."""

    def __init__(self, seed, dtype, inside=()):
        self.rng, self.dtype, self.inside = np.random.default_rng(seed), dtype, inside

    def array(self, *shape, inside=None, dtype=None):
        axes = self.inside if inside is None else inside
        sizes = [size + 3 if i in axes else size for i, size in enumerate(shape)]
        index = tuple(slice(1, 1 + size) if i in axes else slice(None) for i, size in enumerate(shape))
        part = Part(np.full(sizes, np.nan, dtype or self.dtype), index)
        part.view[...] = self.rng.normal(size=shape)
        return part

    def integers(self, low, high, count):
        return tuple(int(v) for v in self.rng.integers(low, high, count))

    def geometry(self, dims):
        """kernel, stride, dilation, output, frame; the frame may be larger than the windows need."""
        kernel, stride = self.integers(1, 4, dims), self.integers(1, 4, dims)
        dilation, output = self.integers(1, 3, dims), self.integers(1, 7, dims)
        extra = [e if more else 0 for e, more in zip(self.integers(0, 5, dims), self.integers(0, 2, dims), strict=True)]
        sizes = zip(kernel, stride, dilation, output, extra, strict=True)
        return kernel, stride, dilation, output, tuple((o - 1) * s + (k - 1) * d + 1 + e for k, s, d, o, e in sizes)

    def agree(self, kernels, name, *arguments, writes, tolerance=None):
        """Runs kernel ``name`` with both; ``writes`` are the positions of what it writes or changes."""
        blank = writes if name not in CHANGES else ()
        given = [[a.copy(i in blank) if isinstance(a, Part) else a for i, a in enumerate(arguments)] for _ in "12"]
        for one, mine in zip((REFERENCE, kernels), given, strict=True):
            getattr(one, name)(*(a.view if isinstance(a, Part) else a for a in mine))
        for i, (wanted, got) in enumerate(zip(*given, strict=True)):
            if isinstance(wanted, Part):
                scale = max(1.0, float(np.abs(wanted.view).max(initial=0))) if i in writes else 0
                least = tolerance or (1e-12 if self.dtype == "float64" else 3e-6)
                np.testing.assert_allclose(got.whole, wanted.whole, rtol=0, atol=least * scale, err_msg=f"{name} {i}")


CHANGES = ("add_product", "add_scaled", "sgd", "adamw")  # what they write depends on what is there


def axes_of(name, dims):
    return {"whole": (), "channels": (dims + 1,), "space": range(1, dims + 1), "all": range(dims + 2)}[name]


# -- products --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("inside", [(), (0,), (1,), (0, 1)])
@pytest.mark.parametrize("sizes", [(5, 7, 3), (1, 9, 4), (6, 1, 5), (8, 4, 1), (0, 3, 2), (3, 0, 2), (70, 130, 90)])
def test_matmul(kernels, sizes, inside, dtype):
    m, k, n = sizes
    case = Case(m, dtype, inside)
    swapped = tuple(1 - axis for axis in inside)
    for left in (case.array(m, k), case.array(k, m, inside=swapped).T):
        for right in (case.array(k, n), case.array(n, k, inside=swapped).T):
            case.agree(kernels, "matmul", left, right, case.array(m, n), writes={2}, tolerance=1e-5 if k > 9 else None)
    case.agree(kernels, "add_product", left, right, case.array(m, n), np.empty(300, dtype), writes={2}, tolerance=1e-5)
    case.agree(kernels, "matmul", left, right, case.array(n, m, inside=swapped).T, writes={2}, tolerance=1e-5)


# -- windows ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [WORDS, 1500])
@pytest.mark.parametrize("inside", ["whole", "channels", "space", "all"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_convolution(kernels, dims, dtype, inside, words):
    for seed in range(6):
        case = Case(seed, dtype, axes_of(inside, dims))
        kernel, stride, dilation, output, frame = case.geometry(dims)
        c, k = case.integers(1, 20, 2)
        x, dy = case.array(3, *frame, c), case.array(3, *output, k)
        w = case.array(*kernel, c, k, inside=(dims + 1,) if inside in ("channels", "all") else ())
        workspace = np.empty(max(words, 2 * math.prod(kernel) * c + k), dtype)
        case.agree(kernels, "conv", x, w, stride, dilation, dy, workspace, writes={4})
        case.agree(kernels, "conv_grad_weight", x, dy, stride, dilation, w, workspace, writes={4})
        case.agree(kernels, "conv_grad_input", dy, w, stride, dilation, x, workspace, writes={4})


@pytest.mark.parametrize("inside", ["whole", "channels", "space", "all"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_depthwise_and_pooling(kernels, dims, dtype, inside):
    for seed in range(6):
        case = Case(seed, dtype, axes_of(inside, dims))
        kernel, stride, dilation, output, frame = case.geometry(dims)
        (c,) = case.integers(1, 40, 1)
        x, dy = case.array(3, *frame, c), case.array(3, *output, c)
        w = case.array(*kernel, 1, c, inside=(dims + 1,) if inside == "channels" else ())
        workspace = np.empty(WORDS, dtype)
        case.agree(kernels, "depthwise", x, w, stride, dilation, dy, workspace, writes={4})
        case.agree(kernels, "depthwise_grad_weight", x, dy, stride, dilation, w, workspace, writes={4})
        case.agree(kernels, "depthwise_grad_input", dy, w, stride, dilation, x, workspace, writes={4})
        frame = tuple(max(f, (o - 1) * s + k) for f, o, s, k in zip(frame, output, stride, kernel, strict=True))
        x = case.array(3, *frame, c)
        index = Part(np.zeros(dy.whole.shape, "uint8"), dy.index)
        case.agree(kernels, "max_pool", x, kernel, stride, dy, index, workspace, writes={3, 4})
        REFERENCE.max_pool(x.view, kernel, stride, np.empty_like(dy.view), index.view, workspace)
        case.agree(kernels, "max_pool_grad", dy, index, kernel, stride, x, workspace, writes={4})
        case.agree(kernels, "avg_pool", x, kernel, stride, dy, writes={3})
        case.agree(kernels, "avg_pool_grad", dy, kernel, stride, x, workspace, writes={3})


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_maximum_with_equal_values_and_nan(kernels, dtype):
    x = np.array([[1, 1, 3, 3, 2, np.nan, 5, np.nan, np.nan, 0, -np.inf, -np.inf]], dtype).T.reshape(1, 12, 1)
    results = []
    for one in (REFERENCE, kernels):
        out, index = np.empty((1, 10, 1), dtype), np.empty((1, 10, 1), "uint32")
        one.max_pool(x, (3,), (1,), out, index, np.empty(100, dtype))
        results.append((out, index))
    np.testing.assert_array_equal(results[0][0], results[1][0])
    np.testing.assert_array_equal(results[0][1], results[1][1])


@pytest.mark.parametrize("shape", [(0, 5, 5, 3), (2, 0, 5, 3), (2, 5, 5, 0)])
def test_empty_arrays(kernels, shape):
    case = Case(0, "float32")
    n, _, _, c = shape
    output = (n, max(0, shape[1] - 2), 3)
    x, dy, w = case.array(*shape), case.array(*output, 4), case.array(3, 3, c, 4)
    one, workspace = (1, 1), np.empty(1000, "float32")
    case.agree(kernels, "conv", x, w, one, one, dy, workspace, writes={4})
    case.agree(kernels, "conv_grad_weight", x, dy, one, one, w, workspace, writes={4})
    case.agree(kernels, "conv_grad_input", dy, w, one, one, x, workspace, writes={4})
    dy, w = case.array(*output, c), case.array(3, 3, 1, c)
    index = Part(np.zeros((*output, c), "uint8"), (slice(None),))
    case.agree(kernels, "depthwise", x, w, one, one, dy, workspace, writes={4})
    case.agree(kernels, "max_pool", x, (3, 3), one, dy, index, workspace, writes={3, 4})
    case.agree(kernels, "max_pool_grad", dy, index, (3, 3), one, x, workspace, writes={4})
    case.agree(kernels, "avg_pool", x, (3, 3), one, dy, writes={3})
    case.agree(kernels, "relu", x, x, writes={1})
    case.agree(kernels, "affine", x, case.array(c), case.array(c), x, writes={3})


def test_frames_that_end_early_are_refused(kernels):
    x, w, y = (np.zeros(shape, np.float32) for shape in ((1, 4, 3), (3, 3, 2), (1, 3, 2)))
    workspace = np.empty(1000, np.float32)
    for name, arguments in {
        "conv": (x, w, (1,), (1,), y, workspace),
        "conv_grad_weight": (x, y, (1,), (1,), w, workspace),
        "conv_grad_input": (y, w, (1,), (1,), x, workspace),
        "max_pool": (x, (3,), (1,), y, y.astype("uint8"), workspace),
    }.items():
        with pytest.raises(ValueError, match=r"3 windows over w need .* = 5 elements, the padded input has 4"):
            getattr(kernels, name)(*arguments)


def test_many_channels_on_short_lines(kernels):
    """What oneDNN leaves to tiles of GEMMs, and weights that the workspace does not hold."""
    for output, channels in (((3, 3), 160), ((5, 20), 150)):
        case = Case(5, "float32")
        x, dy = case.array(2, *(size + 2 for size in output), channels), case.array(2, *output, channels)
        w, workspace = case.array(3, 3, channels, channels), np.empty(1 << 14, "float32")
        case.agree(kernels, "conv", x, w, (1, 1), (1, 1), dy, workspace, writes={4})
        case.agree(kernels, "conv_grad_weight", x, dy, (1, 1), (1, 1), w, workspace, writes={4})
        case.agree(kernels, "conv_grad_input", dy, w, (1, 1), (1, 1), x, workspace, writes={4})


# -- rows ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", ["whole", "channels", "space", "all"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dims", [0, 1, 2, 3])
def test_rows(kernels, dims, dtype, inside):
    case = Case(dims, dtype, axes_of(inside, dims))
    shape = (*case.integers(2, 9, dims + 1), 13)
    x, y, out = (case.array(*shape) for _ in range(3))
    scale, offset = (case.array(13, inside=()) for _ in range(2))
    wide = [case.array(*s, inside=(), dtype="float64") for s in ((13,), (2, 13))]
    workspace, wide_space = np.empty(1 << 16, dtype), np.empty(1 << 16)
    case.agree(kernels, "relu", x, out, writes={1})
    case.agree(kernels, "relu_grad", x, y, out, writes={2})
    case.agree(kernels, "tanh_grad", x, y, out, writes={2})
    for approximate in ("none", "tanh"):
        case.agree(kernels, "gelu", x, y, out, approximate, writes={1, 2})
    case.agree(kernels, "sum_rows", x, offset, writes={1})
    case.agree(kernels, "affine", x, scale, offset, out, writes={3})
    case.agree(kernels, "add_scaled", x, scale, out, workspace, writes={2})
    # float64 sums of products that the reference rounds to float32 first
    case.agree(kernels, "moments", x, *wide, wide_space, writes={2}, tolerance=1e-12)
    case.agree(kernels, "moments_grad", x, y, *wide, wide_space, writes={3}, tolerance=1e-12)


def test_relu_keeps_nan(kernels):
    x = np.array([np.nan, -1, 0, 2, np.inf, -np.inf], np.float32)
    kernels.relu(x, x)
    np.testing.assert_array_equal(x, np.array([np.nan, 0, 0, 2, np.inf, 0], np.float32))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("inside", [(), (0,), (1,)])
def test_updates(kernels, dtype, inside):
    case = Case(1, dtype, inside)
    p, g, m = (case.array(37, 1) for _ in range(3))
    v = Part(np.abs(case.array(37, 1).whole), p.index)
    flat = [Part(part.whole.reshape(-1), part.index[:1]) if inside != (1,) else part for part in (p, g, m, v)]
    p, g, m, v = flat
    if inside == (1,):
        p, g, m, v = (Part(part.whole[:, 1], (slice(None),)) for part in flat)  # not contiguous
    scratch = np.empty(14, dtype)
    for momentum, nesterov in ((0.0, False), (0.9, False), (0.9, True)):
        held = m if momentum else None
        case.agree(kernels, "sgd", p, g, held, 0.1, momentum, nesterov, 0.01, scratch, writes={0, 2})
    case.agree(kernels, "adamw", p, g, m, v, 3, 0.1, 0.9, 0.99, 1e-8, 0.01, scratch, writes={0, 2, 3})
