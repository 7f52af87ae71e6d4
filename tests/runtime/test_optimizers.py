from __future__ import annotations

import numpy as np
import pytest
import torch
from backends import make_backend

from gridnn.errors import UserError
from gridnn.runtime.optimizers import SGD, AdamW
from gridnn.train.config import RunConfig
from gridnn.train.setup import make_optimizer

SIZE = 40_001  # more than one chunk of the kernels, and odd


def trajectory(optimizer, dtype="float64", steps=10):
    """The values after every step, and after every step of PyTorch's optimizer on the same gradients."""
    random = np.random.default_rng(1)
    backend = make_backend()
    start = random.standard_normal(SIZE).astype(dtype)
    theirs = torch.nn.Parameter(torch.from_numpy(start.copy()))
    values = backend.asarray(start)
    reference = torch_optimizer(optimizer, theirs)
    state = optimizer.start(backend, SIZE, dtype)
    for step in range(steps):
        kept, lr = random.standard_normal(SIZE).astype(dtype), 0.1 / (step + 1)
        gradients = backend.asarray(kept.copy())
        state.update(values, gradients, lr)
        np.testing.assert_array_equal(backend.to_host(gradients), kept)
        reference.param_groups[0]["lr"] = lr
        theirs.grad = torch.from_numpy(kept)
        reference.step()
        yield backend.to_host(values), theirs.detach().numpy()


def torch_optimizer(optimizer, parameter):
    if isinstance(optimizer, SGD):
        options = {"momentum": optimizer.momentum, "nesterov": optimizer.nesterov}
        return torch.optim.SGD([parameter], weight_decay=optimizer.weight_decay, **options)
    betas = (optimizer.beta1, optimizer.beta2)
    return torch.optim.AdamW([parameter], betas=betas, eps=optimizer.eps, weight_decay=optimizer.weight_decay)


@pytest.mark.parametrize(
    "optimizer",
    [
        SGD(),
        SGD(weight_decay=0.1),
        SGD(momentum=0.9),
        SGD(momentum=0.9, weight_decay=0.01),
        SGD(momentum=0.8, nesterov=True, weight_decay=0.01),
        AdamW(),
        AdamW(beta1=0.8, beta2=0.95, eps=1e-3, weight_decay=0.1),
    ],
    ids=str,
)
def test_follows_pytorch(optimizer):
    for ours, theirs in trajectory(optimizer):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("optimizer", [SGD(momentum=0.9, nesterov=True), AdamW()], ids=str)
def test_float32(optimizer):
    for ours, theirs in trajectory(optimizer, "float32", steps=3):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_state_holds_what_a_checkpoint_needs():
    backend = make_backend()
    assert SGD().start(backend, 5, "float32").arrays == {}
    assert set(SGD(momentum=0.5).start(backend, 5, "float32").arrays) == {"momentum"}
    state = AdamW().start(backend, 5, "float32")
    state.update(backend.zeros((5,), "float32"), backend.full((5,), 1.0, "float32"), 0.1)
    assert (set(state.arrays), state.step) == ({"first_moment", "second_moment"}, 1)


@pytest.mark.parametrize("size", [0, 1])
@pytest.mark.parametrize("optimizer", [SGD(momentum=0.9), AdamW()], ids=str)
def test_a_rank_with_few_parameters_or_none(optimizer, size):
    backend = make_backend()
    values, gradients = (backend.full((size,), 1.0, "float64") for _ in range(2))
    optimizer.start(backend, size, "float64").update(values, gradients, 0.1)
    assert (backend.to_host(values) < 1).all()


def test_refused():
    with pytest.raises(UserError, match="nesterov needs momentum, but momentum = 0"):
        SGD(nesterov=True)
    with pytest.raises(UserError, match="unknown optimizer 'adam': did you mean adamw"):
        make_optimizer(RunConfig.of(optimizer="adam").train)
