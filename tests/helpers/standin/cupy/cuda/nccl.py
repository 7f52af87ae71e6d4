"""``cupy.cuda.nccl`` over MPI: operations of a stream, as of CUDA, that move bytes when their turn comes.

Other ranks may wait for them, so they run after a while even if nobody here does.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cupy.cuda import runtime

NCCL_INT8, NCCL_CHAR, NCCL_UINT8, NCCL_INT32, NCCL_INT, NCCL_UINT32, NCCL_INT64, NCCL_UINT64 = 0, 0, 1, 2, 2, 3, 4, 5
NCCL_FLOAT16, NCCL_HALF, NCCL_FLOAT32, NCCL_FLOAT, NCCL_FLOAT64, NCCL_DOUBLE, NCCL_BFLOAT16 = 6, 6, 7, 7, 8, 8, 9
NCCL_SUM, NCCL_PROD, NCCL_MAX, NCCL_MIN, NCCL_AVG = range(5)
NCCL_UNIQUE_ID_BYTES = 128
TYPES = {0: "i1", 1: "u1", 2: "i4", 3: "u4", 4: "i8", 5: "u8", 6: "f2", 7: "f4", 8: "f8", 9: "bfloat16"}
TEXTS = {
    1: "NCCL_ERROR_UNHANDLED_CUDA_ERROR: unhandled cuda error (run with NCCL_DEBUG=INFO for details)",
    4: "NCCL_ERROR_INVALID_ARGUMENT: invalid argument (run with NCCL_DEBUG=WARN for details)",
    5: "NCCL_ERROR_INVALID_USAGE: invalid usage (run with NCCL_DEBUG=WARN for details)",
}
PATIENCE = 60.0  # seconds until all ranks must have come to make a communicator

available = True
_group = threading.local()


class NcclError(RuntimeError):
    """As CuPy's: the number in ``status``."""

    def __init__(self, status: int):
        self.status = status
        super().__init__(TEXTS[status])


def get_version() -> int:
    return 22703


def get_build_version() -> int:
    return 22703


def get_unique_id() -> tuple[int, ...]:
    """128 signed bytes."""
    return tuple(byte - 128 for byte in secrets.token_bytes(NCCL_UNIQUE_ID_BYTES))


def groupStart() -> None:
    _group.depth = getattr(_group, "depth", 0) + 1
    if _group.depth == 1:
        _group.calls = []


def groupEnd() -> None:
    """The calls of the group become one operation of each stream, in which all of them progress together."""
    if not getattr(_group, "depth", 0):
        raise NcclError(5)
    _group.depth -= 1
    if _group.depth:
        return
    calls, _group.calls = _group.calls, []
    for stream in dict.fromkeys(call.stream for call in calls):
        _push(stream, [call for call in calls if call.stream == stream])


class Call:
    """One call: begun at ``begin``, which gives what finishes it."""

    def __init__(self, name: str, stream: int, begin: Callable[[], Callable[[], None]]):
        self.name, self.stream, self.begin = name, stream, begin


def _ask(name: str, stream: int, begin: Callable[[], Callable[[], None]]) -> None:
    call = Call(name, stream, begin)
    if getattr(_group, "depth", 0):
        _group.calls.append(call)
    else:
        _push(stream, [call])


def _push(stream: int, calls: list[Call]) -> None:
    def run() -> None:
        for finish in [call.begin() for call in calls]:
            finish()

    runtime.queue_of(stream).push("+".join(f"nccl.{call.name}" for call in calls), run, prompt=True)


class NcclCommunicator:
    """``ndev`` ranks, one device each; all make it at once, with the id of one of them."""

    def __init__(self, ndev: int, commId: tuple, rank: int):
        assert len(commId) == NCCL_UNIQUE_ID_BYTES
        from mpi4py import MPI

        key = hashlib.sha256(bytes(byte % 256 for byte in commId)).hexdigest()
        world = MPI.COMM_WORLD
        device = f"{socket.gethostname()} {runtime.deviceGetPCIBusId(runtime.getDevice())}"
        facts = _met(key, ndev, rank, f"{world.rank} {device}")
        self._rank, self._size, self._mpi = rank, ndev, MPI
        # Split of the whole world is not possible, as only the members call: a group of ranks, and a tag of its own.
        ranks = [int(fact.split()[0]) for fact in facts]
        group = world.Get_group().Incl(ranks)
        self._comm = world.Create_group(group, tag=int(key[:7], 16) % 30000) if ndev > 1 else MPI.COMM_SELF.Dup()
        if rank == 0:
            shutil.rmtree(_folder(key))  # the group is there, so all have read it
        if len({fact.split(maxsplit=1)[1] for fact in facts}) < ndev:
            self._comm.Free()
            self._comm = None
            raise NcclError(5)  # "Duplicate GPU detected"

    def size(self) -> int:
        return self._size

    def rank_id(self) -> int:
        return self._rank

    def device_id(self) -> int:
        return runtime.getDevice()

    def destroy(self) -> None:
        """Everything that was asked of it is done before."""
        if self._comm is not None:
            for queue in list(runtime._engine.ALL.values()):
                if queue.capture is None:
                    queue.wait()
            self._comm.Free()
            self._comm = None

    def abort(self) -> None:
        self._comm = None

    def check_async_error(self) -> None:
        pass

    def allReduce(self, sendbuf: int, recvbuf: int, count: int, datatype: int, op: int, stream: int) -> None:
        self._collect("allReduce", sendbuf, count, datatype, stream,
                      lambda parts: _store(recvbuf, _reduced(parts, op)))  # fmt: skip

    def reduce(self, sendbuf: int, recvbuf: int, count: int, datatype: int, op: int, root: int, stream: int) -> None:
        self._collect("reduce", sendbuf, count, datatype, stream,
                      lambda parts: _store(recvbuf, _reduced(parts, op)) if root == self._rank else None)  # fmt: skip

    def broadcast(self, sendbuff: int, recvbuff: int, count: int, datatype: int, root: int, stream: int) -> None:
        source = sendbuff if root == self._rank else recvbuff
        self._collect("broadcast", source, count, datatype, stream, lambda parts: _store(recvbuff, parts[root]))

    def bcast(self, buff: int, count: int, datatype: int, root: int, stream: int) -> None:
        self.broadcast(buff, buff, count, datatype, root, stream)

    def reduceScatter(self, sendbuf: int, recvbuf: int, recvcount: int, datatype: int, op: int, stream: int) -> None:
        mine = slice(self._rank * recvcount, (self._rank + 1) * recvcount)
        self._collect("reduceScatter", sendbuf, recvcount * self._size, datatype, stream,
                      lambda parts: _store(recvbuf, _reduced(parts, op)[mine]))  # fmt: skip

    def allGather(self, sendbuf: int, recvbuf: int, count: int, datatype: int, stream: int) -> None:
        self._collect("allGather", sendbuf, count, datatype, stream,
                      lambda parts: _store(recvbuf, parts.reshape(-1)))  # fmt: skip

    def send(self, sendbuf: int, count: int, datatype: int, peer: int, stream: int) -> None:
        memory = self._memory(sendbuf, count, datatype, peer)

        def begin() -> Callable[[], None]:
            data = memory.copy()
            request = self._comm.Isend([data, self._mpi.BYTE], peer, tag=1)

            def end() -> None:
                request.Wait()
                assert data.size == memory.size  # MPI has read it until here

            return end

        _ask("send", stream, begin)

    def recv(self, recvbuf: int, count: int, datatype: int, peer: int, stream: int) -> None:
        memory = self._memory(recvbuf, count, datatype, peer)

        def begin() -> Callable[[], None]:
            request = self._comm.Irecv([memory, self._mpi.BYTE], peer, tag=1)
            return request.Wait

        _ask("recv", stream, begin)

    def _memory(self, pointer: int, count: int, datatype: int, peer: int = 0) -> np.ndarray:
        """The bytes at a device pointer; anything else is refused, as NCCL does."""
        size = count * _dtype(datatype).itemsize
        if not 0 <= peer < self._size or (size and not runtime._inside(runtime._device, pointer, size)):
            raise NcclError(4)
        return runtime.raw(pointer, size) if size else np.empty(0, np.uint8)

    def _collect(self, name: str, pointer: int, count: int, datatype: int, stream: int,
                 finish: Callable[[np.ndarray], Any]) -> None:  # fmt: skip
        """Every collective: all send all they have to all, and each keeps what it wants."""
        memory, dtype = self._memory(pointer, count, datatype), _dtype(datatype)

        def begin() -> Callable[[], None]:
            mine = memory.copy()
            parts = np.empty((self._size, mine.size), np.uint8)
            request = self._comm.Iallgather([mine, self._mpi.BYTE], [parts, self._mpi.BYTE])

            def end() -> None:
                request.Wait()
                assert mine.size == memory.size  # MPI has read it until here
                finish(parts.view(dtype))

            return end

        _ask(name, stream, begin)


def _store(pointer: int, values: np.ndarray) -> None:
    if values.size:
        runtime.raw(pointer, values.nbytes)[:] = np.ascontiguousarray(values).view(np.uint8)


def _reduced(parts: np.ndarray, op: int) -> np.ndarray:
    """The ranks' values one after the other, in the type they have, as rings do."""
    function = {NCCL_SUM: np.add, NCCL_PROD: np.multiply, NCCL_MAX: np.maximum, NCCL_MIN: np.minimum}[op]
    total = parts[0].copy()
    for part in parts[1:]:
        total[...] = function(total, part)
    return total


def _dtype(datatype: int) -> np.dtype:
    if datatype not in TYPES:
        raise NcclError(4)
    if datatype == NCCL_BFLOAT16:
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(TYPES[datatype])


def _met(key: str, size: int, rank: int, fact: str) -> list[str]:
    """What every rank says of itself, exchanged through files that the id names."""
    folder = _folder(key)
    folder.mkdir(exist_ok=True)
    mine = folder / f"{rank}.new"
    mine.write_text(fact)
    mine.rename(folder / str(rank))
    limit, facts = time.monotonic() + PATIENCE, []
    for other in range(size):
        path = folder / str(other)
        while not path.exists():
            if time.monotonic() > limit:
                raise NcclError(5)
            time.sleep(0.002)
        facts.append(path.read_text())
    return facts


def _folder(key: str) -> Path:
    return Path(tempfile.gettempdir()) / f"standin-nccl-{os.getuid()}-{key[:24]}"
