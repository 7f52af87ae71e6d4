"""Products on the GPU, on the stand-in for CuPy: which part of which matrix, in which order, with which type."""

import numpy as np
import pytest

TOLERANCES = {"float64": 1e-13, "float32": 1e-6, "float16": 2e-3, "bfloat16": 2e-2}


@pytest.fixture
def cublas(cupy):
    from gridnn.kernels.cuda.cublas import Cublas

    return Cublas(cupy, cupy.cuda.get_current_stream().ptr)


def device(cupy, host, dtype):
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    return cupy.asarray(np.asarray(host).astype(dtype))


def host(cupy, array):
    return cupy.asnumpy(array).astype(np.float64)


def turned(cupy, values, dtype):
    """The matrix in column-major order."""
    return device(cupy, np.ascontiguousarray(values.T), dtype).T


def part(cupy, values, dtype):
    """The matrix as a part of a larger one."""
    whole = np.full((values.shape[0] + 3, values.shape[1] + 5), 7.0)
    whole[2:-1, 1:-4] = values
    return device(cupy, whole, dtype)[2:-1, 1:-4]


LAYOUTS = {"rows": device, "columns": turned, "part": part}


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("second", LAYOUTS)
@pytest.mark.parametrize("first", LAYOUTS)
@pytest.mark.parametrize("shape", [(5, 7, 3), (1, 4, 6), (4, 1, 5), (6, 5, 1), (1, 1, 1)])
def test_product(cupy, cublas, shape, first, second, dtype):
    m, k, n = shape
    rng = np.random.default_rng(0)
    x, y, old = rng.standard_normal((m, k)), rng.standard_normal((k, n)), rng.standard_normal((m, n))
    a, b = LAYOUTS[first](cupy, x, dtype), LAYOUTS[second](cupy, y, dtype)
    expected = host(cupy, a) @ host(cupy, b)
    for layout in LAYOUTS.values():
        out = layout(cupy, old, dtype)
        before = host(cupy, out)
        cublas.multiply(a, b, out)
        np.testing.assert_allclose(host(cupy, out), expected, rtol=TOLERANCES[dtype], atol=4 * TOLERANCES[dtype])
        out[...] = device(cupy, before, dtype)
        cublas.multiply(a, b, out, accumulate=True)
        sums = before + expected
        np.testing.assert_allclose(host(cupy, out), sums, rtol=TOLERANCES[dtype], atol=8 * TOLERANCES[dtype])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sixteen_bits_add_up_in_float32(cupy, cublas, dtype):
    ones = device(cupy, np.ones((1, 5000)), dtype)
    out = cupy.empty((1, 1), "float32")
    cublas.multiply(ones, ones.T, out)
    assert host(cupy, out) == 5000  # in float16 the sum would stop at 2048


def test_a_part_leaves_the_rest_alone(cupy, cublas):
    whole = cupy.full((6, 8), 9.0, "float32")
    cublas.multiply(cupy.ones((2, 3), "float32"), cupy.ones((3, 4), "float32"), whole[1:3, 2:6])
    values = host(cupy, whole)
    assert (values[1:3, 2:6] == 3).all() and (values == 9).sum() == 6 * 8 - 8


@pytest.mark.parametrize("shape", [(0, 3, 2), (2, 3, 0), (2, 0, 3)])
def test_empty(cupy, cublas, shape):
    m, k, n = shape
    out = cupy.ones((m, n), "float32")
    a, b = cupy.ones((m, k), "float32"), cupy.ones((k, n), "float32")
    cublas.multiply(a, b, out, accumulate=True)
    assert (host(cupy, out) == 1).all()
    cublas.multiply(a, b, out)
    assert (host(cupy, out) == 0).all()


def test_shapes_that_do_not_fit(cupy, cublas):
    a, b = cupy.ones((2, 3), "float32"), cupy.ones((4, 5), "float32")
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(4, 5\) into \(2, 5\)"):
        cublas.multiply(a, b, cupy.ones((2, 5), "float32"))


def test_rows_with_gaps_are_refused(cupy, cublas):
    gaps = cupy.ones((4, 6), "float32")[::1, ::2]
    with pytest.raises(ValueError, match="neither rows nor columns are contiguous"):
        cublas.multiply(gaps, cupy.ones((3, 2), "float32"), cupy.ones((4, 2), "float32"))


def test_a_failed_call_is_named(cupy, cublas, monkeypatch):
    from gridnn.kernels.cuda.cublas import CublasError

    monkeypatch.setattr(cublas._library, "cublasGemmEx_64", lambda *_: 13, raising=False)
    one = cupy.ones((1, 1), "float32")
    with pytest.raises(CublasError, match=r"cublasGemmEx_64: status 13 \(EXECUTION_FAILED\)"):
        cublas.multiply(one, one, one.copy())


def test_sums_of_16_bits_are_not_rounded_on_the_way(cupy, cublas):
    """cuBLAS may divide a sum and round its parts to 16 bits, if it is not told otherwise."""
    a, b = device(cupy, [[256, 1, -256, 0]], "bfloat16"), device(cupy, np.ones((4, 1)), "bfloat16")
    out = device(cupy, [[0]], "bfloat16")
    cublas.multiply(a, b, out)
    assert host(cupy, out) == 1
