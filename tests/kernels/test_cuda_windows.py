"""The CUDA kernels over windows and boxes: they compile for every type, and on a CPU give what the reference gives."""

from __future__ import annotations

import math
import re
import shutil
import subprocess

import numpy as np
import pytest
from standin.instances import instances
from standin.on_cpu import OnCpu
from test_kernels_equal import Case, Part, axes_of

from gridnn.kernels import NumpyBackend, get_backend
from gridnn.kernels.cuda.convolution import input_by_elements, input_by_outputs
from gridnn.kernels.cuda.kernels import cuda_kernels
from gridnn.kernels.cuda.module import source

REFERENCE = NumpyBackend("reference").kernels
DTYPES = ("float64", "float32", "float16", "bfloat16")
TOLERANCE = {"float64": 1e-12, "float32": 4e-6, "float16": 4e-3, "bfloat16": 3e-2}
FILES = ("windows.cu", "copies.cu")


class Gemm:
    """Products like those of `Cublas`: sums in more bits than the factors have."""

    def multiply(self, a, b, out, accumulate=False):
        product = a.astype(np.float64) @ b.astype(np.float64)
        out[...] = product + (out if accumulate else 0)


@pytest.fixture(scope="module")
def kernels():
    if not shutil.which("g++"):
        pytest.skip("no g++")
    return cuda_kernels(OnCpu(), Gemm(), address=lambda array: array.ctypes.data)


@pytest.fixture(params=DTYPES)
def dtype(request):
    if request.param == "bfloat16":
        return np.dtype(pytest.importorskip("ml_dtypes").bfloat16)
    return np.dtype(request.param)


class Narrow(Case):
    """A `Case` whose 16-bit arrays the reference gets as float32."""

    def agree(self, kernels, name, *arguments, writes, changes=False):
        mine = [a.copy(i in writes and not changes) if isinstance(a, Part) else a for i, a in enumerate(arguments)]
        theirs = [self._wide(a) for a in mine]
        for one, given in ((REFERENCE, theirs), (kernels, mine)):
            getattr(one, name)(*(a.view if isinstance(a, Part) else a for a in given))
        for i in writes:
            wanted, got = theirs[i].whole.astype(np.float64), mine[i].whole.astype(np.float64)
            scale = max(1.0, float(np.abs(wanted[np.isfinite(wanted)]).max(initial=0)))
            least = TOLERANCE[self.dtype.name] * scale
            np.testing.assert_allclose(got, wanted, rtol=0, atol=least, err_msg=f"{name} {i}")

    def _wide(self, value):
        if isinstance(value, Part):
            return Part(self._wide(value.whole), value.index)
        if not isinstance(value, np.ndarray):
            return value
        return value.astype(np.float32) if value.dtype.name in ("float16", "bfloat16") else value.copy()


# -- sources ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", FILES)
def test_every_kernel_is_tried(file):
    kernels = re.findall(r"KERNEL (\w+)\(", source(file))
    assert set(kernels) == {name.split("<")[0] for name in instances(file)}


@pytest.mark.parametrize("file", FILES)
def test_nvcc_takes_the_kernels(file, tmp_path):
    if not shutil.which("nvcc"):
        pytest.skip("no nvcc")
    used = ",\n".join(f"(void*)&{name}" for name in instances(file))
    (tmp_path / "all.cu").write_text(f"{source(file)}\nvoid* used_kernels[] = {{\n{used}\n}};\n")
    command = ["nvcc", "-std=c++17", "--ptx", "-arch=sm_80", "-Werror", "all-warnings", "-o", "all.ptx", "all.cu"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    ptx = (tmp_path / "all.ptx").read_text()
    assert ptx.count(".visible .entry") == len(instances(file))
    assert ".local" not in ptx, "a kernel keeps an array in local memory"


# -- windows ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", ["whole", "channels", "space", "all"])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_convolution(kernels, dims, dtype, inside):
    for seed, words in ((0, 1 << 16), (1, 1 << 16), (2, 1500), (3, 1500), (4, 6000)):
        case = Narrow(seed, dtype, axes_of(inside, dims))
        kernel, stride, dilation, output, frame = case.geometry(dims)
        if seed in (1, 2):  # one window a tap: the gradient of the input may be a convolution itself
            stride = (1,) * dims
        c, k = case.integers(1, 20, 2) if seed else (16, 8)
        x, dy = case.array(3, *frame, c), case.array(3, *output, k)
        w = case.array(*kernel, c, k, inside=(dims + 1,) if inside in ("channels", "all") else ())
        workspace = np.empty(max(words, 2 * math.prod(kernel) * c * k), dtype)
        case.agree(kernels, "conv", x, w, stride, dilation, dy, workspace, writes={4})
        case.agree(kernels, "conv_grad_input", dy, w, stride, dilation, x, workspace, writes={4})
        dw = case.array(*w.view.shape, inside=(dims + 1,), dtype="float64" if dtype == "float64" else "float32")
        case.agree(kernels, "conv_grad_weight", x, dy, stride, dilation, dw, workspace, writes={4})


@pytest.mark.parametrize("words", [1 << 16, 300])
def test_both_gradients_of_the_input(kernels, words):
    """By elements and by outputs, in tiles of images and of lines."""
    case, one = Narrow(0, np.dtype("float32")), (1, 1)
    x, dy, w = case.array(4, 7, 6, 3), case.array(4, 5, 5, 4), case.array(3, 2, 3, 4)
    workspace = np.empty(words, np.float32)
    given, wanted = np.empty_like(x.view), np.empty_like(x.view)
    REFERENCE.conv_grad_input(dy.view, w.view, one, one, wanted, workspace)
    input_by_outputs(kernels, dy.view, w.view, one, one, given, workspace)
    np.testing.assert_allclose(given, wanted, rtol=0, atol=1e-5)
    given[...] = np.nan
    input_by_elements(kernels, dy.view, w.view, one, given, workspace)
    np.testing.assert_allclose(given, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("inside", ["whole", "channels", "space", "all"])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_depthwise_and_pooling(kernels, dims, dtype, inside):
    for seed in range(3):
        case = Narrow(seed, dtype, axes_of(inside, dims))
        kernel, stride, dilation, output, frame = case.geometry(dims)
        (c,) = case.integers(1, 12, 1)
        x, dy = case.array(3, *frame, c), case.array(3, *output, c)
        w = case.array(*kernel, 1, c, inside=(dims + 1,) if inside == "channels" else ())
        workspace = np.empty(1 << 13, dtype)
        case.agree(kernels, "depthwise", x, w, stride, dilation, dy, workspace, writes={4})
        case.agree(kernels, "depthwise_grad_weight", x, dy, stride, dilation, w, workspace, writes={4})
        case.agree(kernels, "depthwise_grad_input", dy, w, stride, dilation, x, workspace, writes={4})
        frame = tuple(max(f, (o - 1) * s + k) for f, o, s, k in zip(frame, output, stride, kernel, strict=True))
        x = case.array(3, *frame, c)
        index = Part(np.zeros(dy.whole.shape, ("uint8", "uint32")[seed % 2]), dy.index)
        case.agree(kernels, "max_pool", x, kernel, stride, dy, index, workspace, writes={3, 4})
        kernels.max_pool(x.view, kernel, stride, np.empty_like(dy.view), index.view, workspace)
        case.agree(kernels, "max_pool_grad", dy, index, kernel, stride, x, workspace, writes={4})
        case.agree(kernels, "avg_pool", x, kernel, stride, dy, writes={3})
        case.agree(kernels, "avg_pool_grad", dy, kernel, stride, x, workspace, writes={3})
        mean = case.array(3, c, inside=())
        case.agree(kernels, "mean_space", x, 7, mean, writes={2})
        case.agree(kernels, "mean_space_grad", mean, 7, x, writes={2})


def test_the_maximum_with_equal_values_and_nan(kernels, dtype):
    values = [1, 1, 3, 3, 2, np.nan, 5, np.nan, np.nan, 0, -np.inf, -np.inf]
    results = []
    for one, kind in ((REFERENCE, np.dtype("float32")), (kernels, dtype)):
        x = np.array([values], kind).T.reshape(1, 12, 1)
        out, index = np.empty((1, 10, 1), kind), np.empty((1, 10, 1), "uint32")
        one.max_pool(x, (3,), (1,), out, index, np.empty(100, kind))
        results.append((out.astype(np.float64), index))
    np.testing.assert_array_equal(results[0][0], results[1][0])
    np.testing.assert_array_equal(results[0][1], results[1][1])


@pytest.mark.parametrize("shape", [(0, 5, 5, 3), (2, 0, 5, 3), (2, 5, 5, 0)])
def test_empty_arrays(kernels, shape):
    case, one, workspace = Narrow(0, np.dtype("float32")), (1, 1), np.empty(1000, "float32")
    n, _, _, c = shape
    output = (n, max(0, shape[1] - 2), 3)
    x, dy, w = case.array(*shape), case.array(*output, 4), case.array(3, 3, c, 4)
    case.agree(kernels, "conv", x, w, one, one, dy, workspace, writes={4})
    case.agree(kernels, "conv_grad_weight", x, dy, one, one, w, workspace, writes={4})
    case.agree(kernels, "conv_grad_input", dy, w, one, one, x, workspace, writes={4})
    dy, w = case.array(*output, c), case.array(3, 3, 1, c)
    index = Part(np.zeros((*output, c), "uint8"), (slice(None),))
    case.agree(kernels, "depthwise", x, w, one, one, dy, workspace, writes={4})
    case.agree(kernels, "depthwise_grad_weight", x, dy, one, one, w, workspace, writes={4})
    case.agree(kernels, "max_pool", x, (3, 3), one, dy, index, workspace, writes={3, 4})
    case.agree(kernels, "max_pool_grad", dy, index, (3, 3), one, x, workspace, writes={4})
    case.agree(kernels, "avg_pool", x, (3, 3), one, dy, writes={3})
    case.agree(kernels, "repeat", x, (2, 2), (0, 0), case.array(n, shape[1] * 2, 10, c), writes={3})


def test_what_is_refused(kernels):
    x, w, y = (np.zeros(shape, np.float32) for shape in ((1, 4, 3), (3, 3, 2), (1, 3, 2)))
    workspace = np.empty(1000, np.float32)
    with pytest.raises(ValueError, match=r"3 windows over w need .* = 5 elements, the padded input has 4"):
        kernels.conv_grad_input(y, w, (1,), (1,), x, workspace)
    with pytest.raises(ValueError, match=r"3 windows over w need"):
        kernels.max_pool(x, (3,), (1,), y, y.astype("uint8"), workspace)
    x, w, y = (np.zeros(shape, np.float32) for shape in ((1, 5, 3), (3, 1, 3), (1, 3, 3)))
    with pytest.raises(ValueError, match="workspace of 64 bytes, but 9 sums of 8 are needed"):
        kernels.depthwise_grad_weight(x, y, (1,), (1,), w, workspace[:16])


# -- boxes and resampling --------------------------------------------------------------------------------------


def some_boxes(rng, shape, count):
    """Boxes that may overlap, some of them empty."""
    boxes = []
    for _ in range(count):
        ends = [sorted(int(v) for v in rng.integers(0, size + 1, 2)) for size in shape]
        boxes.append(tuple(slice(*pair) for pair in ends))
    return boxes


@pytest.mark.parametrize("inside", ["whole", "channels"])
@pytest.mark.parametrize("shape", [(40,), (6, 8), (3, 5, 4), (2, 5, 6, 16), (2, 3, 4, 3, 5)])
def test_boxes(kernels, shape, inside, dtype):
    case = Narrow(len(shape), dtype, (len(shape) - 1,) if inside == "channels" else ())
    array = case.array(*shape)
    for boxes in ([tuple(slice(0, size) for size in shape)], some_boxes(case.rng, shape, 5), []):
        flat = case.array(sum(array.view[box].size for box in boxes), inside=())
        case.agree(kernels, "pack", array, boxes, flat, writes={2})
        case.agree(kernels, "add", flat, array, boxes, writes={1}, changes=True)
        case.agree(kernels, "fill", array, boxes, -math.inf, writes={0}, changes=True)
    halves = [(slice(start, start + shape[0] // 2),) for start in (0, shape[0] // 2)]
    flat = case.array(sum(array.view[box].size for box in halves), inside=())
    case.agree(kernels, "unpack", flat, array, halves, writes={1}, changes=True)


def test_more_boxes_than_one_launch_takes(kernels):
    case = Narrow(0, np.dtype("float32"))
    array, boxes = case.array(6, 5, 8), some_boxes(case.rng, (6, 5, 8), 70)
    flat = case.array(sum(array.view[box].size for box in boxes))
    case.agree(kernels, "pack", array, boxes, flat, writes={2})
    case.agree(kernels, "add", flat, array, boxes, writes={1}, changes=True)


def test_boxes_of_another_type_and_of_more_dimensions(kernels):
    case, box = Narrow(0, np.dtype("float64")), [(slice(0, 1),)]
    array, flat = case.array(2, 3), case.array(3, dtype="float32")
    case.agree(kernels, "pack", array, box, flat, writes={2})
    deep = case.array(2, 1, 2, 1, 2, 2)
    case.agree(kernels, "pack", deep, box, case.array(8), writes={2})
    case.agree(kernels, "fill", deep, box, 3.0, writes={0}, changes=True)


@pytest.mark.parametrize("channels", [3, 8])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_repeat(kernels, dims, channels, dtype):
    case = Narrow(dims, dtype)
    factors, shifts = case.integers(1, 4, dims), case.integers(0, 5, dims)
    outputs, last = case.integers(0, 8, dims), []
    for count, factor, shift in zip(outputs, factors, shifts, strict=True):
        last.append((count + shift - 1) // factor + 2)
    x, y = case.array(2, *last, channels), case.array(2, *outputs, channels)
    case.agree(kernels, "repeat", x, factors, shifts, y, writes={3})
    case.agree(kernels, "repeat_grad", y, factors, shifts, x, writes={3})


@pytest.mark.parametrize("rule", ["linear", "area"])
@pytest.mark.parametrize("extents", [(5, 10), (5, 15), (7, 3), (4, 6), (1, 4), (9, 2), (3, 1)])
def test_resample(kernels, rule, extents, dtype):
    case, (inputs, outputs) = Narrow(0, dtype), extents
    parts = [((0, inputs), (0, outputs)), ((0, inputs), (outputs // 2, outputs)), ((inputs // 2, inputs), (0, outputs))]
    for here in parts:
        held, made = (stop - start for start, stop in here)
        x, y = case.array(2, 3, held, 5), case.array(2, 3, made, 5)
        case.agree(kernels, "resample", x, 2, rule, extents, here, y, writes={5})
        case.agree(kernels, "resample_grad", y, 2, rule, extents, here, x, writes={5})


# -- on the stand-in for CuPy ----------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_on_the_device(cupy, stride):
    """Its products by cuBLAS on views, everything on one stream that nobody waits for."""
    device, host = get_backend("cupy"), np.dtype("float32")
    case, steps, one = Narrow(0, host), (stride, stride), (1, 1)
    arrays = {"x": (3, 9, 9, 5), "w": (3, 3, 5, 4), "y": (3, *((9 - 3) // stride + 1,) * 2, 4)}
    x, w, y = (case.array(*shape).view for shape in arrays.values())
    on_device, workspaces = [device.asarray(a) for a in (x, w, y)], (np.empty(2000, host), device.empty((2000,), host))
    for kernels, given, workspace in zip((REFERENCE, device.kernels), ((x, w, y), on_device), workspaces, strict=True):
        kernels.conv(*given[:2], steps, one, given[2], workspace)
        kernels.conv_grad_weight(given[0], given[2], steps, one, given[1], workspace)
        kernels.conv_grad_input(given[2], given[1], steps, one, given[0], workspace)
    for wanted, got in zip((x, w, y), on_device, strict=True):
        np.testing.assert_allclose(device.to_host(got), wanted, rtol=2e-5, atol=1e-2)
