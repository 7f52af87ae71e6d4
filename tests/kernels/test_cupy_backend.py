"""The backend of GPUs: what it refuses, which device a rank takes, its memory, and its order of copies."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from backends import import_standin

from gridnn.errors import UserError
from gridnn.kernels import get_backend
from gridnn.kernels.cuda import setup as cupy_setup
from gridnn.train.agreement import collective_check, shared_devices
from gridnn.train.config import RunConfig
from gridnn.train.staging import make_buffer


class CUDARuntimeError(RuntimeError):
    """As CuPy's."""


def fake(driver=12040, runtime=12090, devices=4, nvrtc=None, error=None):
    """What `cupy_setup` asks of CuPy."""

    def count():
        if error:
            raise CUDARuntimeError(error)
        return devices

    def version():
        if nvrtc:
            raise RuntimeError(nvrtc)
        return 12, 9

    called = {"driverGetVersion": lambda: driver, "runtimeGetVersion": lambda: runtime, "getDeviceCount": count}
    called = SimpleNamespace(**called, CUDARuntimeError=CUDARuntimeError)
    return SimpleNamespace(
        __version__="14.2.0", cuda=SimpleNamespace(runtime=called, nvrtc=SimpleNamespace(getVersion=version))
    )


def refusal(function, *args, **options) -> str:
    with pytest.raises(UserError) as caught:
        function(*args, **options)
    text = str(caught.value)
    assert text.startswith("--backend cupy: ")
    return text


# -- what is missing -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "driver, remedy",
    [
        (0, "pip install 'gridnn[cuda12]' or 'gridnn[cuda13]', whichever"),
        (11080, "update the driver, which runs CUDA 11.8 at the most"),
        (12040, "pip install 'gridnn[cuda12]' (the driver runs CUDA 12.4)"),
        (13010, "pip install 'gridnn[cuda13]' (the driver runs CUDA 13.1)"),
        (14000, "pip install 'gridnn[cuda13]' (the driver runs CUDA 14.0)"),
    ],
)
def test_cupy_is_not_installed(monkeypatch, driver, remedy):
    monkeypatch.setattr(cupy_setup, "find_spec", lambda name: None)
    monkeypatch.setattr(cupy_setup, "driver_version", lambda: driver)
    text = refusal(get_backend, "cupy")
    assert "CuPy is not installed" in text and remedy in text


def wheels(*names):
    return lambda: [SimpleNamespace(metadata={"Name": name}) for name in (*names, "numpy", "cupy-plot", None)]


def test_two_wheels_of_cupy(monkeypatch):
    monkeypatch.setattr(cupy_setup, "find_spec", lambda name: True)
    monkeypatch.setattr(cupy_setup, "distributions", wheels("cupy-cuda13x", "cupy-cuda12x"))
    monkeypatch.setattr(cupy_setup, "driver_version", lambda: 13000)
    text = refusal(get_backend, "cupy")
    assert "cupy-cuda12x and cupy-cuda13x are installed together" in text
    assert "pip uninstall cupy-cuda12x cupy-cuda13x, then pip install 'gridnn[cuda13]'" in text


def test_a_broken_cupy(monkeypatch):
    said = "====\nFailed to import CuPy.\n\nOriginal error:\n  ImportError: libcudart.so.12: no such file\n=====\n"

    def broken(name):
        raise ImportError(said)

    monkeypatch.setattr(cupy_setup, "find_spec", lambda name: True)
    monkeypatch.setattr(cupy_setup, "distributions", wheels("cupy-cuda12x"))
    monkeypatch.setattr(cupy_setup, "import_module", broken)
    text = refusal(get_backend, "cupy")
    assert "cannot be imported (ImportError: libcudart.so.12: no such file): pip install" in text


def test_no_driver():
    text = refusal(cupy_setup.choose_device, fake(driver=0), 0, {})
    assert "no NVIDIA driver (libcuda.so.1 cannot be loaded)" in text and "use --backend numpy" in text


def test_a_driver_that_is_too_old():
    text = refusal(cupy_setup.choose_device, fake(driver=12080, runtime=13000), 0, {})
    assert "the driver runs CUDA 12.8 at the most, but CuPy 14.2.0 was made for CUDA 13.0" in text
    assert "update the driver, or pip uninstall CuPy, then pip install 'gridnn[cuda12]'" in text


def test_a_context_before_mpi(standin, monkeypatch):
    calls = []
    monkeypatch.setenv("STANDIN_DEVICES", "2")
    for name in ("setDevice", "free"):
        real = getattr(standin.cuda.runtime, name)
        call = lambda value, name=name, real=real: (calls.append((name, value)), real(value))  # noqa: E731
        monkeypatch.setattr(standin.cuda.runtime, name, call)
    before = standin.cuda.runtime.getDevice()
    cupy_setup.make_context(3)
    standin.cuda.runtime.setDevice(before)
    assert calls[-2][0] == "free" and ("free", 0) in calls and ("setDevice", 1) in calls


def test_no_context_where_something_is_missing(monkeypatch):
    monkeypatch.setattr(cupy_setup, "find_spec", lambda name: None)
    cupy_setup.make_context(0)  # it is refused later, on all ranks together


def test_minor_versions_of_cuda_are_compatible():
    assert cupy_setup.choose_device(fake(driver=12000, runtime=12090), 0, {}) == 0


@pytest.mark.parametrize("found", [{"devices": 0}, {"error": "cudaErrorNoDevice: no CUDA-capable device"}])
@pytest.mark.parametrize(
    "env, said", [({}, "is not set"), ({"CUDA_VISIBLE_DEVICES": ""}, "is ''"), ({"CUDA_VISIBLE_DEVICES": "7"}, "'7'")]
)
def test_no_device_is_visible(env, said, found):
    text = refusal(cupy_setup.choose_device, fake(**found), 3, env)
    assert "no GPU is visible to local rank 3" in text and re.search(f"CUDA_VISIBLE_DEVICES {said}|{said}", text)
    assert found.get("error", "the driver finds none") in text


def test_no_compiler():
    text = refusal(cupy_setup.require_libraries, fake(nvrtc='Failure finding "libnvrtc.so.12"\nmore'))
    assert 'NVRTC cannot be loaded (Failure finding "libnvrtc.so.12"): pip install' in text
    assert "'gridnn[cuda12]' brings it (cupy-cuda12x[ctk])" in text


def test_no_cublas(monkeypatch):
    def missing():
        raise ImportError("no module named 'cuda'")

    monkeypatch.setattr("gridnn.kernels.cuda.cublas.load_cublas", missing)
    assert "cuBLAS cannot be loaded (no module" in refusal(cupy_setup.require_libraries, fake(runtime=13000))


def test_bfloat16_needs_a_numpy_that_cupy_takes_it_from():
    for version in ("1.26.4", "2.1.1"):
        text = refusal(cupy_setup.require_bfloat16, version)
        assert f"CuPy has no bfloat16 with NumPy {version}: pip install 'numpy>=2.1.2'" in text
    cupy_setup.require_bfloat16("2.1.2")


def test_kernels_of_the_cpu():
    with pytest.raises(UserError, match=r"--kernels numba computes on the CPU.*auto"):
        get_backend("cupy", "numba")
    with pytest.raises(UserError, match="--kernels numba has no effect with --backend cupy"):
        RunConfig.of(backend="cupy", kernels="numba").validate()


def test_which_device_a_rank_takes():
    assert [cupy_setup.choose_device(fake(devices=4), rank, {}) for rank in range(6)] == [0, 1, 2, 3, 0, 1]
    assert [cupy_setup.choose_device(fake(devices=1), rank, {}) for rank in range(3)] == [0, 0, 0]


def test_all_ranks_refuse_what_one_refuses():
    """With the rank, unless all of them refuse."""

    def wrong():
        raise UserError("no GPU")

    for others, text in ([None], "rank 0 of 2: no GPU"), (["no GPU"], "no GPU"):
        comm = SimpleNamespace(allgather=lambda mine, others=others: [mine, *others])
        with pytest.raises(UserError) as caught:
            collective_check(comm, wrong)
        assert str(caught.value) == text
    comm = SimpleNamespace(allgather=lambda mine: [mine, "no CuPy"])
    with pytest.raises(UserError, match="rank 1 of 2: no CuPy"):
        collective_check(comm, lambda: 1)
    assert collective_check(SimpleNamespace(allgather=lambda mine: [mine] * 2), lambda: 1) == 1


def test_ranks_that_share_a_gpu_are_told():
    def notes(*places):
        job = SimpleNamespace(node=places[0][0], comm=SimpleNamespace(allgather=lambda mine: [mine, *places[1:]]))
        return shared_devices(job, SimpleNamespace(device=SimpleNamespace(identity=places[0][1])))

    assert notes((0, "a"), (0, "b"), (2, "a")) == []
    (text,) = notes((0, "a"), (0, "b"), (0, "a"), (3, "a"))
    assert text.startswith("up to 2 ranks share a GPU (3 GPUs for 4 ranks)")
    job = SimpleNamespace(node=0, comm=SimpleNamespace(allgather=lambda mine: [mine]))
    assert shared_devices(job, get_backend("numpy")) == []


# -- on the stand-in -----------------------------------------------------------------------------------------------


@pytest.fixture
def backend():
    """On the stand-in, or with ``--backend cupy`` on a GPU."""
    import_standin()
    return get_backend("cupy")


def test_copies_between_host_and_device(backend):
    values = np.arange(24.0).reshape(4, 6)
    array = backend.asarray(values)
    np.testing.assert_array_equal(backend.to_host(array), values)
    out = backend.zeros((6, 8), "float32")
    backend.from_host(values, out[1:5, 2:])  # another type, into a part
    np.testing.assert_array_equal(backend.to_host(out)[1:5, 2:], values)
    assert backend.to_host(out).sum() == values.sum()
    backend.from_host(np.float64(3), array[1, 2])
    assert backend.to_host(array)[1, 2] == 3
    with pytest.raises(ValueError, match=r"host shape \(4, 6\) != device shape \(6, 4\)"):
        backend.from_host(values, backend.empty((6, 4), "float64"))
    with pytest.raises(ValueError, match="not contiguous"):
        backend.host_view(array[:, 1:])


def test_events_order_streams(backend):
    device = backend.device
    host, back = device.pinned(80).view("float64"), device.pinned(80).view("float64")
    host[:] = range(10)
    array = backend.zeros((10,), "float64")
    start = device.mark()
    device.hold(start, "reading")
    device.to_device(host, array, "reading")
    device.hold(device.mark("reading"))
    array *= 2
    device.hold(device.mark(), "communication")
    device.to_host(array, back, "communication")
    end = device.mark("communication")
    device.wait(end)
    np.testing.assert_array_equal(back, 2 * np.arange(10))
    assert 0 <= device.seconds(start, end) < 60
    assert device.pointer(array[3:]) == device.pointer(array) + 24
    streams = {device.stream(name) for name in ("compute", "communication", "reading")}
    assert len(streams) == 3 and 0 not in streams
    with pytest.raises(ValueError, match="72 bytes of the device and 80 of the host"):
        device.to_host(array[1:], host, "reading")
    with pytest.raises(ValueError, match="not contiguous"):
        device.to_host(array[::2], host[:5], "reading")


def test_backends_of_a_process_share_the_stream_and_the_pool(backend):
    other = get_backend("cupy")
    assert other.device.stream("compute") == backend.device.stream("compute")
    assert other.pool is backend.pool and other.device.identity == backend.device.identity


def test_a_helper_thread_is_bound(backend):
    current = backend.xp.cuda.get_current_stream

    def work():
        assert current().ptr != backend.device.stream("compute")
        backend.device.bind()
        assert current().ptr == backend.device.stream("compute")
        used = backend.pool.used
        array = backend.empty((1000,), "float64")
        assert backend.pool.used == used + 8192
        return array

    with ThreadPoolExecutor(1) as thread:
        used = backend.pool.used
        array = thread.submit(work).result(20)
    assert backend.pool.used == used + 8192
    del array
    assert backend.pool.used == used


def test_the_pool_counts(backend):
    pool = backend.pool
    pool.peak = used = pool.used
    arrays = [backend.empty((n,), "float32") for n in (1, 1000, 0)]
    assert pool.used == used + 512 + 4096
    del arrays
    assert (pool.used, pool.peak) == (used, used + 512 + 4096)
    taken, times = pool.taken, pool.allocations
    assert backend.empty((1000,), "float32").size and (pool.taken, pool.allocations) == (taken, times)
    large = backend.empty((3 << 22,), "float64")
    assert pool.taken - taken >= large.nbytes and pool.allocations == times + 1


def test_memory_that_runs_out(backend):
    told = r"out of memory: arrays hold .* GiB are free: use a smaller --batch"
    with pytest.raises(UserError, match=told), backend.mistakes():
        backend.empty((1 << 50,), "float64")


def test_a_room_brings_every_batch_once_and_whole(backend):
    """While the device still computes with the last one, and with a host that writes as early as it may."""
    buffer, feed = make_buffer(backend, (50, 7), "float64"), backend.zeros((50, 7), "float64")
    totals, reader = backend.zeros((8,), "float64"), ThreadPoolExecutor(1, initializer=backend.device.bind)

    def read(step):
        buffer.open()[...] = step
        buffer.send()

    reader.submit(read, 0).result(20)
    for step in range(8):
        buffer.load(feed)
        coming = reader.submit(read, step + 1)
        totals[step : step + 1] = feed.sum()
        coming.result(20)
    reader.shutdown()
    np.testing.assert_array_equal(backend.to_host(totals), 350.0 * np.arange(8))


def test_the_host_waits_for_nothing_while_it_loads(backend, standin):
    buffer, feed = make_buffer(backend, (5,), "float64"), backend.zeros((5,), "float64")
    buffer.put(np.arange(5.0))
    with standin.standin.record() as told:
        buffer.send()
        buffer.load(feed)
    assert told and not [entry for entry in told if entry.stream == -1]
    np.testing.assert_array_equal(backend.to_host(feed), np.arange(5.0))


def test_pinned_memory_lives_as_long_as_views_of_it(backend):
    first = backend.device.pinned(64).view("int64").reshape(2, 4)
    second = backend.device.pinned(64)
    assert first.ctypes.data != second.ctypes.data
