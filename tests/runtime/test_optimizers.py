from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from backends import make_backend

from gridnn.errors import UserError
from gridnn.runtime.optimizers import SGD, AdamW, ParameterGroup
from gridnn.train.config import RunConfig
from gridnn.train.setup import make_optimizer

SIZE = 40_001  # more than one chunk of the kernels, and odd


def flat(backend, size, dtype, **spans):
    """Parameters as an optimizer sees them: one of ``size``, or of ``spans``."""
    spans = spans or {"fc.weight": slice(0, size)}
    return SimpleNamespace(
        backend=backend, values=backend.zeros((size,), dtype), wide=backend.dtype(dtype), spans=lambda: spans
    )


def trajectory(optimizer, dtype="float64", steps=10):
    """The values after every step, and after every step of PyTorch's optimizer on the same gradients."""
    random = np.random.default_rng(1)
    backend = make_backend()
    start = random.standard_normal(SIZE).astype(dtype)
    theirs = torch.nn.Parameter(torch.from_numpy(start.copy()))
    values = backend.asarray(start)
    reference = torch_optimizer(optimizer, theirs)
    state = optimizer.start(flat(backend, SIZE, dtype))
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
    assert SGD().start(flat(backend, 5, "float32")).arrays == {}
    assert set(SGD(momentum=0.5).start(flat(backend, 5, "float32")).arrays) == {"momentum"}
    state = AdamW().start(flat(backend, 5, "float32"))
    state.update(backend.zeros((5,), "float32"), backend.full((5,), 1.0, "float32"), 0.1)
    assert (set(state.arrays), state.step) == ({"first_moment", "second_moment"}, 1)


@pytest.mark.parametrize(
    "optimizer", [SGD(momentum=0.9, weight_decay=0.1), AdamW(weight_decay=0.1)], ids=lambda one: type(one).__name__
)
def test_groups_follow_those_of_pytorch(optimizer):
    """A tenth of the rate for one layer, no decay for biases; a parameter is of the first group that names it."""
    groups = (ParameterGroup(("first.*",), lr=0.1), ParameterGroup(("*.bias",), weight_decay=0.0))
    spans = {
        name: slice(10 * n, 10 * n + 10)
        for n, name in enumerate(("last.weight", "last.bias", "more.bias", "first.bias", "first.weight"))
    }
    backend, random = make_backend(), np.random.default_rng(3)
    state = replace(optimizer, groups=groups).start(flat(backend, 50, "float64", **spans))
    assert [(place.start, place.stop) for place, *_ in state.ranges] == [(0, 10), (10, 30), (30, 50)]
    values = backend.asarray(random.standard_normal(50))
    parts = [
        torch.nn.Parameter(torch.from_numpy(backend.to_host(values)[a:b].copy()))
        for a, b in ((0, 10), (10, 30), (30, 50))
    ]
    theirs = torch_optimizer(optimizer, parts[0])
    theirs.add_param_group({**theirs.defaults, "params": [parts[1]], "weight_decay": 0.0})
    theirs.add_param_group({**theirs.defaults, "params": [parts[2]], "weight_decay": optimizer.weight_decay})
    for _ in range(5):
        kept = random.standard_normal(50)
        state.update(values, backend.asarray(kept), 0.1)
        for group, rate in zip(theirs.param_groups, (0.1, 0.1, 0.01), strict=True):
            group["lr"] = rate
        for part, (a, b) in zip(parts, ((0, 10), (10, 30), (30, 50)), strict=True):
            part.grad = torch.from_numpy(kept[a:b])
        theirs.step()
    np.testing.assert_allclose(
        backend.to_host(values), np.concatenate([part.detach().numpy() for part in parts]), rtol=1e-12, atol=1e-14
    )
    with pytest.raises(UserError, match=r"group second\.\*: no parameter has such a name, as last.weight"):
        replace(optimizer, groups=(ParameterGroup(("second.*",)),)).start(flat(backend, 50, "float64", **spans))


@pytest.mark.parametrize("size", [0, 1])
@pytest.mark.parametrize("optimizer", [SGD(momentum=0.9), AdamW()], ids=str)
def test_a_rank_with_few_parameters_or_none(optimizer, size):
    backend = make_backend()
    values, gradients = (backend.full((size,), 1.0, "float64") for _ in range(2))
    optimizer.start(flat(backend, size, "float64")).update(values, gradients, 0.1)
    assert (backend.to_host(values) < 1).all()


def test_refused():
    with pytest.raises(UserError, match="nesterov needs momentum, but momentum = 0"):
        SGD(nesterov=True)
    with pytest.raises(UserError, match="unknown optimizer 'adam': did you mean adamw"):
        make_optimizer(RunConfig.of(optimizer="adam").train)
