"""cuBLASLt's epilogues through nvmath-python: what is asked of it, and what is left to cuBLAS.

nvmath is a fake here, which refuses what the real one refuses; its signatures are compared with the real ones where
those are installed.
"""

import ast
import importlib.util
import inspect
from itertools import product
from pathlib import Path

import fake_nvmath
import numpy as np
import pytest
from running import MLP, trained

from gridnn.errors import UserError
from gridnn.kernels import get_backend
from gridnn.kernels.cuda import cublaslt as nvmath_linear

TOLERANCES = {"float32": 2e-6, "float16": 3e-3, "bfloat16": 3e-2}


@pytest.fixture
def log(standin, monkeypatch):
    return fake_nvmath.install(monkeypatch)


def device(backend, values, dtype):
    return backend.asarray(np.asarray(values).astype(backend.dtype(dtype)))


def host(backend, array):
    return backend.to_host(array).astype(np.float64)


def layer(backend, dtype, n=13, ci=22, co=37):
    rng = np.random.default_rng(3)
    shapes = (n, ci), (ci, co), (n, co)
    return (*(device(backend, rng.standard_normal(shape), dtype) for shape in shapes), rng.standard_normal(co))


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_forward(log, dtype):
    backend, error = get_backend("cupy"), TOLERANCES[dtype]
    x, w, out, values = layer(backend, dtype)
    bias = device(backend, values, "float32")
    for added, activation, masked in product((None, bias), ("none", "relu", "tanh"), (False, True)):
        log.clear()
        out[...] = np.nan
        mask = backend.kernels.linear(x, w, added, activation, out, masked)
        expected = host(backend, x) @ host(backend, w) + (0 if added is None else host(backend, bias))
        expected = {"none": expected, "relu": np.maximum(expected, 0), "tanh": np.tanh(expected)}[activation]
        np.testing.assert_allclose(host(backend, out), expected, rtol=error, atol=8 * error)
        masked = masked and activation == "relu"
        words = ["RELU"] * (activation == "relu") + ["AUX"] * masked + ["BIAS"] * (added is not None)
        assert log == (["_".join(words)] if words and activation != "tanh" else [])
        assert (mask is not None) == masked


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_gradients(log, dtype):
    backend = get_backend("cupy")
    kernels = backend.kernels
    x, w, y, bias = layer(backend, dtype)
    mask = kernels.linear(x, w, device(backend, bias, "float32"), "relu", y, True)
    _, second, dy, _ = layer(backend, dtype, ci=37, co=11)  # the next layer
    dx = backend.empty(y.shape, y.dtype)
    kernels.linear_grad_input(dy, second, "relu", y, mask, dx)
    expected = host(backend, dy) @ host(backend, second).T * (host(backend, y) > 0)
    np.testing.assert_allclose(host(backend, dx), expected, rtol=TOLERANCES[dtype], atol=8 * TOLERANCES[dtype])
    dw, db = backend.empty(w.shape, "float32"), backend.empty(bias.shape, "float32")
    kernels.linear_grad_weight(x, dx, dw, db)
    np.testing.assert_allclose(host(backend, dw), host(backend, x).T @ host(backend, dx), rtol=2e-6, atol=2e-5)
    np.testing.assert_allclose(host(backend, db), host(backend, dx).sum(axis=0), rtol=2e-6, atol=2e-5)
    assert log == ["RELU_AUX_BIAS", "DRELU", "BGRADA"]


def test_what_is_left_to_cublas(log):
    """By type, extents, alignment and layout, without asking cuBLASLt."""
    backend = get_backend("cupy")
    run = backend.kernels.linear
    for dtype, sizes in (("float64", {}), ("float32", {"n": 1}), ("float32", {"ci": 1}), ("float32", {"co": 1})):
        x, w, out, bias = layer(backend, dtype, **sizes)
        run(x, w, device(backend, bias, dtype), "relu", out)
        expected = np.maximum(host(backend, x) @ host(backend, w) + bias, 0)
        np.testing.assert_allclose(host(backend, out), expected, rtol=1e-5, atol=1e-5)
    x, w, out, bias = layer(backend, "float32")
    bias = device(backend, bias, "float32")
    flat = backend.empty((out.size + 1,), "float32")
    run(x, w, bias, "relu", flat[1:].reshape(out.shape))  # as gradients may lie
    run(x, w, bias, "relu", backend.empty(out.shape[::-1], "float32").T)
    assert log == []
    run(x, w, bias, "relu", out)
    np.testing.assert_allclose(host(backend, flat)[1:], host(backend, out).ravel(), rtol=1e-6, atol=1e-6)
    assert log == ["RELU_BIAS"]


def test_a_refusal_is_told_once(standin, monkeypatch):
    log = fake_nvmath.install(monkeypatch, refuse=("RELU_BIAS",))
    backend = get_backend("cupy")
    x, w, out, bias = layer(backend, "float32")
    bias = device(backend, bias, "float32")
    with pytest.warns(RuntimeWarning, match=r"no RELU_BIAS for float32 \(37, 22\) x \(22, 13\): cuBLAS and one more"):
        backend.kernels.linear(x, w, bias, "relu", out)
    backend.kernels.linear(x, w, bias, "relu", out)
    expected = np.maximum(host(backend, x) @ host(backend, w) + host(backend, bias), 0)
    np.testing.assert_allclose(host(backend, out), expected, rtol=1e-5, atol=1e-5)
    assert log == []


def test_other_errors_are_not_swallowed(standin, monkeypatch):
    fake_nvmath.install(monkeypatch)
    backend = get_backend("cupy")

    def broken(*args, **options):
        raise fake_nvmath.cuBLASLtError(14)

    monkeypatch.setattr(fake_nvmath.Matmul, "plan", broken)
    x, w, out, bias = layer(backend, "float32")
    with pytest.raises(fake_nvmath.cuBLASLtError):
        backend.kernels.linear(x, w, device(backend, bias, "float32"), "relu", out)


def test_nothing_is_kept_or_taken_after_the_first_call(log):
    backend = get_backend("cupy")
    x, w, out, bias = layer(backend, "float32")
    bias = device(backend, bias, "float32")
    backend.kernels.linear(x, w, bias, "relu", out)
    pool = backend.pool
    used, times = pool.used, pool.allocations
    y = backend.empty(out.shape, out.dtype)
    backend.kernels.linear(x, w, bias, "relu", y)
    assert pool.allocations == times
    size = pool.used - used
    del y
    assert pool.used == used and size > 0


def test_a_bias_that_vectors_cannot_load(log):
    backend = get_backend("cupy")
    x, w, out, values = layer(backend, "float32")
    flat = device(backend, [0, *values], "float32")
    results = []
    for bias in (flat[1:], flat[1:] + 0):
        backend.kernels.linear(x, w, bias, "none", out)
        results.append(host(backend, out))
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_run_with_epilogues_is_a_run_without(standin, monkeypatch, comm, dtype):
    if comm.size > 1:
        pytest.skip("on one rank")
    config = MLP.replaced(backend="cupy", dtype=dtype, dropout=0.0, steps=3, widths="24,16,9")
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    plain = trained(config, comm)
    log = fake_nvmath.install(monkeypatch)
    told = trained(config, comm)
    np.testing.assert_allclose(told.curve, plain.curve, rtol=1e-5 if dtype == "float32" else 3e-2)
    assert {"RELU_AUX_BIAS", "DRELU"} <= set(log)
    assert "nvmath-python 1.0.0 (linear layers" in get_backend("cupy").kernels.described(dtype)
    assert "nvmath" not in get_backend("cupy").kernels.described("float64")


def test_installed_but_broken(standin, monkeypatch):
    fake_nvmath.install(monkeypatch)

    def broken(name):
        raise ImportError("libcublasLt.so.12: no such file")

    monkeypatch.setattr(nvmath_linear, "import_module", broken)
    with pytest.raises(UserError, match=r"cannot be imported \(libcublasLt.so.12: no such file\): pip install 'gridnn"):
        get_backend("cupy")


def test_the_fake_has_the_real_signatures():
    found = importlib.util.find_spec("nvmath")
    if found is None:
        pytest.skip("nvmath-python is not installed")
    source = Path(found.submodule_search_locations[0], "linalg", "advanced", "matmulmod.py").read_text()
    (real,) = (node for node in ast.parse(source).body if getattr(node, "name", "") == "Matmul")
    methods = {node.name: node.args for node in real.body if isinstance(node, ast.FunctionDef)}
    for name in ("__init__", "plan", "reset_operands_unchecked", "execute", "release_operands", "free"):
        args = methods[name]
        written = [[arg.arg for arg in group] for group in (args.posonlyargs, args.args, args.kwonlyargs)]
        mine = inspect.signature(getattr(fake_nvmath.Matmul, name)).parameters.values()
        kinds = (
            inspect.Parameter.POSITIONAL_ONLY,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            inspect.Parameter.KEYWORD_ONLY,
        )
        assert written == [[p.name for p in mine if p.kind == kind] for kind in kinds], name
