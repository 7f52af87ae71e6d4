"""Each transport with arrays that it can move, for the tests: what is written to them is written late."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
from backends import STANDIN
from standin.recording import RecordingDevice

from gridnn.comm.transports.base import Transport
from gridnn.comm.transports.cuda_aware import CudaAwareTransport
from gridnn.comm.transports.direct import DirectTransport
from gridnn.comm.transports.host import HostTransport
from gridnn.kernels import get_backend


class OnHost:
    """NumPy and MPI."""

    name, copies = "direct", False

    def make(self, comm: Any) -> Transport:
        return DirectTransport(comm, get_backend("numpy"))

    def array(self, values: np.ndarray) -> Any:
        """An array that the compute stream will have filled with ``values``."""
        return values.copy()

    def read(self, array: Any) -> np.ndarray:
        """What the compute stream finds in ``array`` now."""
        return array.copy()


class OnDevice(OnHost):
    """A recording device: its arrays are NumPy's, written and read when its compute stream comes to it."""

    def __init__(self, name: str, kind: type, *args: Any, copies: bool = False) -> None:
        self.name, self.copies = name, copies
        self.device = RecordingDevice()
        self._make = lambda comm: kind(comm, self.device, *args)

    def make(self, comm: Any) -> Transport:
        return self._make(comm)

    def array(self, values: np.ndarray) -> Any:
        array = np.zeros_like(values)
        self.device.ask(lambda: array.__setitem__(slice(None), values))
        return array

    def read(self, array: Any) -> np.ndarray:
        found = np.zeros_like(array)
        self.device.ask(lambda: found.__setitem__(slice(None), array))
        self.device.wait(self.device.mark())
        return found


class OnStandin(OnHost):
    """CuPy's stand-in."""

    copies = False

    def __init__(self, name: str, kind: type, cupy: Any, device: Any, copies: bool = False) -> None:
        self.name, self.copies = name, copies
        self.cupy, self.device, self._kind = cupy, device, kind

    def make(self, comm: Any) -> Transport:
        return self._kind(comm, self.device)

    def array(self, values: np.ndarray) -> Any:
        source = self.cupy.asarray(values)
        array = self.cupy.zeros(values.shape, values.dtype)
        array[...] = source
        return array

    def read(self, array: Any) -> np.ndarray:
        return self.cupy.asnumpy(array)


def on_devices() -> list[OnDevice]:
    """The transports that a recording device can show."""
    exact, portable = SimpleNamespace(vector_reduce_scatter=True), SimpleNamespace(vector_reduce_scatter=False)
    return [
        OnDevice("host", HostTransport, copies=True),
        OnDevice("cuda-aware", CudaAwareTransport, exact),
        OnDevice("cuda-aware, portable", CudaAwareTransport, portable),
    ]


@contextmanager
def standin(rank: int) -> Iterator[tuple[Any, Any]]:
    """The stand-in of CuPy and a device of it: a GPU for every rank; nothing of it is left behind."""
    from gridnn.kernels.cuda import cublas
    from gridnn.kernels.cuda.device import CupyDevice

    load = cublas.load_cublas  # which a stand-in sets to its own as it is imported
    with fresh_modules("cupy", STANDIN_DEVICES="8", STANDIN_ORDER="late"):
        sys.path.insert(0, str(STANDIN))
        try:
            import cupy

            yield cupy, CupyDevice(cupy, rank)
        finally:
            sys.path.remove(str(STANDIN))
            cublas.load_cublas = load


@contextmanager
def fresh_modules(package: str, **environment: str) -> Iterator[None]:
    """Let ``package`` be imported anew inside, under ``environment``, and be as before afterwards."""
    import pytest

    def ours() -> list[str]:
        return [name for name in sys.modules if name.split(".")[0] == package]

    before = {name: sys.modules.pop(name) for name in ours()}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        try:
            yield
        finally:
            for name in ours():
                del sys.modules[name]
            sys.modules.update(before)


def values(rank: int, size: int, dtype: str, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, rank]).integers(-9, 10, size).astype(dtype)


def parts(flat: np.ndarray, sizes: list[int]) -> list[np.ndarray]:
    return np.split(flat, np.cumsum(sizes)[:-1])


def split_sizes(ranks: int) -> list[list[int]]:
    """Equal parts, odd ones, some of them empty, and nothing at all."""
    return [[3] * ranks, [(5 * r) % 7 for r in range(ranks)], [0] * (ranks - 1) + [9], [0] * ranks]


def sums(comm, place, transport, dtype, at_once):
    """All-reduce and reduce-scatter."""
    for size in (0, 1, 17):
        everyone = [values(rank, size, dtype) for rank in range(comm.size)]
        for operation, wanted in (("sum", np.sum(everyone, 0)), ("max", np.max(everyone, 0))):
            array = place.array(everyone[comm.rank])
            transport.all_reduce(array, operation, at_once=at_once).wait()
            np.testing.assert_array_equal(place.read(array), wanted, err_msg=place.name)
    for sizes in split_sizes(comm.size):
        everyone = [values(rank, sum(sizes), dtype) for rank in range(comm.size)]
        out = place.array(np.zeros(sizes[comm.rank], dtype))
        transport.reduce_scatter(place.array(everyone[comm.rank]), out, sizes, at_once=at_once).wait()
        np.testing.assert_array_equal(place.read(out), parts(np.sum(everyone, 0), sizes)[comm.rank])


def moves(comm, place, transport, dtype, at_once):
    """All-gather, all-to-all (what rank r gives to rank s has (r + 2 s) mod 4 elements), and messages around."""
    me, ranks = comm.rank, range(comm.size)
    for sizes in split_sizes(comm.size):
        everyone = [values(rank, size, dtype) for rank, size in enumerate(sizes)]
        out = place.array(np.zeros(sum(sizes), dtype))
        transport.all_gather(place.array(everyone[me]), out, sizes, at_once=at_once).wait()
        np.testing.assert_array_equal(place.read(out), np.concatenate(everyone), err_msg=place.name)
    table = [[(r + 2 * s) % 4 for s in ranks] for r in ranks]
    given = [values(r, sum(table[r]), dtype) for r in ranks]
    out = place.array(np.zeros(sum(table[r][me] for r in ranks), dtype))
    received = [table[r][me] for r in ranks]
    transport.all_to_all(place.array(given[me]), table[me], out, received, at_once=at_once).wait()
    wanted = np.concatenate([parts(given[r], table[r])[me] for r in ranks])
    np.testing.assert_array_equal(place.read(out), wanted, err_msg=place.name)
    after, before = (me + 1) % comm.size, (me - 1) % comm.size
    buffers = [place.array(np.zeros(size, dtype)) for size in (3, 5)]
    sends = [(after, place.array(values(me, size, dtype))) for size in (3, 5)]
    transport.exchange(sends, [(before, buffer) for buffer in buffers]).wait()
    for size, buffer in zip((3, 5), buffers, strict=True):
        np.testing.assert_array_equal(place.read(buffer), values(before, size, dtype), err_msg=place.name)
