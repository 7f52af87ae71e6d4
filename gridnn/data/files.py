"""Finding, opening and mapping the files of a data set."""

from __future__ import annotations

import errno
import math
import mmap
import os
import re
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from gridnn import records
from gridnn.errors import UserError, cause_of

# What NumPy, h5py and the unpackers raise of what they cannot read.
ERRORS = (
    OSError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RuntimeError, EOFError, SyntaxError,
    zlib.error, zipfile.BadZipFile, zipfile.LargeZipFile, tokenize.TokenError, struct.error,
)  # fmt: skip
DENIED, AWAY, BUSY = (errno.EACCES, errno.EPERM), (errno.ENOENT, errno.ENOTDIR), (errno.EAGAIN,)
NPY_VERSIONS, LONGEST_HEADER = ((1, 0), (2, 0), (3, 0)), 10_000  # bytes; NumPy asks for them before it looks
RATIO = 1040  # deflate makes at the most 1032 bytes of one (zlib's documentation); small files have a little besides


@contextmanager
def reading(
    path: object,
    part: str = "",
    form: str = "",
    remedy: str = "write it again",
    errors: tuple[type[Exception], ...] = ERRORS,
) -> Iterator[None]:
    """Inside, where a library reads a file, all that it raises of the file is a `UserError` of one line.

    Parameters
    ----------
    path : path
        The file.
    part : str
        What of it is read, as ``x_train[7]``.
    form : str
        What the file should be, as ``.npy file``.
    remedy : str
        What helps where the system has no better reason than that the content is damaged.
    errors : tuple of types
        What it raises; `OSError` alone where our own code reads, whose mistakes keep their traceback.
    """
    what = f"{path}: {part}" if part else f"{path}"
    try:
        yield
    except MemoryError as error:
        raise UserError(
            f"{what} does not fit into memory ({cause_of(error)}): give a rank more, or write .npy files or HDF5, of "
            "which a rank reads its part"
        ) from error
    except errors as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # that is a damaged offset
            reason = cause_of(OSError(error.strerror or error))
            where = what if part or not error.filename else error.filename
            raise UserError(f"{where} cannot be read ({reason}): {_remedy(error.errno)}") from error
        fails = f"is no complete {form}" if form else "cannot be read"
        raise UserError(f"{what} {fails} ({cause_of(error)}): {remedy}") from error


def _remedy(number: int) -> str:
    if number in DENIED:
        return "give yourself the right to read it, and to enter the directories above it"
    if number in AWAY:
        return "put it back, and leave it there while a run reads it"
    if number in BUSY:
        return "another program writes it; wait until it is closed"
    return "the system refuses it; try again, or copy the file elsewhere"


def open_regular(path: str | Path, most: int | None = None) -> BinaryIO:
    """A file, open for reading.

    `UserError` if it cannot be read, has more than ``most`` bytes, or is a pipe, which would wait, or a device.
    """
    with reading(path):
        try:
            file = records.open_regular(path)
        except records.NoFile as error:
            raise UserError(f"{path}: {error.strerror}: give a file") from None
    size = os.fstat(file.fileno()).st_size
    if most is not None and size > most:
        file.close()
        raise UserError(f"{path} has {size:,} bytes, but should have {most:,} at the most: it is not the right one")
    return file


def check_memory(what: str, size: int) -> None:
    """Refuse ``size`` bytes that are more than what the system has left, before they are asked for."""
    left = memory_left()
    if size > left:
        raise UserError(
            f"{what} takes {size:,} bytes of memory, but {left:,} are left: write .npy files or HDF5, of which a rank "
            "reads its part; if it should be smaller, the file is damaged"
        )


def memory_left(root: Path = Path("/")) -> float:
    """The bytes that this process may still take: of the node, and of the cgroups of its job; inf if none says so."""
    left = [1024 * size for size in _numbers(root / "proc/meminfo", r"^MemAvailable:\s*(\d+) kB")]
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if path and controllers in ("", "memory"):
            place = Path("sys/fs/cgroup", controllers, path.strip("/"))
            left += [_left_in(root / folder) for folder in (place, *place.parents) if len(folder.parts) > 2]
    return min(left, default=math.inf)


def _left_in(folder: Path) -> float:
    """What a cgroup of the second or the first version has left; its page cache counts as free."""
    for names in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
        sizes = [size for name in names for size in _numbers(folder / name, r"^(\d+)$")]
        if len(sizes) == 2:
            cached = _numbers(folder / "memory.stat", r"^(?:file|total_cache) (\d+)$")
            return max(0, sizes[0] - sizes[1] + sum(cached))
    return math.inf


def _numbers(path: Path, pattern: str) -> list[int]:
    return [int(digits) for digits in re.findall(pattern, _text(path), re.MULTILINE)]


def _text(path: Path) -> str:
    """A file of the kernel's; "" if there is none."""
    try:
        return path.read_text()
    except OSError:
        return ""


def check_unpacked(what: str, size: int, packed: int) -> None:
    """Refuse ``size`` bytes that cannot come of ``packed`` ones (`ValueError`), or that memory does not suffice for."""
    if size > RATIO * packed:
        raise ValueError(f"it claims {size:,} bytes, but has {packed:,} in the file")
    check_memory(what, size)


def find(directory: Path, folders: Sequence[str], names: Sequence[str]) -> list[Path] | None:
    """The files ``names`` in the first of ``folders`` below ``directory`` that has any of them; None if none has.

    `UserError` if some of them are there and others are not.
    """
    for folder in folders:
        paths = [directory / folder / name for name in names]
        with reading(directory / folder):
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


class Stretch(NamedTuple):
    """An array in a file: what it is, and where its numbers begin."""

    shape: tuple[int, ...]
    dtype: np.dtype
    order: str = "C"
    start: int = 0

    def view(self, file: BinaryIO) -> np.ndarray:
        """The array in an open file, mapped. `ValueError` if the file has become too short for it."""
        buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return np.ndarray(self.shape, self.dtype, buffer, self.start, order=self.order)  # type: ignore[call-overload]


def read_header(file: BinaryIO, name: str, size: int) -> Stretch:
    """The array of a .npy file of ``size`` bytes, as its header says.

    `UserError` if it is of Python objects, `ValueError` if it claims more than the file has.
    """
    version = np.lib.format.read_magic(file)
    width = 2 if version == (1, 0) else 4
    length = int.from_bytes(file.read(width), "little")
    if version not in NPY_VERSIONS or length > LONGEST_HEADER:
        raise ValueError(f"version {version} with a header of {length:,} bytes")
    file.seek(-width, os.SEEK_CUR)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    start, count = file.tell(), math.prod(shape)
    if dtype.hasobject:
        raise UserError(f"{name} holds Python objects in dtype {dtype}: write numbers, as x.astype('float32')")
    if min(shape, default=1) < 0:
        raise ValueError(f"the shape is {shape}")
    if size < start + count * dtype.itemsize:
        raise ValueError(
            f"{size} bytes, but {start} + {count} elements x {dtype.itemsize} bytes = {start + count * dtype.itemsize}"
        )
    return Stretch(shape, dtype, "F" if fortran else "C", start)
