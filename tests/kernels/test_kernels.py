"""Local kernels and backends: what the layers' tests do not see."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torches import close

from gridnn.errors import UserError
from gridnn.kernels import NumpyBackend, get_backend
from gridnn.kernels.reference.elementwise import erf
from gridnn.kernels.tiles import chunks, tiles

BACKEND = NumpyBackend()
KERNELS = BACKEND.kernels


# -- backends --------------------------------------------------------------------------------------------------


def test_get_backend():
    assert get_backend("numpy").name == "numpy"
    with pytest.raises(UserError, match=r"unknown backend 'cuda'.*numpy, cupy"):
        get_backend("cuda")


def test_crossing_the_border():
    host = np.arange(6.0).reshape(2, 3)
    array = BACKEND.zeros((2, 3), "float32")
    BACKEND.from_host(host, array)
    assert (BACKEND.to_host(array) == host).all()
    assert BACKEND.host_view(array) is array and BACKEND.asarray(host) is host
    with pytest.raises(ValueError, match=r"host shape \(3,\) != device shape \(2, 3\)"):
        BACKEND.from_host(host[0], array)
    with pytest.raises(ValueError, match="not contiguous"):
        BACKEND.host_view(array[:, 1:])
    BACKEND.synchronize()


def test_workspace_is_reused():
    assert BACKEND.workspace("float32") is BACKEND.workspace("float32")
    assert BACKEND.workspace(np.dtype("float32")).nbytes == BACKEND.workspace("float64").nbytes == 4 << 20


# -- walks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fit", [0, 1, 3, 5, 12, 20, 23, 45, 100])
def test_tiles_cover_once_in_runs_of_rows(fit):
    space = np.arange(3 * 4 * 5).reshape(3, 4, 5)
    seen = []
    for tile in tiles(space.shape, fit):
        part = space[tile].reshape(-1)
        assert 1 <= len(part) <= max(1, fit)
        assert (np.diff(part) == 1).all()
        seen.extend(part)
    assert seen == list(range(60))


def test_empty_walks():
    assert list(chunks(0, 5)) == [] and list(tiles((0, 3, 3), 100)) == [] and list(tiles((3, 0, 3), 100)) == []


# -- convolution -----------------------------------------------------------------------------------------------


def convolve(x, w, out, workspace=None):
    KERNELS.conv(x, w, (1, 1), (1, 1), out, BACKEND.workspace("float64") if workspace is None else workspace)
    return out


def test_a_frame_may_be_larger_than_the_windows():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 9, 8, 3))
    for kernel in (1, 3):
        w = rng.normal(size=(kernel, kernel, 3, 2))
        small = convolve(np.ascontiguousarray(x[:, : 4 + kernel, : 5 + kernel]), w, np.empty((2, 5, 6, 2)))
        close(convolve(x, w, np.empty((2, 5, 6, 2))), small)
        dx = np.full_like(x, np.nan)
        KERNELS.conv_grad_input(small, w, (1, 1), (1, 1), dx, BACKEND.workspace("float64"))
        assert np.isfinite(dx).all() and (dx[:, 4 + kernel :] == 0).all() and (dx[:, :, 5 + kernel :] == 0).all()


def test_no_outputs_here():
    x, w, out = np.zeros((2, 0, 4, 3)), np.ones((3, 3, 3, 2)), np.zeros((2, 0, 2, 2))
    convolve(x, w, out)
    dw, dx = np.full(w.shape, np.nan), np.full((2, 1, 4, 3), np.nan)
    KERNELS.conv_grad_weight(x, out, (1, 1), (1, 1), dw, BACKEND.workspace("float64"))
    KERNELS.conv_grad_input(out, w, (1, 1), (1, 1), dx, BACKEND.workspace("float64"))
    assert (dw == 0).all() and (dx == 0).all()


def test_what_a_convolution_refuses():
    w = np.ones((3, 3, 3, 2))
    with pytest.raises(ValueError, match=r"3 windows over h need \(3 - 1\) \* 1 \+ \(3 - 1\) \* 1 \+ 1 = 5 elements"):
        convolve(np.zeros((1, 4, 5, 3)), w, np.zeros((1, 3, 3, 2)))
    with pytest.raises(ValueError, match="workspace of 20 elements"):
        convolve(np.zeros((1, 5, 5, 3)), w, np.zeros((1, 3, 3, 2)), np.zeros(20))
    with pytest.raises(ValueError, match="rows are not evenly spaced"):
        dw, dy = np.zeros((3, 4, 3, 2))[:, :3], np.zeros((1, 3, 3, 2))
        KERNELS.conv_grad_weight(np.zeros((1, 5, 5, 3)), dy, (1, 1), (1, 1), dw, np.zeros(1000))


@pytest.mark.parametrize("shape", [(3, 3, 20, 16), (1, 1, 300, 40), (5, 2, 7, 3)])
def test_weight_gradient_in_blocks(shape):
    """Blocks of all taps, of a line and of one tap, and results wider than the workspace, agree."""
    rng = np.random.default_rng(1)
    kh, kw, c, k = shape
    x, dy = rng.normal(size=(3, 8, 9, c)), rng.normal(size=(3, 8 - kh + 1, 9 - kw + 1, k))
    wanted = np.zeros(shape)
    for i in range(kh):
        for j in range(kw):
            part = x[:, i : i + dy.shape[1], j : j + dy.shape[2]]
            wanted[i, j] = np.einsum("nhwc,nhwk->ck", part, dy)
    for words in (2 * kh * kw * c, 1000, 4000, 100_000):
        got = np.full(shape, np.nan)
        KERNELS.conv_grad_weight(x, dy, (1, 1), (1, 1), got, np.empty(max(words, 2 * kh * kw * c)))
        close(got, wanted)


# -- element by element ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_erf(dtype):
    x = np.concatenate([np.linspace(-7, 7, 20_001), [0.0, -0.0, 1, -1, 1e-300, 1e30, -1e30, np.inf, -np.inf, np.nan]])
    x = x.astype(dtype)
    out = erf(np, x)
    assert out.dtype == dtype
    wanted = np.array([math.erf(v) for v in x])
    np.testing.assert_allclose(out, wanted, rtol=0, atol=5e-16 if dtype == "float64" else 2e-7)
    small = np.abs(x) < 0.1
    np.testing.assert_allclose(out[small], wanted[small], rtol=1e-15 if dtype == "float64" else 4e-7)


def test_gelu_of_large_numbers():
    x = np.array([-1e30, -50, 50, 1e30], np.float32)
    for approximate in ("none", "tanh"):
        y, slope = np.empty_like(x), np.empty_like(x)
        KERNELS.gelu(x, y, slope, approximate)
        assert (y == np.maximum(x, 0)).all() and (slope == [0, 0, 1, 1]).all()


def test_sum_rows_in_float32():
    x = np.random.default_rng(2).uniform(0.9, 1.1, size=(300, 33, 31, 2)).astype(np.float32)
    out = np.empty(2, np.float32)
    KERNELS.sum_rows(x, out)
    np.testing.assert_allclose(out, x.astype(np.float64).sum(axis=(0, 1, 2)), rtol=3e-6)


# -- updates ---------------------------------------------------------------------------------------------------


def against_torch(make, update, steps=4, size=100):
    """Runs ``update(p, g, step)`` beside PyTorch's optimizer; the scratch is far smaller than the parameters."""
    rng = np.random.default_rng(3)
    p = rng.normal(size=size)
    tp = torch.from_numpy(p.copy()).requires_grad_()
    optimizer = make([tp])
    for step in range(1, steps + 1):
        g = rng.normal(size=size)
        tp.grad = torch.from_numpy(g.copy())
        optimizer.step()
        kept = g.copy()
        update(p, g, step)
        assert (g == kept).all()
        close(p, tp)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
@pytest.mark.parametrize("scratch", [2, 14, 1000])
def test_sgd(momentum, nesterov, weight_decay, scratch):
    m = np.zeros(100) if momentum else None
    against_torch(
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay),
        lambda p, g, step: KERNELS.sgd(p, g, m, 0.1, momentum, nesterov, weight_decay, np.empty(scratch)),
    )


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adamw(weight_decay):
    m, v = np.zeros(100), np.zeros(100)
    against_torch(
        lambda p: torch.optim.AdamW(p, lr=0.1, betas=(0.8, 0.95), eps=1e-6, weight_decay=weight_decay),
        lambda p, g, step: KERNELS.adamw(p, g, m, v, step, 0.1, 0.8, 0.95, 1e-6, weight_decay, np.empty(14)),
    )
