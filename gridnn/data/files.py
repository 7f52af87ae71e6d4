"""Finding and mapping the files of a data set."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gridnn.errors import UserError


def find(directory: Path, folders: Sequence[str], names: Sequence[str]) -> list[Path] | None:
    """The files ``names`` in the first of ``folders`` below ``directory`` that has any of them; None if none has.

    `UserError` if some of them are there and others are not.
    """
    for folder in folders:
        paths = [directory / folder / name for name in names]
        missing = [path.name for path in paths if not path.is_file()]
        if len(missing) < len(paths):
            if missing:
                raise UserError(f"{directory / folder} has {len(paths) - len(missing)} of {len(paths)} files; "
                                f"missing: {', '.join(missing)}")  # fmt: skip
            return paths
    return None


def missing(name: str, directory: Path, folders: Sequence[str], names: Sequence[str], source: str) -> UserError:
    """The error for a data set whose files are not there."""
    places = " or ".join(str(directory / folder) for folder in folders)
    return UserError(
        f"dataset {name}: found none of {', '.join(names)} in {places}; {source} "
        "and give their directory with --data-dir"
    )


def map_bytes(path: Path, start: int, shape: tuple[int, ...]) -> np.ndarray:
    """``shape`` bytes of a file from ``start`` on, mapped: only the pages that are used are read."""
    return np.memmap(path, dtype=np.uint8, mode="r", offset=start, shape=shape)


def unpack(path: Path) -> np.ndarray:
    """The bytes of a .gz file, all of them in memory (it cannot be mapped); `UserError` if it is damaged."""
    try:
        return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path} is no complete gzip file ({error}): fetch it again") from None


def load_npy(path: Path) -> np.ndarray:
    """The array in a .npy file, mapped; `UserError` if it is empty, truncated, or holds Python objects."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
            start = file.tell()
        if not dtype.hasobject and size < start + math.prod(shape) * dtype.itemsize:
            raise ValueError(
                f"{size} bytes, but {start} + {math.prod(shape)} elements x {dtype.itemsize} bytes = "
                f"{start + math.prod(shape) * dtype.itemsize}"
            )
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UserError(f"{path} is no complete .npy file of numbers ({error}): write it again") from None
