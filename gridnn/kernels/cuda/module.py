"""CUDA sources of this package as kernels that are compiled at their first launch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

SOURCES = Path(__file__).parent
OPTIONS = ("-std=c++17",)
BLOCK = 256  # threads
MOST_BLOCKS = 1 << 14  # enough for any device; the loops of the kernels go on from there

FLOATS = ("float32", "float64", "float16", "bfloat16")  # the types that kernels compute with
C_TYPES = {
    "float64": "double",
    "float32": "float",
    "float16": "half16",
    "bfloat16": "bfloat16",
    "int64": "long long",
    "int32": "int",
    "int16": "short",
    "int8": "signed char",
    "uint8": "unsigned char",
    "bool": "bool",
}


class CudaModule:
    """The kernels of one ``file`` of ``kernels/cuda``, templates over their types; ``common.cu`` is put before it.

    A kernel is compiled by NVRTC when it is first launched with its types (a fraction of a second; CuPy keeps the
    binaries in its kernel cache on disk), so that a run compiles only what it uses. It must not be compiled while a
    stream is captured: capture a step only after a step like it has run.
    """

    def __init__(self, cupy: Any, file: str):
        self._cupy, self.file = cupy, file
        self._kernels: dict[tuple, Any] = {}

    def launch(self, kernel: str, types: tuple[Any, ...], size: int, *args: Any) -> None:
        """Run ``kernel<types>``, a template of the file, on the current stream, one thread an item as far as they fit.

        Of ``types``, a dtype stands for its type in C++, a str or int for itself. ``size`` counts the items; nothing
        runs if it is 0. Of ``args``, device arrays are pointers to their first elements, None a null pointer, an int a
        ``long long``, a float a ``double``; a structured NumPy array of one element is a struct by value.
        """
        if not size:
            return
        key = (kernel, *types)
        if key not in self._kernels:
            self._kernels[key] = self._compiled(expression(kernel, types))
        self._kernels[key]((min(-(-size // BLOCK), MOST_BLOCKS),), (BLOCK,), args)

    def _compiled(self, name: str) -> Any:
        module = self._cupy.RawModule(code=source(self.file), options=OPTIONS, name_expressions=(name,))
        return module.get_function(name)


def expression(kernel: str, types: tuple[Any, ...]) -> str:
    """The C++ name of an instance of a template, such as "copy<float, half16>"."""
    return f"{kernel}<{', '.join(_written(part) for part in types)}>" if types else kernel


def source(file: str) -> str:
    """The text of ``file`` with what all sources share before it."""
    return "\n".join((SOURCES / name).read_text() for name in ("common.cu", file))


def _written(part: Any) -> str:
    return str(part) if isinstance(part, str | int) else C_TYPES[np.dtype(part).name]
