"""What only a GPU can show: its libraries' numbers, captures, and transports between its arrays (``make test-gpu``).

On the stand-in the same tests run, without those that want the real libraries.
"""

from __future__ import annotations

import numpy as np
import pytest
from backends import make_backend, on_backend, transport_name
from running import LENET, job_of, same, trained
from transports import moves, sums

from gridnn.kernels import get_backend
from gridnn.train.session import Session

pytestmark = pytest.mark.gpu

# Of the largest number of a product of 16 or 32 bits, in units of its type: it is rounded once.
ROUNDED = {"float64": 1e-14, "float32": 2e-6, "float16": 1e-3, "bfloat16": 8e-3}
TF32 = 2e-3  # the factors have 10 bits after the point


@pytest.fixture
def hardware(cupy):
    """CuPy on a GPU."""
    if getattr(cupy, "is_standin", False):
        pytest.skip("the stand-in has not the library")
    return cupy


def factors(backend, dtype, m=96, k=257, n=130):
    """Two matrices of a type, as device arrays, and their product in float64."""
    rng, kind = np.random.default_rng(1), backend.dtype(dtype)
    a, b = (rng.normal(size=shape).astype(np.float32).astype(kind) for shape in ((m, k), (k, n)))
    return backend.asarray(a), backend.asarray(b), a.astype(np.float64) @ b.astype(np.float64)


def error(backend, got, wanted) -> float:
    return np.abs(backend.to_host(got).astype(np.float64) - wanted).max() / np.abs(wanted).max()


# -- numbers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ROUNDED)
def test_products(dtype):
    backend = make_backend(dtype)
    a, b, wanted = factors(backend, dtype)
    out = backend.empty(wanted.shape, dtype)
    backend.kernels.matmul(a, b, out)
    assert error(backend, out, wanted) < ROUNDED[dtype]


def test_tf32_rounds_factors(hardware):
    """On GPUs that have it (compute capability 8.0 on), and only where it was asked for."""
    if int(hardware.cuda.Device().compute_capability) < 80:
        pytest.skip("this GPU has no TF32")
    found = {}
    for tf32 in (False, True):
        backend = get_backend("cupy", tf32=tf32)
        a, b, wanted = factors(backend, "float32", 512, 1024, 512)
        out = backend.empty(wanted.shape, "float32")
        backend.kernels.matmul(a, b, out)
        found[tf32] = error(backend, out, wanted)
    assert found[False] < ROUNDED["float32"] < found[True] < TF32


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_epilogues_of_cublaslt(hardware, dtype):
    pytest.importorskip("nvmath")
    backend = make_backend(dtype)
    kernels, kind, wide = backend.kernels, backend.dtype(dtype), backend.wide(dtype)
    assert hasattr(kernels, "cublaslt"), "nvmath-python is installed, and not used"
    x, w, _ = factors(backend, dtype, 64, 128, 256)
    host = [backend.to_host(array).astype(np.float64) for array in (x, w)]
    bias = np.random.default_rng(2).normal(size=256).astype(np.float32)
    wanted = np.maximum(host[0] @ host[1] + bias, 0)
    out, db, dw = backend.empty((64, 256), kind), backend.empty((256,), wide), backend.empty((128, 256), wide)
    for _ in range(2):  # planned at the first call, used again at the second
        kernels.linear(x, w, backend.asarray(bias), "relu", out, True)
        kernels.linear_grad_weight(x, out, dw, db)
    y = backend.to_host(out).astype(np.float64)
    assert error(backend, out, wanted) < ROUNDED[dtype]
    assert error(backend, dw, host[0].T @ y) < ROUNDED[dtype] and error(backend, db, y.sum(0)) < ROUNDED[dtype]


# -- order and memory ----------------------------------------------------------------------------------------------


def test_kernels_are_captured(cupy):
    """A product and what follows it, replayed with other numbers in the same arrays."""
    backend = make_backend()
    kernels, stream = backend.kernels, cupy.cuda.get_current_stream()
    a, b, wanted = factors(backend, "float32")
    out, bias = backend.empty(wanted.shape, "float32"), backend.zeros((wanted.shape[1],), "float32")

    def part():
        kernels.matmul(a, b, out)
        kernels.bias_activation(out, bias, "relu", out)

    part()  # compiles
    backend.synchronize()
    before = backend.pool.allocations
    stream.begin_capture()
    part()
    graph = stream.end_capture()
    for factor in (1.0, -2.0):
        a *= factor
        graph.launch(stream)
        wanted = wanted * factor
        assert error(backend, out, np.maximum(wanted, 0)) < ROUNDED["float32"]
    assert backend.pool.allocations == before


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_no_memory_is_taken_after_the_first_steps(comm, dtype):
    config = LENET.replaced(backend="cupy", transport="auto", grid="1x1", dtype=dtype)
    session = Session(config, job_of(comm))
    pool, counts = session.grid.backend.pool, []
    for number in range(1, 6):
        session.step(np.arange(13) + number, number, np.arange(13) + number + 1)
        counts.append((pool.allocations, pool.taken))
    assert len(set(counts[1:])) == 1, counts


# -- between ranks -------------------------------------------------------------------------------------------------


class Place:
    """Arrays of CuPy for the operations of `test_transports`."""

    def __init__(self, backend):
        self.backend, self.name = backend, transport_name()

    def array(self, values):
        source = self.backend.asarray(values)
        array = self.backend.zeros(values.shape, values.dtype)
        array[...] = source  # a kernel of the compute stream has written it
        return array

    def read(self, array):
        return self.backend.to_host(array)


@pytest.mark.mpi
@pytest.mark.parametrize("at_once", [True, False])
def test_every_operation_of_the_transport(comm, at_once):
    if transport_name() == "auto":
        pytest.skip("give --transport")
    options = on_backend()
    place, transport = Place(options["backend"]), options["transports"].make(comm.Dup(), range(comm.size))
    for dtype in ("float32", "float64"):
        sums(comm, place, transport, dtype, at_once)
    for dtype in ("float32", "uint16"):
        moves(comm, place, transport, dtype, at_once)
    assert transport.name == transport_name() or comm.size == 1
    assert (transport.copied_to_host > 0) == (transport.name == "host")
    transport.free()


@pytest.mark.mpi
def test_training_by_the_transport(comm):
    """The losses of one rank of NumPy, in float64."""
    from mpi4py import MPI

    reference = trained(LENET.replaced(backend="numpy", transport="auto", epochs=1), MPI.COMM_SELF)
    for grid in dict.fromkeys((f"1x{comm.size}", f"{comm.size}x1")):
        config = LENET.replaced(backend="cupy", grid=grid, replicas=True, strategy="grid", epochs=1)
        same(trained(config, comm), reference, grid)
