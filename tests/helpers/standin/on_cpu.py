"""CUDA sources compiled by g++ and run on the CPU, thread after thread.

It shows that a kernel computes the right numbers with the sizes and strides it is given, not that a GPU takes it.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import importlib.util
import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gridnn.kernels.cuda.module import SOURCES, source

HEADER = Path(__file__).with_name("on_cpu.h")
FLAGS = ("-std=c++17", "-O1", "-ffp-contract=off", "-fno-strict-aliasing", "-fPIC", "-shared", "-Wno-attributes")
Launch = Callable[[int, int, Sequence[bytes]], None]


def compile_on_cpu(code: str, names: Sequence[str]) -> dict[str, Launch]:
    """The kernels ``names`` (C++ name expressions) of the CUDA source ``code``.

    Returns
    -------
    dict of str to callable
        ``launch(grid, block, args)`` runs ``grid`` blocks of ``block`` threads; ``args`` are the bytes of the
        arguments, as `argument` makes them.

    Raises
    ------
    RuntimeError
        If g++ refuses the source, with what it says.
    """
    built = tuple(_together(code, names))
    entries = "\n".join(
        f'extern "C" int run_{i}(int grid, int block, int count, const int* sizes, void** from) '
        f"{{ return launch(&{name}, grid, block, count, sizes, from); }}"
        for i, name in enumerate(built)
    )
    library = ctypes.PyDLL(str(_built(f"{HEADER.read_text()}\n{code}\n{entries}\n")))  # PyDLL: one launch at a time
    return {name: _launcher(library[f"run_{built.index(name)}"], name) for name in names}


def argument(value: Any) -> bytes:
    """The bytes of a kernel's argument by CuPy's rules, but that plain NumPy arrays are pointers to their memory.

    None is a null pointer, a Python int a ``long long``, a float a ``double``, a NumPy scalar or a structured array of
    one element its value.
    """
    if value is None:
        return bytes(8)
    if isinstance(value, np.ndarray):
        return value.tobytes() if value.dtype.names else np.uint64(value.ctypes.data).tobytes()
    if isinstance(value, np.generic):
        return value.tobytes()
    if isinstance(value, bool):
        return np.bool_(value).tobytes()
    if isinstance(value, int):
        return (np.uint64 if value >= 1 << 63 else np.int64)(value).tobytes()
    if isinstance(value, float):
        return np.float64(value).tobytes()
    raise TypeError(f"a kernel takes no {type(value).__name__}")


class OnCpu:
    """NumPy with a `RawModule` that runs on the CPU: kernels written for CuPy take NumPy's arrays."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    class RawModule:
        """The part of ``cupy.RawModule`` that `gridnn.kernels.cuda.module` uses."""

        def __init__(self, *, code: str, options: tuple[str, ...] = (), name_expressions: Sequence[str] = ()):
            self._kernels = compile_on_cpu(code, tuple(name_expressions))

        def get_function(self, name: str) -> Callable[[tuple[int], tuple[int], tuple], None]:
            kernel = self._kernels[name]
            return lambda grid, block, args: kernel(grid[0], block[0], [argument(value) for value in args])


def _together(code: str, names: Sequence[str]) -> Sequence[str]:
    """The names to compile: all instances of a source of gridnn at once, if the wanted ones are among them."""
    files = (path.name for path in SOURCES.glob("*.cu") if path.name != "common.cu")
    known = next((_instances(file) for file in files if source(file) == code), [])
    return known if set(names) <= set(known) else names


def _instances(file: str) -> list[str]:
    """`instances.instances`, whether this directory is a package or lies in the path."""
    place = importlib.util.spec_from_file_location("standin_instances", Path(__file__).with_name("instances.py"))
    module = importlib.util.module_from_spec(place)
    place.loader.exec_module(module)
    return module.instances(file)


def _launcher(entry: Any, name: str) -> Launch:
    def launch(grid: int, block: int, args: Sequence[bytes]) -> None:
        buffers = [ctypes.create_string_buffer(value, len(value)) for value in args]
        pointers = (ctypes.c_void_p * len(buffers))(*(ctypes.addressof(buffer) for buffer in buffers))
        sizes = (ctypes.c_int * len(buffers))(*(len(value) for value in args))
        wrong = entry(grid, block, len(buffers), sizes, pointers)
        if wrong:
            what = f"argument {wrong} has {len(args[wrong - 1])} bytes" if wrong > 0 else f"{len(args)} arguments"
            raise TypeError(f"{name}: {what}, which is not what the kernel takes")

    return launch


def _built(source: str) -> Path:
    """The shared library of ``source``; ranks and runs share what one of them has compiled."""
    folder = Path(tempfile.gettempdir()) / f"gridnn-on-cpu-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    stem = folder / hashlib.sha256(" ".join((*FLAGS, source)).encode()).hexdigest()[:24]
    library = stem.with_suffix(".so")
    with open(stem.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not library.exists():
            stem.with_suffix(".cpp").write_text(source)
            command = ["g++", *FLAGS, "-o", f"{library}.new", f"{stem}.cpp"]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"g++ refuses the kernels in {stem}.cpp:\n{done.stderr[:4000]}")
            os.replace(f"{library}.new", library)
    return library
