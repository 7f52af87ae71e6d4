"""The CUDA kernels over rows and elements give what the reference gives: on the CPU, and on a GPU by --backend cupy."""

from __future__ import annotations

import math
import shutil
import subprocess

import backends
import ml_dtypes
import numpy as np
import pytest
from standin.instances import instances
from standin.on_cpu import OnCpu, compile_on_cpu

from gridnn.kernels import NumpyBackend, random
from gridnn.kernels.cuda.kernels import cuda_kernels
from gridnn.kernels.cuda.module import source
from gridnn.kernels.cuda.strided import collapsed

DTYPES = {"float32": np.float32, "float64": np.float64, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
EPSILON = {"float32": 2.0**-20, "float64": 2.0**-48, "float16": 2.0**-11, "bfloat16": 2.0**-8}  # of results near 1
FILES = ("elements.cu", "rows.cu", "random.cu")
REFERENCE = NumpyBackend("reference").kernels


class OnDevice:
    """The kernels on arrays of CuPy: every argument of NumPy goes to the device, as it lies in memory, and back."""

    def __init__(self, cupy):
        self.cupy, self.kernels = cupy, cuda_kernels(cupy, None)

    def __getattr__(self, name):
        def call(*args):
            there = {}
            getattr(self.kernels, name)(*(self.moved(value, there) for value in args))
            for host, device in there.values():
                host[...] = device.get()

        return call

    def moved(self, value, there):
        if isinstance(value, tuple):
            return tuple(self.moved(part, there) for part in value)
        if isinstance(value, np.ndarray) and id(value) not in there:
            there[id(value)] = value, self.copied(value)
        return there[id(value)][1] if isinstance(value, np.ndarray) else value

    def copied(self, array):
        whole = array
        while whole.base is not None:
            whole = whole.base
        if not array.size:
            return self.cupy.empty(array.shape, array.dtype)
        start = (array.ctypes.data - whole.ctypes.data) // array.itemsize
        flat = self.cupy.asarray(whole.reshape(-1))[start:]
        return self.cupy.lib.stride_tricks.as_strided(flat, array.shape, array.strides)


@pytest.fixture(scope="module")
def kernels():
    if backends.backend_name() == "cupy":
        return OnDevice(pytest.importorskip("cupy"))
    return cuda_kernels(OnCpu(), None, address=lambda array: array.ctypes.data)


@pytest.fixture(params=DTYPES)
def dtype(request):
    return np.dtype(DTYPES[request.param])


# What part of a larger array of the given shape: contiguous, inside of a frame, every second channel, transposed.
LAYOUTS = {
    "whole": lambda make, shape: make(shape),
    "inside": lambda make, shape: make((shape[0], *(s + 2 for s in shape[1:-1]), shape[-1]))[inner(shape)],
    "channels": lambda make, shape: make((*shape[:-1], shape[-1] + 4))[..., 4:],
    "spread": lambda make, shape: make((*shape[:-1], 2 * shape[-1]))[..., ::2],
    "swapped": lambda make, shape: make(shape[::-1]).T,
    "odd": lambda make, shape: make((math.prod(shape) + 1,))[1:].reshape(shape),
}
SHAPES = [(2, 3, 5, 8), (3, 7), (1, 2, 3, 2, 4), (2, 3, 5, 3), (12,), (2, 0, 4)]


def inner(shape):
    return (slice(None), *(slice(1, 1 + s) for s in shape[1:-1]), slice(None))


def arrays(dtype, seed=0):
    """Makes random arrays of ``dtype`` with NaN nowhere."""
    rng = np.random.default_rng(seed)
    return lambda shape: rng.normal(size=shape).astype(dtype)


def wide(array):
    """What the reference computes with: the same numbers, in float32 at the least."""
    return array.astype(np.float32) if array.dtype.itemsize == 2 else array.copy()


def close(got, wanted, dtype, scale=1.0):
    wanted, got = np.asarray(wanted, np.float64), np.asarray(got.astype(np.float64))
    unit = EPSILON[dtype.name] * scale * max(1.0, float(np.abs(wanted).max(initial=0)))
    np.testing.assert_allclose(got, wanted, rtol=0, atol=unit)


def layouts(shape):
    return [make for name, make in LAYOUTS.items() if name != "inside" or len(shape) > 2]


def each(dtype, count):
    """Tuples of ``count`` arrays of one shape and several layouts, and a result with something in it."""
    make = arrays(dtype)
    for shape in SHAPES:
        for i, layout in enumerate(layouts(shape)):
            others = [layouts(shape)[(i * k) % len(layouts(shape))] for k in range(1, count)]
            yield [way(make, shape) for way in (layout, *others)]


# -- element by element ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, constants", [("relu", ()), ("leaky_relu", (0.25,)), ("tanh", ()), ("convert", ())])
def test_one_array_to_another(kernels, dtype, name, constants):
    for x, out in each(dtype, 2):
        wanted = np.empty_like(wide(out))
        getattr(REFERENCE, name)(wide(x), *constants, wanted)
        getattr(kernels, name)(x, *constants, out)
        close(out, wanted, dtype)


@pytest.mark.parametrize("name, constants", [("relu_grad", ()), ("leaky_relu_grad", (0.25,)), ("tanh_grad", ())])
def test_gradients_of_activations(kernels, dtype, name, constants):
    for y, dy, out in each(dtype, 3):
        wanted = np.empty_like(wide(out))
        getattr(REFERENCE, name)(wide(y), wide(dy), *constants, wanted)
        getattr(kernels, name)(y, dy, *constants, out)
        close(out, wanted, dtype)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_and_its_slope(kernels, dtype, approximate):
    for x, out, slope in each(dtype, 3):
        x *= 3
        wanted, change = np.empty_like(wide(x)), np.empty_like(wide(x))
        REFERENCE.gelu(wide(x), wanted, change, approximate)
        kernels.gelu(x, out, slope, approximate)
        close(out, wanted, dtype)
        close(slope, change, dtype, scale=8)  # 1 - tanh(x)**2, times x**3
        out[...] = 7
        kernels.gelu(x, out, None, approximate)
        close(out, wanted, dtype)


def test_gelu_far_from_zero(kernels):
    for approximate in ("none", "tanh"):
        x, out, slope = np.array([-1e30, -50, 50, 1e30], np.float32), np.empty(4, np.float32), np.empty(4, np.float32)
        kernels.gelu(x, out, slope, approximate)
        np.testing.assert_array_equal(out, [0, 0, 50, np.float32(1e30)])
        np.testing.assert_array_equal(slope, [0, 0, 1, 1])


def test_nan_stays(kernels, dtype):
    x = np.full(5, np.nan, dtype)
    for call in (
        lambda out: kernels.relu(x, out),
        lambda out: kernels.leaky_relu(x, 0.1, out),
        lambda out: kernels.tanh(x, out),
        lambda out: kernels.convert(x, out),
        lambda out: kernels.gelu(x, out, None, "none"),
        lambda out: kernels.gelu(x, out, None, "tanh"),
        lambda out: kernels.bias_activation(x, np.zeros(5, dtype), "relu", out),
    ):
        out = np.zeros(5, dtype)
        call(out)
        assert np.isnan(out.astype(np.float64)).all()


@pytest.mark.parametrize("to", DTYPES)
def test_conversion_is_that_of_numpy(kernels, dtype, to):
    to = np.dtype(DTYPES[to])
    edges = np.array([0, -0.0, 1, 65504, 65519, 65520, 2.0**-14, 2.0**-24, 2.0**-25, 3e-8, np.inf, -np.inf], np.float64)
    numbers = np.concatenate([edges, np.random.default_rng(1).normal(size=500) * 10.0 ** np.arange(-9, 11).repeat(25)])
    with np.errstate(over="ignore"):
        x = numbers.astype(np.float32).astype(dtype)
        wanted = x.astype(np.float32).astype(to) if to.itemsize == 2 else x.astype(to)
    out = np.empty(x.shape, to)
    kernels.convert(x, out)
    np.testing.assert_array_equal(out.view(f"u{to.itemsize}"), wanted.view(f"u{to.itemsize}"))


def test_unscale_tells_what_is_not_finite(kernels, dtype):
    for part in (lambda a: a, lambda a: a[1:], lambda a: a[::3]):
        g, flag = part(np.arange(100).astype(dtype)), np.zeros(1, np.int32)
        wanted = wide(g) * 0.5
        kernels.unscale(g, 0.5, flag)
        np.testing.assert_array_equal(wide(g), wanted)
        assert flag == 0
        for bad in (np.inf, -np.inf, np.nan):
            g[7], flag[0] = bad, 0
            kernels.unscale(g, 0.5, flag)
            assert flag == 1


# -- channels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factors", ["same", "float32"])
def test_factors_of_channels(kernels, dtype, factors):
    if factors == "float32" and dtype.itemsize != 2:
        pytest.skip("only 16-bit data have factors of another type")
    make = arrays(dtype if factors == "same" else np.float32, seed=3)
    for x, out in each(dtype, 2):
        scale, offset = make(x.shape[-1:]), make(x.shape[-1:])
        wanted, sums = np.empty_like(wide(x)), wide(out)
        REFERENCE.affine(wide(x), wide(scale), wide(offset), wanted)
        REFERENCE.add_scaled(wide(x), wide(scale), sums, np.empty(1000, sums.dtype))
        kernels.add_scaled(x, scale, out, None)
        close(out, sums, dtype)
        kernels.affine(x, scale, offset, out)
        close(out, wanted, dtype)


@pytest.mark.parametrize("activation", ["none", "relu", "tanh", "gelu-tanh"])
def test_bias_and_activation(kernels, dtype, activation):
    for x, out in each(dtype, 2):
        bias = arrays(dtype, seed=4)(x.shape[-1:])
        wanted = np.empty_like(wide(x))
        REFERENCE.bias_activation(wide(x), wide(bias), activation, wanted)
        kernels.bias_activation(x, bias, activation, out)
        close(out, wanted, dtype)
        kernels.bias_activation(x, bias, activation, x)
        close(x, wanted, dtype)


@pytest.mark.parametrize("rows", [None, 5000])
def test_sums_over_rows(kernels, dtype, rows):
    cases = each(dtype, 2) if rows is None else [arrays(dtype)((2, rows, channels)) for channels in (1, 3, 8)]
    for x, dy in cases:
        width = x.shape[-1]
        exact = x.astype(np.float64).reshape(-1, width), dy.astype(np.float64).reshape(-1, width)
        centre = np.random.default_rng(5).normal(size=width)
        unit = 1e-11 * max(1, exact[0].shape[0])
        sums, moments, gradients = np.full(width, 7.0), np.full((2, width), 7.0), np.full((2, width), 7.0)
        kernels.sum_rows(x, sums)
        np.testing.assert_allclose(sums, exact[0].sum(axis=0), rtol=0, atol=unit)
        kernels.moments(x, centre, moments, None)
        away = exact[0] - centre
        np.testing.assert_allclose(moments, [away.sum(axis=0), (away * away).sum(axis=0)], rtol=0, atol=unit)
        kernels.moments_grad(x, dy, centre, gradients, None)
        np.testing.assert_allclose(gradients, [exact[1].sum(axis=0), (exact[1] * away).sum(axis=0)], rtol=0, atol=unit)
        narrow = np.empty(width, np.float32)
        kernels.sum_rows(x, narrow)
        np.testing.assert_array_equal(narrow, sums.astype(np.float32))


# -- updates -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("momentum, nesterov", [(0.0, False), (0.9, False), (0.9, True)])
def test_sgd(kernels, kind, momentum, nesterov):
    for size in (0, 1, 37):
        both = [[arrays(kind, seed=s)((size,)) for s in range(3)] for _ in range(2)]
        for each_one, (p, g, m) in zip((REFERENCE, kernels), both, strict=True):
            for _ in range(3):
                each_one.sgd(p, g, m if momentum else None, 0.1, momentum, nesterov, 0.01, np.empty(64, kind))
        for wanted, got in zip(*both, strict=True):
            close(got, wanted, np.dtype(kind))


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_adamw(kernels, kind):
    both = [[arrays(kind, seed=s)((37,)) for s in range(4)] for _ in range(2)]
    for one, (p, g, m, v) in zip((REFERENCE, kernels), both, strict=True):
        v *= v
        for step in (1, 2, 3):
            one.adamw(p, g, m, v, step, 0.01, 0.9, 0.999, 1e-8, 0.05, np.empty(64, kind))
    for wanted, got in zip(*both, strict=True):
        close(got, wanted, np.dtype(kind))


# -- random numbers ----------------------------------------------------------------------------------------------------

SHAPE = (9, 4, 6, 5)
SELECTIONS = [
    ((0, 9), (0, 4), (0, 6), (0, 5)),
    ((2, 7), (0, 4), (1, 6), (0, 5)),
    ((2, 3), (3, 4), (5, 6), (4, 5)),
    ((4, 4), (0, 4), (0, 6), (0, 5)),
    (np.array([8, 0, 3, 3]), (1, 3), (0, 6), (0, 5)),
    (np.array([5]), (1, 3), (0, 6), (2, 5)),
    ((1, 5), (1, 3), np.array([5, 0, 2]), (0, 5)),
    (np.array([8, 0]), (1, 3), np.array([5, 0, 2]), (0, 5)),
]


@pytest.mark.parametrize("box", SELECTIONS, ids=range(len(SELECTIONS)))
def test_random_numbers_have_the_bits_of_the_reference(kernels, dtype, box):
    for key in ((1, 2, 3), (2**63 + 5,)):
        single = random.uniform(np, key, box, SHAPE, np.float64 if dtype.itemsize == 8 else np.float32)
        out = np.full((*single.shape[:-1], 2 * single.shape[-1]), 7, dtype)
        kernels.uniform(key, box, SHAPE, out[..., ::2])
        np.testing.assert_array_equal(out[..., ::2], single.astype(dtype))
        assert (out[..., 1::2] == 7).all()


def test_random_numbers_of_huge_tensors(kernels):
    shape, box = (2**31, 2**31), ((2**31 - 2, 2**31), (2**30, 2**30 + 3))
    out = np.empty((2, 3), np.float32)
    kernels.uniform((4,), box, shape, out)
    np.testing.assert_array_equal(out, random.uniform(np, (4,), box, shape, np.float32))
    scalar = np.empty((), np.float32)
    kernels.uniform((4,), (), (), scalar)
    assert scalar == random.uniform(np, (4,), (), (), np.float32)


@pytest.mark.parametrize("box", SELECTIONS[:-1], ids=range(len(SELECTIONS) - 1))
def test_dropout(kernels, dtype, box):
    shape = random.extents(box)
    x = arrays(dtype)((*shape[:-1], shape[-1] + 1))[..., 1:]
    wanted, mask, got, own = (np.empty(shape, dtype) for _ in range(4))
    REFERENCE.dropout(x, 0.3, (1, 2), box, SHAPE, mask, wanted)
    kernels.dropout(x, 0.3, (1, 2), box, SHAPE, own, got)
    np.testing.assert_array_equal(own, mask)
    np.testing.assert_array_equal(got, wanted)


def test_what_is_dropped_does_not_depend_on_the_type(kernels):
    box, shape = ((0, 500),), (500,)
    kept = []
    for kind in DTYPES.values():
        mask, out = np.empty(shape, kind), np.empty(shape, kind)
        kernels.dropout(np.ones(shape, kind), 0.4, (9,), box, shape, mask, out)
        kept.append(mask.astype(np.float64) != 0)
    assert all((other == kept[0]).all() for other in kept)


# -- asynchronously --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.dtype(np.float32), np.dtype(np.float16)], ids=str)
def test_on_the_device(cupy, dtype):
    kernels = OnDevice(cupy)
    test_gelu_and_its_slope(kernels, dtype, "tanh")
    test_factors_of_channels(kernels, dtype, "same")
    test_sums_over_rows(kernels, dtype, None)
    test_unscale_tells_what_is_not_finite(kernels, dtype)
    test_dropout(kernels, dtype, SELECTIONS[4])
    test_adamw(kernels, np.float32)


# -- the compiler ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", FILES)
def test_nvcc_compiles_every_instance(file, tmp_path):
    if not shutil.which("nvcc"):
        pytest.skip("there is no nvcc here")
    uses = "\n".join(f"    use(&{name});" for name in instances(file))
    text = f"{source(file)}\ntemplate <typename F> void use(F) {{}}\nvoid all() {{\n{uses}\n}}\n"
    (tmp_path / "all.cu").write_text(text)
    command = ["nvcc", "-std=c++17", "--ptx", "-arch=sm_80", "-ftz=true", "-o", "all.ptx", "all.cu"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ptx = (tmp_path / "all.ptx").read_text()
    assert ptx.count(".entry") == len(instances(file))
    assert ".local" not in ptx, "a kernel keeps an array in local memory"


def test_kernels_are_compiled_once_and_refuse_wrong_arguments():
    with pytest.raises(TypeError, match=r"fold<float>: argument 3 has 1 bytes"):
        compile_on_cpu(source("rows.cu"), ["fold<float>"])["fold<float>"](1, 1, [b"12345678"] * 2 + [b"1"] * 3)
    with pytest.raises(RuntimeError, match="g\\+\\+ refuses"):
        compile_on_cpu(source("rows.cu"), ["fold<nothing>"])


def test_axes_are_merged():
    assert collapsed((2, 3, 4), [(12, 4, 1)]) == ((24,), [(1,)])
    assert collapsed((2, 3, 4), [(24, 4, 1), (12, 4, 1)]) == ((2, 12), [(24, 1), (12, 1)])
    assert collapsed((2, 1, 4), [(4, 99, 1)]) == ((8,), [(1,)])
    assert collapsed((), [()]) == ((1,), [(1,)])
    assert collapsed((3, 2), [(0, 1)]) == ((3, 2), [(0, 1)])
