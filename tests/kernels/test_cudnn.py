"""Convolutions through cuDNN: what is asked of it, where it writes, and what is left to cuBLAS.

cudnn is a fake here, which convolves by addresses, sizes and strides; its signatures are compared with the real ones
where those are installed.
"""

import importlib.util
import inspect
import re

import fake_cudnn
import numpy as np
import pytest
from running import LENET, trained

from gridnn.errors import UserError
from gridnn.kernels import NumpyBackend, get_backend
from gridnn.kernels.cuda.cudnn import operand
from gridnn.kernels.cuda.cudnn_kernels import covered, transposed_weights
from gridnn.train.config import RunConfig

REFERENCE = NumpyBackend("reference").kernels
TOLERANCES = {"float32": 4e-6, "float16": 3e-3, "bfloat16": 2e-2}
KERNEL, OUTPUT = (2, 3, 2), (3, 2, 4)
STEPS = ((1, 1, 0), (1, 1, 2), (2, 1, 1), (2, 1, 3), (3, 2, 0), (1, 3, 1))  # stride, dilation, elements left over
LEFT_OVER = 3.0  # what results hold at first


@pytest.fixture
def log(standin, monkeypatch):
    return fake_cudnn.install(monkeypatch)


class Case:
    """A convolution on the device, and what the reference makes of it.

    The frame goes on for ``beyond`` elements after the last window. With ``inside`` all arrays are parts of larger
    ones (weights of their channels), which must keep what is around them.
    """

    def __init__(self, dtype="float32", dims=2, stride=1, dilation=1, beyond=0, inside=False, depthwise=False, ci=8):
        self.backend = get_backend("cupy", conv="cudnn")
        self.kernels, self.dtype = self.backend.kernels, self.backend.dtype(dtype)
        self.rng, self.inside, self.depthwise = np.random.default_rng(dims + stride), inside, depthwise
        kernel, output = KERNEL[-dims:], OUTPUT[-dims:]
        self.steps = (stride,) * dims, (dilation,) * dims
        frame = [(n - 1) * stride + (k - 1) * dilation + 1 + beyond for n, k in zip(output, kernel, strict=True)]
        co = ci if depthwise else 5 if not inside else 16
        self.x, self.dx = self.array(3, *frame, ci), self.array(3, *frame, ci)
        self.y, self.dy = self.array(3, *output, co), self.array(3, *output, co)
        self.w, self.dw = (self.array(*kernel, 1 if depthwise else ci, co, around=0) for _ in range(2))
        self.workspace = self.backend.workspace(self.dtype)

    def array(self, *shape, around=1):
        """An array on the device, and the same in float32."""
        whole = (*(size + 2 * around for size in shape[:-1]), shape[-1] + 16) if self.inside else shape
        part = (*(slice(around, around + size) for size in shape[:-1]), slice(8, -8)) if self.inside else ...
        values = self.rng.standard_normal(whole).astype(self.dtype)
        return self.backend.asarray(values)[part], values.astype(np.float32)[part]

    def check(self, names=("", "_grad_weight", "_grad_input")):
        for name in names:
            given = {"": ("x", "w", "y"), "_grad_weight": ("x", "dy", "dw"), "_grad_input": ("dy", "w", "dx")}[name]
            method = ("depthwise" if self.depthwise else "conv") + name
            for side, kernels, workspace in ((0, self.kernels, self.workspace), (1, REFERENCE, np.empty(4096, "f4"))):
                first, second, out = (getattr(self, part)[side] for part in given)
                getattr(kernels, method)(first, second, *self.steps, out, workspace)
            self.equal(getattr(self, given[-1]), method)

    def equal(self, pair, what=""):
        got, wanted = self.backend.to_host(whole_of(pair[0])).astype(np.float32), whole_of(pair[1])
        least = TOLERANCES[self.dtype.name] * max(1.0, np.abs(wanted).max())
        np.testing.assert_allclose(got, wanted, rtol=0, atol=least, err_msg=what)


def whole_of(array):
    """The array that ``array`` is a part of."""
    return array if array.base is None or array.base.ndim != array.ndim else array.base


ALL = ["fprop", "wgrad", "dgrad"]


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_the_numbers_of_the_reference(log, dtype, dims, inside):
    for stride, dilation, beyond in STEPS if dtype == "float32" else STEPS[1::2]:
        log.run.clear()
        Case(dtype, dims, stride, dilation, beyond, inside).check()
        assert log.run == ALL, (stride, dilation, beyond)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_depthwise(log, dims):
    for stride, inside in ((1, False), (2, True)):
        log.run.clear()
        Case("float32", dims, stride, beyond=3, inside=inside, depthwise=True).check()
        assert log.run == ALL


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_gradient_in_float32(log, dtype):
    case = Case(dtype)
    wide = case.backend.full(case.dw[0].shape, LEFT_OVER, "float32")
    case.dw = wide, case.dw[1]
    case.check(["_grad_weight"])
    assert log.run == ["wgrad"]


def test_odd_channels_in_a_larger_array_are_left_to_cublas(log):
    """Their addresses are not multiples of 16 bytes."""
    case = Case(ci=3)
    case.x = case.backend.asarray(np.pad(case.x[1], ((0, 0), (0, 0), (0, 0), (1, 0))))[..., 1:], case.x[1]
    case.check([""])
    assert log.run == []


def test_one_product_is_left_to_cublas(log):
    case = Case()
    x, w, y = case.array(2, 4, 4, 8), case.array(1, 1, 8, 5), case.array(2, 4, 4, 5)
    case.kernels.conv(x[0], w[0], (1, 1), (1, 1), y[0], case.workspace)
    np.testing.assert_allclose(case.backend.to_host(y[0]), x[1] @ w[1][0, 0], rtol=0, atol=1e-5)
    assert log.planned == []


def test_float64_is_left_to_cublas(log):
    backend = get_backend("cupy", conv="auto")
    x, w, y = (backend.full(shape, 1.0, "float64") for shape in ((2, 4, 4, 3), (2, 2, 3, 5), (2, 3, 3, 5)))
    backend.kernels.conv(x, w, (1, 1), (1, 1), y, backend.workspace("float64"))
    assert (backend.to_host(y) == 12).all() and log.planned == []


def test_nothing_at_all(log):
    backend = get_backend("cupy", conv="cudnn")
    x, w, y = (backend.full(shape, 1.0, "float32") for shape in ((0, 4, 4, 3), (2, 2, 3, 5), (0, 3, 3, 5)))
    backend.kernels.conv(x, w, (1, 1), (1, 1), y, backend.workspace("float32"))
    backend.kernels.conv_grad_weight(x, y, (1, 1), (1, 1), w, backend.workspace("float32"))
    assert (backend.to_host(w) == 0).all() and log.planned == []


def test_each_geometry_is_planned_once(log):
    case = Case()
    for _ in range(3):
        case.check()
    assert log.planned == ALL and log.run == 3 * ALL


def test_without_a_plan(standin, monkeypatch):
    log = fake_cudnn.install(monkeypatch, refuse=("dgrad",))
    case = Case(beyond=2)
    with pytest.warns(
        RuntimeWarning, match=r"no plan for the input of a float32 .* \(No valid engine configs\): gridnn"
    ):
        case.check()
    case.check()
    assert log.run == 2 * ["fprop", "wgrad"] and len(log.notes) == 2


def test_a_plan_that_asks_for_too_much(standin, monkeypatch):
    log = fake_cudnn.install(monkeypatch, workspace=1 << 40)
    with pytest.warns(RuntimeWarning, match="cuDNN has no plan for"):
        Case().check()
    assert log.run == []


def test_a_window_too_many(log):
    case = Case()
    with pytest.raises(ValueError, match="windows over w need"):
        case.kernels.conv(case.x[0][:, :, :-1], case.w[0], *case.steps, case.y[0], case.workspace)


@pytest.mark.parametrize("tf32", [False, True])
def test_plans_that_are_not_wanted(log, tf32):
    backend = get_backend("cupy", tf32=tf32)
    for dtype in ("float32", "float16"):
        x, w, y = (backend.full(shape, 1.0, dtype) for shape in ((2, 4, 4, 8), (2, 2, 8, 8), (2, 3, 3, 8)))
        backend.kernels.conv(x, w, (1, 1), (1, 1), y, backend.workspace(dtype))
    always = {"NONDETERMINISTIC", "REDUCED_PRECISION_REDUCTION"}
    assert log.notes == [always if tf32 else always | {"TENSOR_CORE", "DOWN_CONVERT_INPUTS"}, always]


# -- memory, captures ------------------------------------------------------------------------------------------


def test_a_small_workspace(log):
    case = Case()
    for words in (0, 5, 300, 1 << 14):
        case.workspace = case.backend.empty((words,), "float32")
        case.check()
    assert log.run == 4 * ALL


def test_a_step_takes_no_memory(log):
    case = Case()
    case.workspace = case.workspace[:10]
    case.check()
    used = case.backend.pool.used
    case.check()
    assert case.backend.pool.used == used


def test_a_captured_step_keeps_its_room(standin, log):
    """What was captured runs in the room of its time, though later plans have a larger one."""
    case, larger = Case(), Case(ci=64)
    case.workspace = larger.workspace = case.workspace[:10]
    case.check()
    stream = standin.cuda.get_current_stream()
    stream.begin_capture()
    x, w, y = (getattr(case, name)[0] for name in "xwy")
    case.kernels.conv(x, w, *case.steps, y, case.workspace)
    graph = stream.end_capture()
    larger.kernels = case.kernels
    larger.check()
    after = [case.backend.full((640,), 7.0, "float32") for _ in range(20)]  # of the size of that room
    y[...] = np.nan
    graph.launch(stream)
    case.equal(case.y)
    assert all((case.backend.to_host(array) == 7).all() for array in after)


# -- choice ----------------------------------------------------------------------------------------------------


def test_who_convolves(standin, monkeypatch):
    for conv in ("auto", "gemm"):
        assert "cuDNN" not in get_backend("cupy", conv=conv).kernels.described("float32")
    fake_cudnn.install(monkeypatch)
    for conv in ("auto", "cudnn"):
        kernels = get_backend("cupy", conv=conv).kernels
        assert kernels.described("float32").startswith("cuDNN 9.28.0 (convolutions that it has a plan for), cuBLAS (pr")
        assert "cuDNN" not in kernels.described("float64")
    assert "cuDNN" not in get_backend("cupy", conv="gemm").kernels.described("float32")


def test_no_cudnn(standin, monkeypatch):
    remedy = r"pip install 'gridnn\[cudnn12\]', or use --conv gemm"
    monkeypatch.setitem(__import__("sys").modules, "cudnn", None)
    with pytest.raises(UserError, match=rf"--conv cudnn: cuDNN cannot be loaded \(.*cudnn.*\): {remedy}"):
        get_backend("cupy", conv="cudnn")
    fake_cudnn.install(monkeypatch, missing=True)
    with pytest.raises(UserError, match=rf"\(Unable to find symbol cudnnGetVersion\): {remedy}"):
        get_backend("cupy", conv="cudnn")
    assert "cuDNN" not in get_backend("cupy", conv="auto").kernels.described("float32")


def test_options():
    with pytest.raises(UserError, match="--conv gemm has no effect with --backend numpy"):
        RunConfig.of(conv="gemm").validate()
    with pytest.raises(
        UserError, match="--conv cudnn: cuDNN convolves no float64: use --conv gemm, or another --dtype"
    ):
        RunConfig.of(backend="cupy", conv="cudnn", dtype="float64").validate()
    RunConfig.of(backend="cupy", conv="cudnn", dtype="bfloat16").validate()


def test_a_run_with_cudnn_is_a_run_without(log, comm):
    if comm.size > 1:
        pytest.skip("on one rank")
    config = LENET.replaced(backend="cupy", dtype="float32", steps=3)
    plain = trained(config.replaced(conv="gemm"), comm)
    assert not log.run
    np.testing.assert_allclose(trained(config, comm).curve, plain.curve, rtol=1e-5)
    assert set(log.run) == set(ALL)


# -- integers --------------------------------------------------------------------------------------------------


def test_what_cudnn_is_covered():
    assert covered((9,), (3,), (2,), (1,), (4,)) == (9,)
    assert covered((10,), (3,), (2,), (1,), (4,)) == (10,)  # the last element is in no window
    assert covered((11,), (3,), (2,), (1,), (4,)) == (9,)  # a fifth window would fit
    assert covered((12, 7), (3, 2), (1, 3), (2, 1), (4, 2)) == (8, 7)


def test_operands():
    array = np.empty((4, 6, 7, 16), np.float32)
    assert operand(array, (6, 7)) == ((4, 16, 6, 7), (672, 1, 112, 16))
    assert operand(array[1:, 2:, :, :5], (3, 7)) == ((3, 5, 3, 7), (672, 1, 112, 16))
    assert operand(array[:, 0], (7,)) == ((4, 16, 1, 7), (672, 1, 112, 16))
    assert operand(array[:1, :1], (1, 7)) == ((1, 16, 1, 7), (112, 1, 112, 16))
    assert operand(array[..., ::2], (6, 7)) is None
    assert operand(array.swapaxes(1, 2), (7, 6)) is None
    assert operand(np.broadcast_to(array[:1], array.shape), (6, 7)) is None
    assert transposed_weights((2, 3, 5, 7)) == ((7, 5, 2, 3), (30, 1, 15, 5))
    assert transposed_weights((3, 5, 7)) == ((7, 5, 1, 3), (15, 1, 15, 5))


def parameters(function):
    """The names of a function's parameters; of one written in C++, from its description."""
    try:
        return set(inspect.signature(function).parameters)
    except ValueError:
        return {"self", *re.findall(r"(\w+): ", function.__doc__)}


def test_the_fake_has_the_real_signatures():
    if importlib.util.find_spec("cudnn") is None:
        pytest.skip("nvidia-cudnn-frontend is not installed")
    try:
        import cudnn
    except OSError as error:
        pytest.skip(f"libcudnn is not installed: {error}")
    for name in ("data_type", "heur_mode", "build_plan_policy", "numerical_note"):
        members = [member.name for member in getattr(fake_cudnn, name)]
        assert all(hasattr(getattr(cudnn, name), member) for member in members)
    for name in ("__init__", "tensor", "execute", *fake_cudnn.STEPS, "get_workspace_size"):
        real = parameters(getattr(cudnn.pygraph, name))
        mine = inspect.signature(getattr(fake_cudnn.pygraph, name)).parameters.values()
        named = {p.name for p in mine if p.kind is not p.POSITIONAL_ONLY}
        assert "args" in real or named <= real, name
    for name in ("conv_fprop", "conv_dgrad", "conv_wgrad", "deselect_numeric_notes", "deselect_workspace_greater_than"):
        assert hasattr(cudnn.pygraph, name)
    for name in ("set_output", "set_dim", "set_stride", "set_data_type", "set_uid"):
        assert hasattr(cudnn.tensor, name)
