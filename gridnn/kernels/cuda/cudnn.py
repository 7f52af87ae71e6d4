"""cuDNN's graphs of one convolution, through NVIDIA's package ``cudnn``: planned once a geometry, run on addresses."""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import Any, NamedTuple

from gridnn.errors import UserError, cause_of
from gridnn.kernels.taps import Sizes
from gridnn.kernels.tiles import Array

MOST = 256 << 20  # bytes that a plan may ask for
ALIGNMENT = 16  # bytes: cuDNN's graphs promise its kernels that every operand lies so
TYPES = {"float32": "FLOAT", "float16": "HALF", "bfloat16": "BFLOAT16"}  # what cuDNN convolves, and calls it
X, W, Y = 1, 2, 3  # the operands' numbers in a graph
CALLS = {  # by direction: the node, what it is given, and what it makes
    "output": ("conv_fprop", {"image": "x", "weight": "w"}, "y"),
    "input": ("conv_dgrad", {"loss": "y", "filter": "w"}, "x"),
    "weight": ("conv_wgrad", {"image": "x", "loss": "y"}, "w"),
}


class Operand(NamedTuple):
    """An array as cuDNN describes it: channels are counted second, wherever they lie, and strides are in elements."""

    # sizes, strides: of [n, c, h, w] or [n, c, d, h, w]; of weights [k, c, *kernel]
    sizes: tuple[int, ...]
    strides: tuple[int, ...]


class Problem(NamedTuple):
    """One direction of a convolution."""

    direction: str  # {"output", "weight", "input"}: what is computed from the other two: ``y``, ``w`` or ``x``
    dtype: str  # of all three; sums are made in float32
    # x, w, y: ``x`` holds its padding, and has the size that ``y`` follows from
    x: Operand
    w: Operand
    y: Operand
    # stride, dilation: one entry per space axis of the operands
    stride: Sizes
    dilation: Sizes


class Plan(NamedTuple):
    """How cuDNN solves a problem, and the bytes of workspace that this needs."""

    graph: Any
    workspace: int


class Cudnn:
    """cuDNN (the module ``cudnn``, its libcudnn loaded) on one ``stream`` of the current device.

    Plans are chosen by cuDNN's heuristics, not by measurement: so all ranks, and the same run tomorrow, have the same.
    Plans whose results differ from run to run, or that sum in less than float32, are left out. With ``tf32``, products
    of float32 may round their factors to the 10 bits of TF32. ``version`` is that of libcudnn.
    """

    def __init__(self, library: Any, stream: int, tf32: bool = False) -> None:
        self._library, self.version = library, library.backend_version_string()
        self._handle = library.create_handle()
        library.set_stream(handle=self._handle, stream=stream)
        note = library.numerical_note
        self._unwanted = [note.NONDETERMINISTIC, note.REDUCED_PRECISION_REDUCTION]
        # What has a tensor core do a float32 product rounds its factors.
        self._exact = self._unwanted + ([] if tf32 else [note.TENSOR_CORE, note.DOWN_CONVERT_INPUTS])

    def plan(self, problem: Problem) -> Plan | None:
        """How to solve ``problem``; None, and a warning, if cuDNN has no plan for it."""
        try:
            graph = self._graph(problem)
            self._build(graph, self._exact if problem.dtype == "float32" else self._unwanted)
        except (self._library.cudnnGraphNotSupportedError, RuntimeError) as error:  # the latter: of a description
            warnings.warn(
                f"cuDNN has no plan for the {problem.direction} of a {problem.dtype} convolution, x {problem.x.sizes}, "
                f"w {problem.w.sizes}, y {problem.y.sizes} ({cause_of(error)}): gridnn's other kernels compute it",
                RuntimeWarning,
                stacklevel=2,
            )
            return None
        return Plan(graph, graph.get_workspace_size())

    def run(self, plan: Plan, x: int, w: int, y: int, workspace: int) -> None:
        """Solve the problem of ``plan`` with operands, and a workspace, at these addresses."""
        plan.graph.execute({X: x, W: w, Y: y}, workspace, handle=self._handle)

    def _graph(self, problem: Problem) -> Any:
        library, numbers = self._library, self._library.data_type
        kind = getattr(numbers, TYPES[problem.dtype])
        graph = library.pygraph(
            io_data_type=kind,
            intermediate_data_type=numbers.FLOAT,
            compute_data_type=numbers.FLOAT,
            handle=self._handle,
        )

        operands = {"x": (problem.x, X), "w": (problem.w, W), "y": (problem.y, Y)}

        def tensor(name: str) -> Any:
            form, number = operands[name]
            made = graph.tensor(name=name, dim=[*form.sizes], stride=[*form.strides], data_type=kind)
            made.set_uid(number)
            return made

        geometry = {"padding": [0] * len(problem.stride), "stride": [*problem.stride], "dilation": [*problem.dilation]}
        call, given, made = CALLS[problem.direction]
        result = getattr(graph, call)(**{name: tensor(operand) for name, operand in given.items()}, **geometry)
        form, number = operands[made]
        result.set_output(True).set_dim([*form.sizes]).set_stride([*form.strides]).set_data_type(kind)
        result.set_uid(number)
        return graph

    def _build(self, graph: Any, unwanted: list[Any]) -> None:
        modes = self._library.heur_mode
        graph.validate()
        graph.build_operation_graph()
        graph.create_execution_plans([modes.A, modes.FALLBACK])
        graph.deselect_numeric_notes(unwanted)
        graph.deselect_workspace_greater_than(MOST)
        graph.check_support()
        graph.build_plans(self._library.build_plan_policy.HEURISTICS_CHOICE)


def make_cudnn(conv: str, cupy: Any, stream: int, tf32: bool) -> Cudnn | None:
    """cuDNN as ``--conv`` asks for it; None: it is not wanted, or not there and not asked for by name.

    `UserError` if it is asked for by name, and cannot be loaded.
    """
    if conv == "gemm":
        return None
    try:
        library = import_module("cudnn")
        library.backend_version_string()  # refuses where libcudnn was not found
    except (ImportError, OSError, RuntimeError) as error:
        if conv == "auto":
            return None
        extra = f"cudnn{cupy.cuda.runtime.runtimeGetVersion() // 1000}"
        raise UserError(
            f"--conv cudnn: cuDNN cannot be loaded ({cause_of(error)}): pip install 'gridnn[{extra}]', or use "
            "--conv gemm"
        ) from error
    return Cudnn(library, stream, tf32)


def operand(array: Array, space: Sizes) -> Operand | None:
    """The first ``space`` elements of the axes of ``array`` [n, *axes, c]; None if cuDNN cannot describe them.

    One axis is described as two, the first of them of size 1. The axes must lie one inside the other, in this order,
    and channels must be next to each other.
    """
    if any(step % array.itemsize for step in array.strides):
        return None
    n, *steps, channel = (step // array.itemsize for step in array.strides)
    if len(space) == 1:
        space, steps = (1, *space), [0, *steps]
    sizes = (array.shape[0], *space, array.shape[-1])
    strides: list[int] = []
    least = 1
    for size, step in zip(reversed(sizes), (channel, *reversed(steps), n), strict=True):
        step = least if size == 1 else step  # an axis of one element may have any stride: that which fits
        if step < least or (not strides and step != 1):
            return None
        strides.insert(0, step)
        least = step * size
    return Operand((sizes[0], sizes[-1], *sizes[1:-1]), (strides[0], strides[-1], *strides[1:-1]))


def pair(sizes: Sizes) -> Sizes:
    """Strides or dilations of one axis as those of two."""
    return (1, *sizes) if len(sizes) == 1 else tuple(sizes)
