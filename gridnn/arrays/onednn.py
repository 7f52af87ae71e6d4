"""oneDNN through its C API: convolutions of dense channels-last float32 arrays, compiled once per shape and kept.

Names and numbers are those of ``dnnl.h`` and ``dnnl_types.h`` of oneDNN 3 (Intel, oneDNN developer guide).
"""

from __future__ import annotations

import ctypes
from importlib.metadata import PackageNotFoundError, distribution

import numpy as np

PACKAGE, LIBRARY = "onednn-cpu-gomp", "libdnnl.so.3"
CPU, IN_ORDER, UNDEFINED, FLOAT32, ANY_LAYOUT, USER_SCRATCH = 1, 1, 0, 3, 1, 1
FORWARD_TRAINING, DIRECT = 64, 1
WEIGHTS_MD, DIFF_WEIGHTS_MD, SCRATCH_MD, IMPLEMENTATION = 131, 132, 136, 8
SRC, DST, WEIGHTS, SCRATCH, DIFF_SRC, DIFF_DST, DIFF_WEIGHTS = 1, 17, 33, 80, 129, 145, 161
ALIGN = 64  # bytes, a cache line

Handle = ctypes.c_void_p
Dims = ctypes.c_int64 * 12  # DNNL_MAX_NDIMS


class Argument(ctypes.Structure):
    """``dnnl_exec_arg_t``: what a memory is to a primitive."""

    _fields_ = (("arg", ctypes.c_int), ("memory", Handle))


class OneDnn:
    """The library, with one engine and one stream.

    Raises
    ------
    ImportError
        If the package is not installed, or has no library for this system.
    """

    def __init__(self) -> None:
        self._library = ctypes.CDLL(library_path())
        self._library.dnnl_primitive_desc_query_md.restype = Handle
        self._library.dnnl_memory_desc_get_size.restype = ctypes.c_size_t
        self._library.dnnl_version.restype = ctypes.POINTER(ctypes.c_int * 3)
        share_threads()
        self.engine = self.make("engine_create", ctypes.c_int(CPU), ctypes.c_size_t(0))
        self.stream = self.make("stream_create", self.engine, ctypes.c_uint(IN_ORDER))
        self.plain = self._attributes(add=False)
        self.adding = self._attributes(add=True)

    @property
    def version(self) -> str:
        """As in "3.2.1"."""
        return ".".join(map(str, self._library.dnnl_version().contents))

    def call(self, function: str, *arguments) -> None:
        """``dnnl_`` + ``function``.

        Raises
        ------
        RuntimeError
            With the library's status where it is no success.
        """
        status = getattr(self._library, f"dnnl_{function}")(*arguments)
        if status:
            raise RuntimeError(f"oneDNN: dnnl_{function} returned status {status}")

    def make(self, function: str, *arguments) -> Handle:
        """The object that ``dnnl_`` + ``function`` writes to its first argument."""
        made = Handle()
        self.call(function, ctypes.byref(made), *arguments)
        return made

    def sgemm(self, a: np.ndarray, b: np.ndarray, out: np.ndarray, add: bool) -> None:
        """``out = a @ b``, or added to what is there, for float32 matrices that `order_of` knows, ``out`` by rows."""
        (order_a, step_a), (order_b, step_b) = order_of(a), order_of(b)
        size = ctypes.c_int64
        self.call(
            "sgemm", ctypes.c_char(order_a), ctypes.c_char(order_b), size(len(a)), size(b.shape[1]), size(len(b)),
            ctypes.c_float(1), Handle(a.ctypes.data), size(step_a), Handle(b.ctypes.data), size(step_b),
            ctypes.c_float(add), Handle(out.ctypes.data), size(order_of(out)[1]),
        )  # fmt: skip

    def layout(self, shape: tuple[int, ...], strides: tuple[int, ...] | None) -> Handle:
        """A memory descriptor with ``strides`` in elements; None leaves the layout to the primitive."""
        dims = Dims(*shape)
        if strides is None:
            return self.make("memory_desc_create_with_tag", len(shape), dims, FLOAT32, ANY_LAYOUT)
        return self.make("memory_desc_create_with_strides", len(shape), dims, FLOAT32, Dims(*strides))

    def size(self, layout: Handle) -> int:
        """Bytes."""
        return self._library.dnnl_memory_desc_get_size(layout)

    def same(self, a: Handle, b: Handle) -> bool:
        """Whether two layouts are equal."""
        return bool(self._library.dnnl_memory_desc_equal(a, b))

    def layout_of(self, descriptor: Handle, which: int) -> Handle:
        """A layout that a primitive descriptor chose; it belongs to the descriptor."""
        return Handle(self._library.dnnl_primitive_desc_query_md(descriptor, which, 0))

    def implementation(self, descriptor: Handle) -> str:
        """The name of the implementation that was chosen, such as ``brgconv:avx512_core``."""
        text = ctypes.c_char_p()
        self.call("primitive_desc_query", descriptor, IMPLEMENTATION, 0, ctypes.byref(text))
        return text.value.decode()

    def reorder(self, source: Handle, target: Handle, attributes: Handle) -> Handle:
        """The descriptor of a copy from one layout to another."""
        return self.make("reorder_primitive_desc_create", source, self.engine, target, self.engine, attributes)

    def _attributes(self, add: bool) -> Handle:
        """The caller gives scratch memory; ``add``: the result is added to what is there."""
        attributes = self.make("primitive_attr_create")
        self.call("primitive_attr_set_scratchpad_mode", attributes, USER_SCRATCH)
        if add:
            after = self.make("post_ops_create")
            self.call("post_ops_append_sum", after, ctypes.c_float(1), ctypes.c_int32(0), UNDEFINED)
            self.call("primitive_attr_set_post_ops", attributes, after)
        return attributes


class Primitive:
    """A compiled computation; ``run`` takes the address of every argument."""

    def __init__(self, library: OneDnn, descriptor: Handle, layouts: dict[int, Handle]) -> None:
        scratch = library.layout_of(descriptor, SCRATCH_MD)
        self.scratch_bytes = library.size(scratch)
        self.name = library.implementation(descriptor)
        layouts = {**layouts, SCRATCH: scratch}
        self._library = library
        self._primitive = library.make("primitive_create", descriptor)
        self._memories = {
            name: library.make("memory_create", layout, library.engine, Handle(0)) for name, layout in layouts.items()
        }
        self._arguments = (Argument * len(layouts))(*(Argument(n, m) for n, m in self._memories.items()))

    def run(self, addresses: dict[int, int]) -> None:
        """Compute; the arrays must have the layouts that the primitive was made for."""
        library = self._library
        for name, memory in self._memories.items():
            library.call("memory_set_data_handle", memory, Handle(addresses[name]))
        library.call("primitive_execute", self._primitive, library.stream, len(self._arguments), self._arguments)
        library.call("stream_wait", library.stream)


class Convolution:
    """One direction of a convolution on dense arrays ``x`` [n, *frame, c] and ``y`` [n, *space, k].

    Parameters
    ----------
    library : OneDnn
        The library.
    direction : str
        What is computed from the other two: "output" is y, "input" x and "weight" w.
    shapes : tuple
        Those of ``x``, ``w`` [*kernel, c, k] and ``y``.
    strides : tuple of int
        Those of ``w``, in elements: it may be a slice.
    stride, dilation : tuple of int
        One entry per space axis.
    depthwise : bool
        Whether ``w`` [*kernel, 1, c] has one filter a channel.
    """

    def __init__(self, library: OneDnn, direction: str, shapes, strides, stride, dilation, depthwise: bool) -> None:
        x, y = (library.layout(*second(shape, dense(shape))) for shape in (shapes[0], shapes[2]))
        shape, strides = (one_each if depthwise else first)(shapes[1], strides)
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
    return Primitive(library, library.reorder(source, target, attributes), {SRC: source, DST: target})


def library_path() -> str:
    """Where the package put the library.

    Raises
    ------
    ImportError
        If it is not installed.
    """
    try:
        files = distribution(PACKAGE).files or []
    except PackageNotFoundError:
        raise ImportError(f"{PACKAGE} is not installed") from None
    for file in files:
        if file.name == LIBRARY:
            return str(file.locate().resolve())
    raise ImportError(f"{PACKAGE} has no {LIBRARY} for this system")


def share_threads() -> None:
    """Give the OpenMP pool, which oneDNN may just have brought along, as many threads as the BLAS may use."""
    from threadpoolctl import threadpool_info, threadpool_limits

    threads = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
    if threads:
        threadpool_limits(limits=max(threads), user_api="openmp")


def order_of(matrix: np.ndarray) -> tuple[bytes, int] | None:
    """How a GEMM takes ``matrix``: by rows (N) or transposed (T), and the distance of these; None if it cannot."""
    for order, array in ((b"N", matrix), (b"T", matrix.T)):
        step, apart = array.strides
        if apart == array.itemsize and step >= array.shape[1] * apart and step % apart == 0:
            return order, step // apart
    return None


def dense(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides in elements of a contiguous array."""
    strides = [1]
    for size in reversed(shape[1:]):
        strides.append(strides[-1] * max(1, size))
    return tuple(reversed(strides))


def second(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """[n, *space, c] as oneDNN counts dimensions, [n, c, *space]."""
    return (shape[0], shape[-1], *shape[1:-1]), (strides[0], strides[-1], *strides[1:-1])


def first(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """[*kernel, c, k] as oneDNN counts dimensions, [k, c, *kernel]."""
    return (shape[-1], shape[-2], *shape[:-2]), (strides[-1], strides[-2], *strides[:-2])


def one_each(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """[*kernel, 1, c] as oneDNN counts the dimensions of c groups, [c, 1, 1, *kernel]."""
    return (shape[-1], 1, 1, *shape[:-2]), (strides[-1], 1, 1, *strides[:-2])


def _round_up(address: int) -> int:
    return -(-address // ALIGN) * ALIGN
