"""A stand-in for NVIDIA's package ``cudnn`` and its libcudnn: graphs of one convolution on the stand-in for CuPy.

It has the signatures of the real one, refuses what that refuses, and convolves by the addresses, sizes and strides that
it is given, when the stream comes to it. A workspace is overwritten, as cuDNN may.
"""

from __future__ import annotations

import itertools
import sys
from enum import Enum
from importlib.machinery import ModuleSpec
from types import ModuleType

import numpy as np

STEPS = ("validate", "build_operation_graph", "create_execution_plans", "check_support", "build_plans")
data_type = Enum("data_type", "FLOAT HALF BFLOAT16 DOUBLE NOT_SET")
heur_mode = Enum("heur_mode", "A B FALLBACK")
build_plan_policy = Enum("build_plan_policy", "HEURISTICS_CHOICE ALL")
numerical_note = Enum("numerical_note", "TENSOR_CORE DOWN_CONVERT_INPUTS REDUCED_PRECISION_REDUCTION NONDETERMINISTIC")


class cudnnGraphNotSupportedError(Exception):
    pass


class Log:
    """What was planned and run, by direction, and the notes that were refused."""

    def __init__(self, workspace, refuse):
        self.workspace, self.refuse = workspace, refuse
        self.planned, self.run, self.notes = [], [], []


def install(monkeypatch, workspace=1000, refuse=(), missing=False) -> Log:
    """Let ``import cudnn`` find this module.

    Every plan asks for ``workspace`` bytes; there is none for the operations in ``refuse``. With ``missing`` there is
    no libcudnn.
    """
    log = Log(workspace, refuse)

    def version() -> str:
        if missing:
            raise RuntimeError("Unable to find symbol cudnnGetVersion")
        return "9.28.0"

    module = ModuleType("cudnn")
    module.__spec__ = ModuleSpec("cudnn", None)
    module.backend_version_string = version
    module.pygraph = type("pygraph", (pygraph,), {"log": log})
    for part in (data_type, heur_mode, build_plan_policy, numerical_note, cudnnGraphNotSupportedError):
        setattr(module, part.__name__, part)
    module.create_handle, module.set_stream = create_handle, set_stream
    monkeypatch.setitem(sys.modules, "cudnn", module)
    return log


class Handle:
    stream = 0


def create_handle():
    return Handle()


def set_stream(handle, stream):
    handle.stream = stream


class Tensor:
    uid, virtual = None, True

    def __init__(self, dim=None, stride=None, data_type=None):
        self.dim, self.stride, self.data_type = dim, stride, data_type

    def set_output(self, value):
        self.virtual = not value
        return self

    def set_dim(self, dim):
        self.dim = dim
        return self

    def set_stride(self, stride):
        self.stride = stride
        return self

    def set_data_type(self, dtype):
        self.data_type = dtype
        return self

    def set_uid(self, uid):
        self.uid = uid
        return self

    def over(self, address):
        """The memory at ``address``, [n, c, *space]."""
        from cupy.cuda import runtime

        assert address % 16 == 0, "cuDNN promises aligned operands to its kernels"
        dtype = _dtype(self.data_type)
        reach = sum((size - 1) * step for size, step in zip(self.dim, self.stride, strict=True)) + 1
        memory = runtime.raw(address, reach * dtype.itemsize)
        return np.ndarray(self.dim, dtype, memory, 0, [step * dtype.itemsize for step in self.stride])


class pygraph:
    log: Log

    def __init__(
        self, name="test_graph", io_data_type=None, intermediate_data_type=None, compute_data_type=None, handle=None
    ):
        assert isinstance(handle, Handle) and intermediate_data_type is compute_data_type is data_type.FLOAT
        self._done, self._tensors = [], {}

    def tensor(self, dim, stride=None, data_type=None, name=""):
        assert all(type(value) is int for value in (*dim, *stride)) and len(dim) == len(stride) in (4, 5)
        return Tensor(dim, stride, data_type)

    def conv_fprop(self, image, weight, padding, stride, dilation):
        return self._node("fprop", {"x": image, "w": weight, "y": Tensor()}, padding, stride, dilation)

    def conv_dgrad(self, loss, filter, padding, stride, dilation):
        return self._node("dgrad", {"y": loss, "w": filter, "x": Tensor()}, padding, stride, dilation)

    def conv_wgrad(self, image, loss, padding, stride, dilation):
        return self._node("wgrad", {"x": image, "y": loss, "w": Tensor()}, padding, stride, dilation)

    def _node(self, operation, operands, padding, stride, dilation):
        assert len(padding) == len(stride) == len(dilation) == 2 or len(padding) == len(stride) == len(dilation) == 3
        assert not any(padding)
        self._operation, self._operands, self._steps = operation, operands, list(zip(stride, dilation, strict=True))
        return list(operands.values())[-1]

    def validate(self):
        self._step("validate")
        x, w, y = (self._operands[name] for name in "xwy")
        assert list(self._operands.values())[-1].virtual is False
        for size, taps, count, (step, apart) in zip(x.dim[2:], w.dim[2:], y.dim[2:], self._steps, strict=True):
            assert (size - (taps - 1) * apart - 1) // step + 1 == count, "the sizes of x and y do not fit"
        assert x.dim[0] == y.dim[0] and w.dim[0] == y.dim[1] and x.dim[1] % w.dim[1] == 0
        assert w.dim[0] % (x.dim[1] // w.dim[1]) == 0
        self._tensors = {tensor.uid: name for name, tensor in self._operands.items()}
        assert len(self._tensors) == 3 and None not in self._tensors

    def build_operation_graph(self):
        self._step("build_operation_graph")

    def create_execution_plans(self, heuristics, /):
        self._step("create_execution_plans")
        kinds = {tensor.data_type for tensor in self._operands.values()}
        if len(kinds) > 1 or data_type.DOUBLE in kinds or self._operation in self.log.refuse:
            raise cudnnGraphNotSupportedError("No valid engine configs")

    def deselect_numeric_notes(self, notes):
        assert self._done[-1] == "create_execution_plans", "cuDNN forgets what is refused before there are plans"
        self.log.notes.append({note.name for note in notes})

    def deselect_workspace_greater_than(self, workspace):
        if self.log.workspace > workspace:
            self.log.refuse = ("fprop", "dgrad", "wgrad")

    def check_support(self):
        self._step("check_support")

    def build_plans(self, policy):
        self._step("build_plans")
        if self._operation in self.log.refuse:
            raise cudnnGraphNotSupportedError("no plan in the list could be built")
        self.log.planned.append(self._operation)

    def _step(self, name):
        assert len(self._done) == STEPS.index(name), (self._done, name)
        self._done.append(name)

    def get_workspace_size(self):
        return self.log.workspace

    def execute(self, tensor_dict, workspace=None, /, handle=None):
        from cupy.cuda import runtime

        assert len(self._done) == len(STEPS) and set(tensor_dict) == set(self._tensors)
        assert all(type(value) is int for value in (*tensor_dict.values(), workspace)) and workspace % 256 == 0
        x, w, y = (self._operands[name].over(tensor_dict[self._operands[name].uid]) for name in "xwy")
        room = runtime.raw(workspace, self.log.workspace)

        def run():
            room[...] = 0xFF
            CONVOLUTIONS[self._operation](x, w, y, self._steps)

        self.log.run.append(self._operation)
        runtime.queue_of(handle.stream).push(self._operation, run)


def _taps(w, y, steps):
    """Every tap of the weights, and the elements of x that it meets."""
    for tap in itertools.product(*(range(size) for size in w.shape[2:])):
        starts = [i * apart for i, (_, apart) in zip(tap, steps, strict=True)]
        sizes = zip(starts, y.shape[2:], steps, strict=True)
        yield (..., *tap), (..., *(slice(i, i + (count - 1) * step + 1, step) for i, count, (step, _) in sizes))


def _wide(array, groups=1, axis=1):
    """In float32, channels divided into groups."""
    shape = (*array.shape[:axis], groups, array.shape[axis] // groups, *array.shape[axis + 1 :])
    return array.astype(np.float32).reshape(shape)


def _fprop(x, w, y, steps):
    groups = x.shape[1] // w.shape[1]
    total, wide, filters = np.zeros(y.shape, np.float32), _wide(x, groups), _wide(w, groups, 0)
    for tap, met in _taps(w, y, steps):
        total += np.einsum("ngc...,gkc->ngk...", wide[met], filters[tap]).reshape(y.shape)
    y[...] = total


def _dgrad(x, w, y, steps):
    groups = x.shape[1] // w.shape[1]
    total, wide, filters = np.zeros(x.shape, np.float32), _wide(y, groups), _wide(w, groups, 0)
    for tap, met in _taps(w, y, steps):
        total[met] += np.einsum("ngk...,gkc->ngc...", wide, filters[tap]).reshape(total[met].shape)
    x[...] = total


def _wgrad(x, w, y, steps):
    groups = x.shape[1] // w.shape[1]
    wide, gradient = _wide(x, groups), _wide(y, groups)
    for tap, met in _taps(w, y, steps):
        flat = (array.reshape(*array.shape[:3], -1) for array in (wide[met], gradient))
        w[tap] = np.einsum("ngcs,ngks->gkc", *flat).reshape(w.shape[:2])


CONVOLUTIONS = {"fprop": _fprop, "dgrad": _dgrad, "wgrad": _wgrad}


def _dtype(kind):
    if kind is data_type.BFLOAT16:
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype({data_type.FLOAT: np.float32, data_type.HALF: np.float16, data_type.DOUBLE: np.float64}[kind])
