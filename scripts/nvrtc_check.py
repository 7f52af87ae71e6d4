"""Compile every kernel that gridnn launches as CuPy would, by the real NVRTC; no GPU is needed.

    pip download --no-deps nvidia-cuda-nvrtc-cu12        # or a CUDA toolkit
    python scripts/nvrtc_check.py LIBNVRTC.so [--arch 90]

Exit status 1, with the compiler's log, if a source is refused or a kernel has no name in the result.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "helpers" / "standin"))
OPTIONS = ("-std=c++17", "-ftz=true", "--device-as-default-execution-space")  # the last two are CuPy's


class Program:
    """One source with the names of its kernels.

    Parameters
    ----------
    library : ctypes.CDLL
        NVRTC.
    code : str
        CUDA C++.
    names : list of str
        The instances that are wanted, as C++ expressions.
    """

    def __init__(self, library: Any, code: str, names: list[str]) -> None:
        self._library, self._handle, self.names = library, ctypes.c_void_p(), names
        self._call("CreateProgram", code.encode(), b"gridnn.cu", 0, None, None, at=ctypes.byref(self._handle))
        for name in names:
            self._call("AddNameExpression", name.encode())

    def compile(self, arch: int) -> None:
        """Make the binary for ``arch``, 90 for sm_90, and look all names up."""
        options = [option.encode() for option in (*OPTIONS, f"-arch=sm_{arch}")]
        self._call("CompileProgram", len(options), (ctypes.c_char_p * len(options))(*options))
        for name in self.names:
            self._call("GetLoweredName", name.encode(), ctypes.byref(ctypes.c_char_p()))

    def _call(self, name: str, *arguments: Any, at: Any = None) -> None:
        status = getattr(self._library, f"nvrtc{name}")(at or self._handle, *arguments)
        if status:
            raise SystemExit(f"nvrtc{name}: status {status}\n{self._log()}")

    def _log(self) -> str:
        size = ctypes.c_size_t()
        self._library.nvrtcGetProgramLogSize(self._handle, ctypes.byref(size))
        text = ctypes.create_string_buffer(max(1, size.value))
        self._library.nvrtcGetProgramLog(self._handle, text)
        return text.value.decode()


def main() -> None:
    """Compile all sources of kernels/cuda."""
    from instances import instances

    from gridnn.kernels.cuda.module import SOURCES, source

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library", help="libnvrtc.so.12 or .13")
    parser.add_argument("--arch", type=int, default=90)
    options = parser.parse_args()
    library = ctypes.CDLL(options.library)
    for path in sorted(SOURCES.glob("*.cu")):
        names, started = instances(path.name), time.perf_counter()
        if names:
            Program(library, source(path.name), names).compile(options.arch)
            print(f"{path.name}: {len(names)} kernels for sm_{options.arch}, {time.perf_counter() - started:.1f} s")


if __name__ == "__main__":
    main()
