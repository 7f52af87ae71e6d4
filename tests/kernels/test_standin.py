"""The stand-in for CuPy: as strict, as late and as forgetful as a GPU may be, so that tests on it can fail."""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from backends import STANDIN

SPIN = "extern \"C\" __global__ void triple(float* p, long long n) { EACH }".replace(
    "EACH", "for (long long i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) p[i] *= 3;"
)  # fmt: skip


@pytest.fixture
def xp(standin):
    """The stand-in, on a stream of its own, in lazy order."""
    if os.environ.get("STANDIN_ORDER") == "eager":
        pytest.skip("these tests are of the late order")
    with standin.cuda.Stream(non_blocking=True):
        yield standin


@pytest.fixture
def side(xp):
    """Another stream."""
    return xp.cuda.Stream(non_blocking=True)


# -- late ----------------------------------------------------------------------------------------------------


def test_missing_wait_reads_old_numbers(xp, side):
    x = xp.zeros(4)
    xp.cuda.get_current_stream().synchronize()
    x += 1
    with side:
        y = x.copy()
    assert y.get(stream=side).tolist() == [0] * 4
    side.wait_event(xp.cuda.get_current_stream().record())
    with side:
        y = x.copy()
    assert y.get(stream=side).tolist() == [1] * 4


def test_eager_order():
    """The same missing wait goes unnoticed there."""
    code = """
import cupy
s, t = (cupy.cuda.Stream(non_blocking=True) for _ in range(2))
with s: x = cupy.ones(4)
with t: print(x.copy().get().tolist())
"""
    env = {**os.environ, "PYTHONPATH": str(STANDIN), "STANDIN_ORDER": "eager"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[1.0, 1.0, 1.0, 1.0]", done.stderr


@pytest.mark.parametrize("held", [False, True])
def test_dropped_buffer_is_used_again(xp, side, held):
    compute = xp.cuda.get_current_stream()
    x, out = xp.full(300, 7.0), xp.zeros(300)
    compute.synchronize()
    with side:
        out[...] = x
    if held:
        compute.wait_event(side.record())
    address = x.data.ptr
    del x
    y = xp.full(300, 5.0)
    assert y.data.ptr == address
    compute.synchronize()
    side.synchronize()
    assert out.get()[0] == (7 if held else 5)


def test_new_memory_is_spoilt(xp):
    assert np.isnan(xp.empty(5).get()).all()


def test_page_locked_memory_is_read_late_and_other_memory_at_once(xp):
    pinned, plain = np.frombuffer(xp.cuda.alloc_pinned_memory(32), np.float64, 4), np.zeros(4)
    for host in (pinned, plain):
        host[:] = 1
        x = xp.empty(4)
        x.data.copy_from_host_async(host.ctypes.data, 32)
        host[:] = 2
        assert x.get()[0] == (2 if host is pinned else 1)
    x.data.copy_to_host_async(pinned.ctypes.data, 32)
    assert pinned[0] == 2
    xp.cuda.get_current_stream().synchronize()
    assert pinned[0] == 1


def test_default_stream_does_not_wait_for_others(xp):
    """cudaMemcpy runs on the default stream, and so overtakes a non-blocking one."""
    x, host = xp.zeros(1), np.zeros(1)
    xp.cuda.get_current_stream().synchronize()
    x += 1
    x.data.copy_to_host(host.ctypes.data, 8)
    assert host[0] == 0
    xp.cuda.Device().synchronize()
    x.data.copy_to_host(host.ctypes.data, 8)
    assert host[0] == 1


def test_events(xp):
    event = xp.cuda.Event()
    assert event.done
    xp.cuda.get_current_stream().wait_event(event)
    x = xp.ones(3)
    start, end = xp.cuda.Event(), xp.cuda.Event()
    start.record()
    x *= 2
    end.record()
    with pytest.raises(xp.cuda.runtime.CUDARuntimeError, match="cudaErrorNotReady"):
        xp.cuda.get_elapsed_time(start, end)
    assert [end.done for _ in range(6)][-1] and x.raw[0] == 2
    assert xp.cuda.get_elapsed_time(start, end) >= 0
    with pytest.raises(xp.cuda.runtime.CUDARuntimeError, match="cudaErrorInvalidResourceHandle"):
        xp.cuda.get_elapsed_time(xp.cuda.Event(), end)


def test_record(xp, side):
    stream = xp.cuda.get_current_stream()
    with xp.standin.record() as calls:
        x = xp.ones(3)
        event = stream.record()
        side.wait_event(event)
        with side:
            x.get()
    assert [(call.stream, call.operation) for call in calls] == [
        (stream.ptr, "assign"), (stream.ptr, "record"), (side.ptr, "wait"), (side.ptr, "memcpyDeviceToHost"),
        (-1, "streamSynchronize"),
    ]  # fmt: skip
    assert calls[1].event == calls[2].event == event.ptr


# -- strict --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mistake",
    [
        lambda xp, x: x + np.ones(3),
        lambda xp, x: np.ones(3) + x,
        lambda xp, x: x.__iadd__(np.array(1.0)),
        lambda xp, x: xp.exp(np.ones(3)),
        lambda xp, x: xp.where(x > 0, x, np.zeros(3)),
        lambda xp, x: xp.add(x, x, out=np.empty(3)),
        lambda xp, x: x.__setitem__(slice(None), np.ones(3)),
        lambda xp, x: x == np.ones(3),
        lambda xp, x: np.asarray(x),
        lambda xp, x: np.empty(3).__setitem__(slice(None), x),
        lambda xp, x: xp.asarray([x, x]),
        lambda xp, x: xp.sum(x, where=x > 0),
        lambda xp, x: xp.multiply(x, 1.5, out=xp.empty(3, "int64")),
        lambda xp, x: xp.RawKernel(SPIN, "triple")((1,), (32,), (np.ones(3, "f4"), 3)),
    ],
)
def test_mistakes(xp, mistake):
    with pytest.raises(TypeError):
        mistake(xp, xp.ones(3))


def test_out_must_have_the_shape(xp):
    with pytest.raises(ValueError, match="Out shape is mismatched"):
        xp.add(xp.ones(3), 1, out=xp.empty((2, 3)))


def test_copies_to_the_wrong_side(xp):
    x, host = xp.ones(3), np.ones(3)
    runtime = xp.cuda.runtime
    with pytest.raises(runtime.CUDARuntimeError, match="cudaErrorInvalidValue"):
        runtime.memcpyAsync(host.ctypes.data, x.data.ptr, 24, runtime.memcpyHostToDevice, 0)


# -- arrays --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "compute",
    [
        lambda xp, x: x[:, ::2].reshape(-1) * 2 + 1,
        lambda xp, x: xp.maximum(x, 0.5, out=x).sum(axis=0, keepdims=True),
        lambda xp, x: x.T.reshape(2, 6)[..., None].transpose(2, 0, 1).squeeze(0),
        lambda xp, x: x[xp.asarray([2, 0])][:, 1:],
        lambda xp, x: xp.concatenate([x, x - 1], axis=1).max(axis=-1),
        lambda xp, x: xp.lib.stride_tricks.as_strided(x, (2, 2, 4), (32, 32, 8)).mean(axis=0),
        lambda xp, x: (xp.arange(4, dtype=xp.uint64) * xp.uint64(3) >> xp.uint64(1)) ^ xp.uint64(5),
        lambda xp, x: xp.clip(xp.where(x > 0, x, 0), 0, 1).astype(xp.float32).view(xp.uint32),
        lambda xp, x: xp.repeat(x, 2, axis=0) @ x.T,
        lambda xp, x: xp.isfinite(xp.sqrt(x * x)).all(),
        lambda xp, x: 1 / (1 + xp.exp(-x)) ** 2,
    ],
)
def test_numbers_are_numpys(xp, compute):
    host = np.random.default_rng(3).standard_normal((3, 4))
    found, expected = compute(xp, xp.asarray(host)).get(), compute(np, host.copy())
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_kernels_run_when_their_turn_comes(xp):
    x = xp.arange(1000, dtype=xp.float32)
    xp.RawKernel(SPIN, "triple")((2,), (32,), (x, 1000))
    assert x.get().tolist() == [3 * i for i in range(1000)]


def test_pool(xp):
    pool, taken = xp.get_default_memory_pool(), []

    class Hook(xp.cuda.MemoryHook):
        name = "counting"

        def alloc_postprocess(self, **facts):
            taken.append(facts["mem_size"])

    x = xp.empty(3 << 17)  # 3 MiB
    used, total = pool.used_bytes(), pool.total_bytes()
    with Hook():
        del x
        first, second = xp.empty(1 << 17), xp.empty(1 << 17)
    assert not taken and pool.total_bytes() == total and pool.used_bytes() == used - (1 << 20)
    assert abs(second.data.ptr - first.data.ptr) == 1 << 20
    del first, second
    assert xp.empty(3 << 17).size  # the halves were joined
    assert pool.total_bytes() == total


def test_memory_runs_out(xp, monkeypatch):
    monkeypatch.setenv("STANDIN_MEMORY", str(sum(xp.cuda.runtime._device.values()) + 1000))
    with pytest.raises(xp.cuda.memory.OutOfMemoryError, match="Out of memory allocating"):
        xp.empty(1 << 28)


# -- captures ------------------------------------------------------------------------------------------------


def test_capture_and_launch(xp, side):
    stream = xp.cuda.get_current_stream()
    x, y = xp.zeros(4), xp.zeros(4)
    stream.begin_capture()
    x += 2
    side.wait_event(stream.record())
    with side:
        xp.multiply(x, 10, out=y)
    stream.wait_event(side.record())
    y += 1
    graph = stream.end_capture()
    assert x.get()[0] == 0
    for _ in range(2):
        graph.launch()
    assert (x.get()[0], y.get()[0]) == (4, 41)


def test_missing_wait_in_a_capture(xp, side):
    stream = xp.cuda.get_current_stream()
    x, y = xp.zeros(4), xp.zeros(4)
    stream.begin_capture()
    side.wait_event(stream.record())
    with side:
        x += 1
    xp.add(x, 0, out=y)
    stream.wait_event(side.record())
    stream.end_capture().launch()
    assert (y.get()[0], x.get()[0]) == (0, 1)


@pytest.mark.parametrize(
    "name, mistake",
    [
        ("cudaErrorStreamCaptureUnsupported", lambda xp, stream, side: stream.synchronize()),
        ("cudaErrorStreamCaptureUnsupported", lambda xp, stream, side: xp.ones(3).sum().item()),
        ("cudaErrorStreamCaptureUnsupported", lambda xp, stream, side: xp.cuda.Device().synchronize()),
        ("cudaErrorStreamCaptureIsolation", lambda xp, stream, side: stream.wait_event(side.record())),
        ("cudaErrorCapturedEvent", lambda xp, stream, side: stream.record().synchronize()),
    ],
)
def test_what_a_capture_refuses(xp, side, name, mistake):
    error = xp.cuda.runtime.CUDARuntimeError
    stream = xp.cuda.get_current_stream()
    stream.begin_capture()
    with pytest.raises(error, match=name):
        mistake(xp, stream, side)
    with pytest.raises(error, match="cudaErrorStreamCaptureInvalidated"):
        stream.end_capture()


def test_unjoined_stream(xp, side):
    stream, x = xp.cuda.get_current_stream(), xp.zeros(3)
    stream.begin_capture()
    side.wait_event(stream.record())
    with side:
        x += 1
    with pytest.raises(xp.cuda.runtime.CUDARuntimeError, match="cudaErrorStreamCaptureUnjoined"):
        stream.end_capture()


def test_products_in_captures(xp):
    """CuPy's refuses, gridnn's own calls of cuBLAS work."""
    from gridnn.kernels.cuda.cublas import Cublas

    stream = xp.cuda.get_current_stream()
    a, out = xp.asarray(np.arange(6.0).reshape(2, 3)), xp.zeros((2, 2))
    cublas = Cublas(xp, stream.ptr)
    stream.begin_capture()
    with pytest.raises(NotImplementedError, match="cuBLAS API during stream capture"):
        xp.matmul(a, a.T)
    cublas.multiply(a, a.T, out, accumulate=True)
    graph = stream.end_capture()
    graph.launch()
    graph.launch()
    np.testing.assert_array_equal(out.get(), 2 * a.get() @ a.get().T)
    cublas.free()


# -- beside the real CuPy --------------------------------------------------------------------------------------

REAL = """
import inspect, json, sys, warnings
warnings.simplefilter("ignore")
import cupy, ml_dtypes
from cupy._core._scalar import CScalar
from cupy.cuda import MemoryPointer, UnownedMemory
if getattr(cupy, "is_standin", False): raise ImportError("the stand-in")
memory = UnownedMemory(1 << 16, 4096, None, 0)
values = {"float": 0.5, "int": 2, "float32": cupy.float32(1), "uint64": cupy.uint64(1)}
names, kinds = json.loads(sys.stdin.read())
def array(kind):
    return cupy.ndarray((1,), getattr(ml_dtypes, kind, None) or kind, MemoryPointer(memory, 0))
def found(name, first, second):
    f = getattr(cupy, name)
    args = [array(first), CScalar(values[second[2:]]) if second[:2] == "a " else array(second)][: f.nin]
    try: return str(f._ops.guess_routine(f.name, {}, args, None, f._out_ops).out_types[0])
    except TypeError: return None
def parameters(name):
    value = cupy
    for part in name.split("."): value = getattr(value, part, None)
    if value is None: return None
    try: return list(inspect.signature(value).parameters)
    except (TypeError, ValueError): return []
pairs = {n: [found(n, a, b) for a in kinds for b in [*kinds, *("a " + v for v in values)]]
         for n in names if isinstance(getattr(cupy, n, None), cupy.ufunc)}
print(json.dumps([pairs, {n: parameters(n) for n in names}]))
"""
KINDS = ["bool", "int32", "uint64", "float16", "bfloat16", "float32", "float64"]
SCALARS = {"float": 0.5, "int": 2, "float32": np.float32(1), "uint64": np.uint64(1)}


@pytest.fixture(scope="module")
def real(standin):
    """The types of ufuncs and the parameters of functions of the CuPy that is installed; it needs no GPU for that."""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    env["PYTHONPATH"] = os.pathsep.join(
        path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != str(STANDIN)
    )
    done = subprocess.run(
        [os.environ.get("GRIDNN_CUPY_PYTHON", sys.executable), "-c", REAL],
        input=json.dumps([public(standin), KINDS]), env=env, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    if done.returncode:
        why = done.stderr.strip().splitlines()[-1]
        if "Error: No module named" not in why and "the stand-in" not in why:
            pytest.fail(done.stderr)
        pytest.skip(f"no CuPy to compare with ({why}): set GRIDNN_CUPY_PYTHON to a Python that has it and ml_dtypes")
    return json.loads(done.stdout)


def public(standin) -> list[str]:
    """The functions of the stand-in that CuPy must have, too."""
    functions = [name for name, value in vars(standin).items() if callable(value) and not name.startswith("_")]
    functions += [f"cuda.{name}" for name in standin.cuda.__all__ if callable(getattr(standin.cuda, name))]
    return functions + [f"cuda.runtime.{name}" for name in vars(standin.cuda.runtime) if name[0].islower() and "_" not
                        in name and callable(getattr(standin.cuda.runtime, name)) and name != "raw"]  # fmt: skip


def test_types_are_cupys(real, standin):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    from cupy._ufuncs import result_type

    types = {kind: np.dtype(getattr(ml_dtypes, kind, kind)) for kind in KINDS}
    seconds = [*types.values(), *(type(v) if isinstance(v, (int, float)) and not isinstance(v, np.generic) else v.dtype
                                  for v in SCALARS.values())]  # fmt: skip
    assert len(real[0]) > 40
    wrong = []
    for name, outputs in real[0].items():
        pairs = [(a, b) for a in types.values() for b in seconds]
        for (a, b), theirs in zip(pairs, outputs, strict=True):
            kinds = (a, b)[: getattr(np, name).nin]
            try:
                ours = str(result_type(name, kinds, None, None, "same_kind"))
            except TypeError:
                ours = None
            if ours is not None and ours != theirs:  # the stand-in may refuse more
                wrong.append((name, *map(str, kinds), ours, theirs))
    assert not wrong


def test_parameters_are_cupys(real, standin):
    assert not [name for name, theirs in real[1].items() if theirs is None]
    wrong = {}
    for name, theirs in real[1].items():
        value = functools.reduce(getattr, name.split("."), standin)
        if theirs and theirs[0] not in ("args", "self") and not isinstance(value, (type, standin.ufunc)):
            ours = list(inspect.signature(value).parameters)
            if ours != theirs[: len(ours)]:
                wrong[name] = ours, theirs
    assert not wrong


# -- NCCL ----------------------------------------------------------------------------------------------------


@pytest.fixture
def nccl(xp, comm, monkeypatch):
    """NCCL's communicator over all ranks, a device for each, and the module."""
    monkeypatch.setenv("STANDIN_DEVICES", str(comm.size))
    xp.cuda.Device(comm.rank).use()
    module = importlib.import_module("cupy.cuda.nccl")
    made = module.NcclCommunicator(comm.size, comm.bcast(module.get_unique_id()), comm.rank)
    with xp.cuda.Stream(non_blocking=True):
        yield made, module
    made.destroy()
    xp.cuda.Device(0).use()


@pytest.mark.mpi
def test_nccl_sums_in_order_with_its_stream(xp, comm, nccl):
    made, module = nccl
    x, y = xp.full(5, comm.rank + 1.0), xp.empty(5)
    stream = xp.cuda.get_current_stream().ptr
    made.allReduce(x.data.ptr, y.data.ptr, 5, module.NCCL_FLOAT64, module.NCCL_SUM, stream)
    y *= 2
    comm.Barrier()  # nobody has waited for the sum: it needs no host
    assert y.get().tolist() == [comm.size * (comm.size + 1.0)] * 5


@pytest.mark.mpi
def test_nccl_moves(xp, comm, nccl):
    made, module = nccl
    rank, size, stream = comm.rank, comm.size, xp.cuda.get_current_stream().ptr
    x, all_of_it, mine = xp.full(3, rank, "float32"), xp.empty(3 * size, "float32"), xp.empty(3, "float32")
    made.allGather(x.data.ptr, all_of_it.data.ptr, 3, module.NCCL_FLOAT32, stream)
    made.reduceScatter(all_of_it.data.ptr, mine.data.ptr, 3, module.NCCL_FLOAT32, module.NCCL_MAX, stream)
    module.groupStart()
    right = xp.empty(3, "float32")
    made.send(x.data.ptr, 12, module.NCCL_UINT8, (rank + 1) % size, stream)
    made.recv(right.data.ptr, 12, module.NCCL_UINT8, (rank - 1) % size, stream)
    module.groupEnd()
    assert all_of_it.get().reshape(size, 3)[:, 0].tolist() == list(range(size))
    assert mine.get().tolist() == [rank] * 3
    assert right.get().tolist() == [(rank - 1) % size] * 3


@pytest.mark.mpi
def test_nccl_runs_while_its_rank_waits_elsewhere(xp, comm, nccl):
    made, module = nccl
    x = xp.ones(1)
    if comm.rank:
        time.sleep(0.01)
    made.allReduce(x.data.ptr, x.data.ptr, 1, 8, module.NCCL_SUM, xp.cuda.get_current_stream().ptr)
    if comm.rank == 0:
        assert x.get()[0] == comm.size
    comm.Barrier()
    assert x.get()[0] == comm.size


@pytest.mark.mpi
def test_nccl_refuses_two_ranks_on_one_device(xp, comm):
    if comm.size == 1:
        return
    module = importlib.import_module("cupy.cuda.nccl")
    with pytest.raises(module.NcclError, match="INVALID_USAGE"):
        module.NcclCommunicator(comm.size, comm.bcast(module.get_unique_id()), comm.rank)
