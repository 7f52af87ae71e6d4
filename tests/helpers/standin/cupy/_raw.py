"""``RawModule`` and ``RawKernel``: the source is compiled by g++ and run thread after thread, when its turn comes."""

from __future__ import annotations

from typing import Any

import numpy as np
import on_cpu  # beside this package, so found where this is found; not later, by a shorter path

from cupy._ndarray import ndarray, queue
from cupy.cuda.memory import MemoryPointer


def argument(value: Any) -> bytes:
    """The bytes of a kernel's argument by CuPy's rules."""
    if isinstance(value, (ndarray, MemoryPointer)):
        return np.uint64(value.data.ptr if isinstance(value, ndarray) else value.ptr).tobytes()
    # CuPy takes any array of size one, by value: here only structs
    if isinstance(value, np.ndarray) and (value.size != 1 or not value.dtype.names):
        raise TypeError(
            f"You are trying to pass a numpy.ndarray of shape {value.shape} as a kernel parameter. Only "
            "numpy.ndarrays of size one can be passed by value."
        )
    return on_cpu.argument(value)


class RawKernel:
    """A kernel of a source; ``kernel(grid, block, args)`` asks the current stream for it."""

    def __init__(self, code: str, name: str, options: tuple[str, ...] = (), backend: str = "nvrtc", **_: Any):
        self.code, self.name, self.options, self.backend = code, name, options, backend
        self._launch: Any = None

    def __call__(self, grid: tuple, block: tuple, args: tuple, *, shared_mem: int = 0) -> None:
        for sizes in (grid, block):
            if not isinstance(sizes, tuple) or any(size > 1 for size in sizes[1:]):
                raise TypeError(f"stand-in: a grid of one dimension, as a tuple, not {sizes}")
        if block[0] > 1024 or grid[0] >= 1 << 31:
            raise ValueError(f"CUDA_ERROR_INVALID_VALUE: invalid argument: grid {grid}, block {block}")
        if shared_mem:
            raise NotImplementedError("stand-in: shared memory")
        if self._launch is None:
            self._launch = on_cpu.compile_on_cpu(self.code, (self.name,))[self.name]
        launch, packed, sizes = self._launch, [argument(value) for value in args], (max(1, grid[0]), max(1, block[0]))
        queue().push(f"kernel {self.name}", lambda: launch(*sizes, packed))


class RawModule:
    """The kernels of a source, by name or C++ name expression."""

    def __init__(self, *, code: str | None = None, path: str | None = None, options: tuple[str, ...] = (),
                 backend: str = "nvrtc", name_expressions: Any = None, **_: Any):  # fmt: skip
        if (code is None) == (path is None):
            raise TypeError("Exactly one of `code` and `path` keyword arguments must be given.")
        if code is None:
            raise NotImplementedError("stand-in: compiled modules")
        if not isinstance(options, tuple):
            raise TypeError("Argument 'options' has incorrect type (expected tuple)")
        self.code, self.options, self.backend = code, options, backend
        self.name_expressions = None if name_expressions is None else tuple(name_expressions)
        self._launches: dict[str, Any] = {}

    def compile(self, log_stream: Any = None) -> None:
        self._launches = on_cpu.compile_on_cpu(self.code, self.name_expressions or ())

    def get_function(self, name: str) -> RawKernel:
        if self.name_expressions is not None and name not in self.name_expressions:
            raise RuntimeError(f"stand-in: {name} is not among the name expressions {self.name_expressions}")
        kernel = RawKernel(self.code, name, self.options, self.backend)
        if self.name_expressions is not None:
            if not self._launches:
                self.compile()
            kernel._launch = self._launches[name]
        return kernel
