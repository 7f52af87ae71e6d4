"""The transports: the order of their calls on a device that is as late as may be, and their numbers on real ranks."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from launch import HELPERS, mpirun
from standin.recording import RecordingBackend, RecordingComm, RecordingDevice
from transports import OnHost, OnStandin, moves, on_devices, standin, sums, values

from gridnn.comm.communicator import Communicator
from gridnn.comm.grid import Grid
from gridnn.comm.ledger import Ledger, Where
from gridnn.comm.redistribute import Transfer
from gridnn.comm.transports import host
from gridnn.comm.transports.cuda_aware import CudaAwareTransport
from gridnn.comm.transports.host import HostTransport
from gridnn.comm.transports.nccl import NcclTransport
from gridnn.comm.transports.progress import ProgressThread
from gridnn.layout.layout import Dim, Layout
from gridnn.layout.partition import Even

TO_MPI = ["mark compute 1", "hold communication 1", "to_host communication", "mark communication 2"]
BACK = ["to_device communication", "mark communication 4", "hold compute 4"]
STEP = Where("fc", "update")


# -- the order of calls --------------------------------------------------------------------------------------


@pytest.fixture
def alone():
    """A device, one rank, and four numbers of it."""
    from mpi4py import MPI

    device = RecordingDevice()
    return SimpleNamespace(device=device, comm=RecordingComm(MPI.COMM_SELF, device), array=np.arange(4.0))


def test_host_sum(alone):
    HostTransport(alone.comm, alone.device).all_reduce(alone.array, at_once=True).wait()
    assert alone.device.calls == [
        *TO_MPI, "wait 2", "Allreduce", "to_device communication", "mark communication 3", "hold compute 3",
    ]  # fmt: skip


def test_host_sum_in_pieces(alone, monkeypatch):
    """All pieces go to the host one behind the other; MPI has the first as soon as it is there."""
    monkeypatch.setattr(host, "PIECE", 16)
    HostTransport(alone.comm, alone.device).all_reduce(alone.array, at_once=True).wait()
    assert alone.device.calls == [
        *TO_MPI, "to_host communication", "mark communication 3",
        "wait 2", "Allreduce", "to_device communication",
        "wait 3", "Allreduce", *BACK,
    ]  # fmt: skip


@pytest.mark.parametrize("call", ["Allgatherv", "Reduce_scatter", "Alltoallv"])
def test_host_collectives(alone, call):
    transport, out = HostTransport(alone.comm, alone.device), np.zeros(4)
    {
        "Allgatherv": lambda: transport.all_gather(alone.array, out, [4], at_once=True),
        "Reduce_scatter": lambda: transport.reduce_scatter(alone.array, out, [4], at_once=True),
        "Alltoallv": lambda: transport.all_to_all(alone.array, [4], out, [4], at_once=True),
    }[call]().wait()
    assert alone.device.calls == [*TO_MPI, "mark communication 3", "wait 3", call, *BACK]
    assert transport.copied_to_host == 32


def test_host_exchange(alone):
    """Messages go through the worker; where nothing is sent, the staging memory still waits for its last copies."""
    transport, out = HostTransport(alone.comm, alone.device), np.zeros(4)
    transport.exchange([(0, alone.array)], [(0, out)]).wait()
    assert alone.device.calls == [*TO_MPI, "mark communication 3", "wait 3", "Irecv", "Isend", *BACK]
    alone.device.calls.clear()
    transport.exchange([], []).wait()
    assert alone.device.calls == [
        "mark compute 5", "hold communication 5", "mark communication 6", "wait 6", "mark communication 7",
        "hold compute 7",
    ]  # fmt: skip
    transport.free()


def test_staging_grows_when_its_copies_are_done(alone):
    transport = HostTransport(alone.comm, alone.device)
    transport.all_reduce(alone.array, at_once=True).wait()
    alone.device.calls.clear()
    transport.all_reduce(np.arange(400.0), at_once=True).wait()
    assert alone.device.calls[:3] == ["mark compute 4", "wait 3", "hold communication 4"]


def test_cuda_aware(alone):
    """The host waits for the stream that wrote the array, and for MPI; nothing is left to hold."""
    portable = SimpleNamespace(vector_reduce_scatter=False)
    transport, out = CudaAwareTransport(alone.comm, alone.device, portable), np.zeros(4)
    transport.all_reduce(alone.array, at_once=True).wait()
    transport.all_gather(alone.array, out, [4], at_once=True).wait()
    transport.reduce_scatter(alone.array, out, [4], at_once=True).wait()
    assert alone.device.calls == [
        "mark compute 1", "wait 1", "Allreduce", "mark compute 2", "wait 2", "Allgatherv",
        "mark compute 3", "wait 3", "Reduce_scatter_block",
    ]  # fmt: skip
    assert transport.copied_to_host == 0


def test_nccl():
    """All is asked of the communication stream, between two events; the host waits for nothing."""
    from mpi4py import MPI

    with standin(0) as (cupy, device):
        transport, array = NcclTransport(MPI.COMM_SELF, device), cupy.arange(4.0)
        names = {device.stream(name): name for name in ("compute", "communication")}
        with cupy.standin.record() as entries:
            transport.all_reduce(array).wait()
        ready, finished = entries[0].event, entries[3].event
        assert [(names[stream], operation, event) for stream, operation, event in entries] == [
            ("compute", "record", ready),
            ("communication", "wait", ready),
            ("communication", "nccl.allReduce", None),
            ("communication", "record", finished),
            ("compute", "wait", finished),
        ]
        transport.free()


# -- the worker ----------------------------------------------------------------------------------------------


def test_a_worker_keeps_the_order():
    """The calling thread does what it can itself, but never before what the worker has left to do."""
    worker, done, go = ProgressThread(lambda: None), [], threading.Event()
    worker.run(lambda: done.append(threading.current_thread().name)).result()
    first = worker.start(go.wait)
    worker.start(lambda: done.append("started"))
    second = threading.Timer(0.05, go.set)
    second.start()
    worker.run(lambda: done.append("at once")).result()
    assert first.result() and done == ["MainThread", "started", "at once"]
    worker.free()
    assert "gridnn transport" not in {thread.name for thread in threading.enumerate()}


def test_what_a_worker_raises_is_raised_by_all_that_follows():
    worker, done = ProgressThread(lambda: None), []
    tasks = [worker.start(lambda: 1 / 0), worker.start(lambda: done.append(1))]
    tasks.append(worker.run(lambda: done.append(2)))
    for task in tasks:
        with pytest.raises(ZeroDivisionError):
            task.result()
    assert not done
    worker.free()


def test_a_thread_that_cannot_be_bound_says_so():
    worker = ProgressThread(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        worker.start(lambda: None).result()
    worker.free()


def test_a_rank_whose_worker_fails_ends_the_job():
    """The others wait in MPI, in their workers; nobody hangs, and the rank says what it was."""
    began = time.monotonic()
    done = mpirun(3, sys.executable, __file__, timeout=30, env={"PYTHONPATH": str(HELPERS)})
    assert done.returncode == 1, done.stdout + done.stderr
    assert "rank 1 of 3" in done.stderr and "the link is down" in done.stderr
    assert time.monotonic() - began < 20


def fail_on_rank_1(job) -> None:
    """The program of the test above."""
    backend = RecordingBackend()
    if job.rank == 1:
        backend.device.to_host = broken
    group = Communicator(job.comm.Dup(), range(job.size), 1, backend, Ledger())
    group.start_all_reduce(np.ones(5), [(STEP, 5)]).wait()


def broken(*_) -> None:
    raise RuntimeError("the link is down")


# -- numbers -------------------------------------------------------------------------------------------------


def on_standin(rank):
    """The transports on the stand-in of CuPy."""
    with standin(rank) as (cupy, device):
        yield OnStandin("host", HostTransport, cupy, device, copies=True)
        yield OnStandin("nccl", NcclTransport, cupy, device)


def places(comm):
    yield from (OnHost(), *on_devices())
    yield from on_standin(comm.rank)


@pytest.mark.mpi
@pytest.mark.parametrize("at_once", [True, False])
def test_operations_on_all_transports(comm, at_once):
    for place in places(comm):
        transport = place.make(comm.Dup())
        for dtype in ("float32", "float64"):
            sums(comm, place, transport, dtype, at_once)
        for dtype in ("float32", "float64", "uint16"):
            moves(comm, place, transport, dtype, at_once)
        assert (transport.copied_to_host > 0) == place.copies
        transport.free()


@pytest.mark.mpi
def test_started_operations_run_beside_each_other(comm):
    """Sums and messages are begun, another sum is waited for at once, and the first ones end in another order."""
    for place in places(comm):
        transport = place.make(comm.Dup())
        everyone = [[values(rank, 13, "float32", seed) for rank in range(comm.size)] for seed in range(5)]
        first, second, at_once, sent = (place.array(seed[comm.rank]) for seed in everyone[:4])
        buffer = place.array(np.zeros(13, "float32"))
        after, before = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
        works = [transport.all_reduce(first), transport.exchange([(after, sent)], [(before, buffer)])]
        works.append(transport.all_reduce(second, "max"))
        transport.all_reduce(at_once, at_once=True).wait()
        assert transport.in_order(lambda: comm.allreduce(1)) == comm.size
        for work in reversed(works):
            work.wait()
        found = [place.read(array) for array in (first, second, at_once, buffer)]
        wanted = [np.sum(everyone[0], 0), np.max(everyone[1], 0), np.sum(everyone[2], 0), everyone[3][before]]
        for got, right in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(got, right, err_msg=place.name)
        transport.free()


@pytest.mark.mpi
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("device", [True, False])
def test_16_bits_are_moved_as_they_are_and_summed_in_float32(comm, device, dtype):
    """A sum that is rounded once, not at every rank; and the bytes are those that moved."""
    from gridnn.kernels import get_backend

    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    backend, ledger = RecordingBackend(late=False) if device else get_backend("numpy"), Ledger()
    grid, ranks, dtype = Grid(comm, comm.size, 1, backend=backend, ledger=ledger), comm.size, backend.dtype(dtype)
    whole, parts = Layout.whole((2 * ranks,), (ranks,)), Layout((ranks,), (Dim(Even(2 * ranks, ranks), (0,)),))
    partial, values = replace(whole, partial=(0,)), np.full(2 * ranks, 1.5 if comm.rank else 4096).astype(dtype)
    wanted = np.full(2 * ranks, 4096 + 1.5 * (ranks - 1), "float32").astype(dtype)
    np.testing.assert_array_equal(Transfer(grid, partial, whole, dtype).forward(values), wanted)
    np.testing.assert_array_equal(Transfer(grid, partial, parts, dtype).forward(values), wanted[:2])
    everyone = np.repeat(np.arange(ranks), 2).astype(dtype)
    np.testing.assert_array_equal(
        Transfer(grid, parts, whole, dtype).forward(everyone[parts.slices(comm.rank)]), everyone
    )
    widths = {key.kind: tally.bytes / max(1, tally.words) for key, tally in ledger.rows.items()}
    assert comm.size == 1 or widths == {"all-reduce": 4, "all-gather": 2, "reduce-scatter": 4}
    grid.free()


@pytest.mark.mpi
def test_seconds_of_a_device_are_entered_when_it_is_settled(comm):
    """The compute stream marks when it stands still; nobody waits for the marks before the step does."""
    backend = RecordingBackend()
    grid = Grid(comm, 1, comm.size, backend=backend)
    array = np.ones(1000)
    grid.row.start_all_reduce(array, [(STEP, 400), (Where("conv", "update"), 600)]).wait()
    assert grid.ledger.seconds == 0
    backend.device.wait(backend.device.mark())
    grid.ledger.settle()
    seconds = [grid.ledger.rows[key].seconds for key in grid.ledger.rows]
    assert seconds[0] > 0 and seconds[1] == pytest.approx(1.5 * seconds[0])
    before = grid.ledger.seconds
    grid.ledger.settle()
    assert grid.ledger.seconds == before
    assert grid.copied_to_host == (8000 if comm.size > 1 else 0)
    np.testing.assert_array_equal(array, comm.size)
    grid.free()


if __name__ == "__main__":
    from gridnn.comm.job import run

    run(fail_on_rank_1)
