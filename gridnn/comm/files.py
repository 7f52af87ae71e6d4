"""One file that all ranks write or read together, each its boxes of global tensors: by MPI-IO, or each by itself."""

from __future__ import annotations

import errno
import fcntl
import itertools
import math
import os
import tempfile
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from mpi4py import MPI

from gridnn.layout.layout import Box, box_shape, box_size, within

SHARED_BYTES = 2**16
LARGEST_PIECE = 2**30  # bytes that one call moves: MPI counts them in a C int


@dataclass(frozen=True)
class Region:
    """This rank's part of a tensor that lies in a file in C order."""

    offset: int  # where the tensor begins in the file, in bytes
    shape: tuple[int, ...]  # its global shape
    box: Box  # tuple of (start, stop): this rank's part
    itemsize: int  # bytes of an element


class SharedFile:
    """A file opened by all ranks of a communicator, for whole boxes at a time.

    Every method is called by all ranks together. A rank on which a call fails goes on to the next one, as the others
    do, and `failure` tells all of them afterwards: nobody waits for a rank that has given up. With ``write`` the file
    is made (and can be read, too). One MPI call moves ``limit`` bytes at the most, larger parts go in pieces.
    ``bytes_read`` and ``bytes_written`` are what this rank asked for.
    """

    def __init__(self, comm: Any, path: str, *, write: bool = False, limit: int = LARGEST_PIECE) -> None:
        self.comm, self.limit = comm, limit
        self.bytes_read = self.bytes_written = 0
        self._file, self._mistake, self._open = MPI.FILE_NULL, _cannot_open(path, write), False
        if not self.failure():  # Open MPI waits for ever where a file can be opened on some ranks only
            self._begin(path, write)
            self._open = not self.failure()

    def write(self, region: Region, part: Any) -> None:
        """Write this rank's ``part`` of a tensor, a contiguous host array; None: another rank has the same and does."""
        self.bytes_written += self._move("Write_all", region, part)

    def read(self, region: Region, part: Any, *, together: bool = True) -> None:
        """Fill the contiguous host array ``part`` with this rank's part of a tensor; None: it wants nothing of it.

        ``together`` is quicker where the parts lie among each other, but Open MPI 5.0 keeps some memory of every such
        call (64 bytes on every rank, up to 600 on those that read for others): not for what is done again and again.
        """
        self.bytes_read += self._move("Read_all" if together else "Read", region, part)

    def write_first(self, offset: int, data: bytes) -> None:
        """Let the first rank write ``data`` at ``offset``."""
        if self._open:
            self._try(self._file.Set_view, 0, MPI.BYTE, MPI.BYTE)
            if self.comm.Get_rank() == 0:
                self._try(self._file.Write_at, offset, data)

    def sync(self) -> None:
        """Return when everything written is on the disk and all ranks can read it."""
        if self._open:
            self._try(self._file.Sync)
            self.comm.Barrier()
            self._try(self._file.Sync)  # what the others have written

    def failure(self) -> str | None:
        """The first thing that went wrong on some rank so far, the same text on all ranks; None if nothing did."""
        told = self.comm.allgather(self._mistake)
        return next((f"rank {rank}: {text}" for rank, text in enumerate(told) if text), None)

    def close(self) -> None:
        """Close the file."""
        if self._open:
            self._open = False
            self._try(self._file.Close)

    def drop(self) -> None:
        """Give up, where not all ranks do: MPI cannot close it."""

    def _begin(self, path: str, write: bool) -> None:
        mode = MPI.MODE_CREATE | MPI.MODE_RDWR if write else MPI.MODE_RDONLY
        self._file = self._try(MPI.File.Open, self.comm, path, mode) or MPI.FILE_NULL

    def _move(self, call: str, region: Region, part: Any) -> int:
        """Move ``part`` in pieces that MPI can count; returns its bytes."""
        pieces = [] if part is None else list(_pieces(region.box, max(1, self.limit // region.itemsize)))
        most = array("q", [len(pieces)])
        self.comm.Allreduce(MPI.IN_PLACE, most, MPI.MAX)
        if not self._open:
            return 0
        for number in range(most[0]):
            if number < len(pieces):
                self._move_piece(call, region, pieces[number], part)
            else:
                self._move_nothing(call)
        return sum(box_size(piece) * region.itemsize for piece in pieces)

    def _move_nothing(self, call: str) -> None:
        """While others still have pieces, since the calls are everybody's."""
        self._try(self._file.Set_view, 0, MPI.BYTE, MPI.BYTE)
        self._try(getattr(self._file, call), [bytearray(), 0, MPI.BYTE])

    def _move_piece(self, call: str, region: Region, piece: Box, part: Any) -> None:
        start, filetype = _filetype(region, piece)
        size, status = box_size(piece) * region.itemsize, MPI.Status()
        buffer = [_inside(part, piece, region), size, MPI.BYTE]
        self._try(self._file.Set_view, region.offset + start, MPI.BYTE, filetype)
        self._try(getattr(self._file, call), buffer, status)
        if status.Get_count(MPI.BYTE) != size:
            self._mistake = self._mistake or f"{status.Get_count(MPI.BYTE)} of {size} bytes were moved"
        filetype.Free()

    def _try(self, function: Callable, *args: Any) -> Any:
        """Call ``function``; what goes wrong is kept for `failure`."""
        try:
            return function(*args)
        except OSError as error:
            self._mistake = self._mistake or f"{function.__name__.strip('_')} failed ({error.strerror})"
            return None
        except MPI.Exception as error:
            why = " ".join(error.Get_error_string().splitlines()[0].strip(", ").split())
            self._mistake = self._mistake or f"{function.__name__} failed ({why})"
            return None


class IndependentFile(SharedFile):
    """The same without MPI-IO, which does not survive the death of a rank: each moves its pieces by itself."""

    def write_first(self, offset: int, data: bytes) -> None:
        if self._open and self.comm.Get_rank() == 0:
            self._try(self._move_run, "Write_all", memoryview(data), offset)

    def sync(self) -> None:
        if self._open:
            self._try(os.fsync, self._file)
        self.comm.Barrier()

    def close(self) -> None:
        if self._open:
            self._open = False
            self._try(os.close, self._file)

    drop = close

    def _begin(self, path: str, write: bool) -> None:
        self._file = self._try(os.open, path, os.O_RDWR if write else os.O_RDONLY)

    def _move_nothing(self, call: str) -> None:
        pass

    def _move_piece(self, call: str, region: Region, piece: Box, part: Any) -> None:
        memory = memoryview(_inside(part, piece, region).reshape(-1)).cast("B")
        start, run, dims = _runs(region, piece)
        extent = run + sum((length - 1) * stride for length, stride in dims)
        with self._locked(call, region.offset + start, extent):
            self._move_runs(call, memory, region.offset + start, run, dims)

    def _move_runs(self, call: str, memory: memoryview, start: int, run: int, dims: list[tuple[int, int]]) -> None:
        places = itertools.product(*(range(0, length * stride, stride) for length, stride in dims))
        for number, place in enumerate(places):
            chunk = memory[number * run : (number + 1) * run]
            self._try(self._move_run, call, chunk, start + sum(place))

    @contextmanager
    def _locked(self, call: str, start: int, size: int) -> Iterator[None]:
        """On file systems of several nodes a lock keeps writers from the bytes between theirs."""
        if call != "Write_all":
            yield
            return
        with suppress(OSError):
            fcntl.lockf(self._file, fcntl.LOCK_EX, size, start)
        try:
            yield
        finally:
            with suppress(OSError):
                fcntl.lockf(self._file, fcntl.LOCK_UN, size, start)

    def _move_run(self, call: str, memory: memoryview, offset: int) -> None:
        """Move one run, all of it."""
        done = 0
        while done < len(memory):
            move = os.pwrite if call == "Write_all" else os.preadv
            moved = move(self._file, memory[done:] if move is os.pwrite else [memory[done:]], offset + done)
            if not moved:
                raise OSError(errno.EIO, f"{done} of {len(memory)} bytes were moved")
            done += moved


def _cannot_open(path: str, write: bool) -> str | None:
    """Why this rank cannot open a file by itself, or MPI not share it; None if it can."""
    place = tempfile.gettempdir()
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR if write else os.O_RDONLY, 0o666))
        space = os.statvfs(place)
    except OSError as error:
        return f"it cannot be opened ({error.strerror})"
    # Open MPI has a small file there for every file that is open, and waits for ever where it cannot be written
    return f"no space is left in {place}" if space.f_bavail * space.f_frsize < SHARED_BYTES else None


def sum_modulo(comm: Any, numbers: Sequence[int]) -> list[int]:
    """Numbers below 2^64, each summed over all ranks modulo 2^64."""
    total = array("Q", numbers)
    if total:
        comm.Allreduce(MPI.IN_PLACE, [total, MPI.UINT64_T], MPI.SUM)
    return list(total)


def _pieces(box: Box, most: int) -> Iterator[Box]:
    """``box`` in pieces of at most ``most`` elements, each of them contiguous in the part's own memory."""
    if box_size(box) == 0:
        return
    if box_size(box) <= most:
        yield box
        return
    axis = next(i for i, (start, stop) in enumerate(box) if stop - start > 1)
    (start, stop), step = box[axis], max(1, most // max(1, box_size(box[axis + 1 :])))
    for low, high in itertools.pairwise([*range(start, stop, step), stop]):
        yield from _pieces((*box[:axis], (low, high), *box[axis + 1 :]), most)


def _inside(part: Any, piece: Box, region: Region) -> Any:
    """A piece in the memory of this rank's part."""
    return part[within(piece, region.box)] if piece else part


def _runs(region: Region, piece: Box) -> tuple[int, int, list[tuple[int, int]]]:
    """Where a piece begins in its tensor, a run without gaps, and (count, stride) of the runs: all in bytes."""
    lengths = box_shape(piece)
    strides = [math.prod(region.shape[axis + 1 :]) * region.itemsize for axis in range(len(piece))]
    start = sum(low * stride for (low, _), stride in zip(piece, strides, strict=True))
    axis, run = len(piece), region.itemsize
    while axis and (lengths[axis - 1] == 1 or strides[axis - 1] == run):  # these rows follow one another without gaps
        axis -= 1
        run *= lengths[axis]
    return start, run, list(zip(lengths[:axis], strides[:axis], strict=True))


def _filetype(region: Region, piece: Box) -> tuple[int, MPI.Datatype]:
    """Where a piece begins in its tensor, in bytes, and the MPI type of its runs.

    Made of strided types, whose strides MPI counts in its widest integer, not of a subarray, which has C ints.
    """
    start, run, dims = _runs(region, piece)
    filetype = MPI.BYTE.Create_contiguous(run)
    for length, stride in reversed(dims):
        inner, filetype = filetype, filetype.Create_hvector(length, 1, stride)
        inner.Free()
    return start, filetype.Commit()
