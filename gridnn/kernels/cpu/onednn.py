"""oneDNN through its C API: products of float32 matrices, and primitives that are compiled once and kept.

Names and numbers are those of ``dnnl.h`` and ``dnnl_types.h`` of oneDNN 3 (Intel, oneDNN developer guide).
"""

from __future__ import annotations

import ctypes
import os
from importlib.metadata import PackageNotFoundError, distribution

import numpy as np

PACKAGE, LIBRARY = "onednn-cpu-gomp", "libdnnl.so.3"
CPU, IN_ORDER, UNDEFINED, FLOAT32, ANY_LAYOUT, USER_SCRATCH = 1, 1, 0, 3, 1, 1
SCRATCH_MD, IMPLEMENTATION, SCRATCH = 136, 8, 80

Handle = ctypes.c_void_p
Dims = ctypes.c_int64 * 12  # DNNL_MAX_NDIMS


class Argument(ctypes.Structure):
    """``dnnl_exec_arg_t``: what a memory is to a primitive."""

    _fields_ = (("arg", ctypes.c_int), ("memory", Handle))


class OneDnn:
    """The library, with one engine and one stream; `ImportError` if there is none for this system."""

    def __init__(self) -> None:
        # Idle threads sleep: spinning ones take the cores from compiled loops, MPI and other ranks. Read when loaded.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
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
        """``dnnl_`` + ``function``; `RuntimeError` with the library's status where it is no success."""
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


def library_path() -> str:
    """Where the package put the library; `ImportError` if it is not installed."""
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
